"""The data plane is told whether a mesh's sidecar is in the Pod: what srcip does not intercept is left to that one."""

from copy import deepcopy
from typing import Any

import pytest

from srcip_webhook.mutate import consider
from srcip_webhook.policy import Inject
from srcip_webhook.ports import MESHES
from support.reviews import TRUSTING, pod

APP: dict[str, Any] = {"name": "app", "image": "a", "ports": [{"containerPort": 8000}]}


def has_mesh(**spec: Any) -> bool:
    decision = consider(pod(**spec), TRUSTING).decision
    assert isinstance(decision, Inject)
    return decision.plan.mesh


@pytest.mark.parametrize("name", MESHES)
def test_its_container_or_native_sidecar_is_known_by_name(name: str) -> None:
    mesh = {"name": name, "image": "m"}
    assert has_mesh(containers=[APP, mesh])
    assert has_mesh(containers=[APP], initContainers=[{**mesh, "restartPolicy": "Always"}])


def test_an_init_container_of_that_name_is_none() -> None:
    """It is gone when the application runs."""
    assert not has_mesh(containers=[APP], initContainers=[{"name": MESHES[0], "image": "m"}])
    assert not has_mesh(containers=[APP])


def test_a_mesh_that_comes_after_srcip_is_seen_when_the_webhook_is_asked_again() -> None:
    """`reinvocationPolicy: IfNeeded`: another webhook has added its sidecar meanwhile."""
    patched = deepcopy(consider(pod(containers=[APP]), TRUSTING).after)
    patched["spec"]["containers"].append({"name": MESHES[0], "image": "m"})
    again = consider(patched, TRUSTING)
    assert isinstance(again.decision, Inject)
    assert again.decision.plan.mesh
    assert [c["name"] for c in again.after["spec"]["containers"]] == ["app", MESHES[0]]
