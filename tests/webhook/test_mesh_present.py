"""The data plane is told whether a mesh's sidecar is in the Pod, and its user: what srcip does not intercept is left to
that one, and what that one opens."""

from copy import deepcopy
from typing import Any

import pytest

from srcip_proxy.plan import Plan, PortRange
from srcip_webhook.meshes import USERS
from srcip_webhook.mutate import consider
from srcip_webhook.policy import Inject
from support.reviews import TRUSTING, pod

APP: dict[str, Any] = {"name": "app", "image": "a", "ports": [{"containerPort": 8000}]}


MESH = next(iter(USERS))
TOLD = {"srcip.io/mesh-proxy-uids": "1500, 1337,1500"}
OUTBOUND = {"srcip.io/outbound-ports": "80", "srcip.io/set-forwarded-for": "default"}


def plan(annotations: dict[str, str] | None = None, **spec: Any) -> Plan:
    outcome = consider(pod(annotations=annotations or {}, **spec), TRUSTING)
    assert isinstance(outcome.decision, Inject), outcome.messages
    return outcome.decision.plan


def has_mesh(**spec: Any) -> bool:
    return plan(**spec).mesh


@pytest.mark.parametrize("name", [*USERS, "consul-dataplane-admin"])
def test_its_container_or_native_sidecar_is_known_by_name(name: str) -> None:
    """Consul has one for each Service of a Pod, with the Service's name behind the usual one."""
    mesh = {"name": name, "image": "m"}
    assert has_mesh(containers=[APP, mesh])
    assert has_mesh(containers=[APP], initContainers=[{**mesh, "restartPolicy": "Always"}])


@pytest.mark.parametrize(("name", "user"), USERS.items())
def test_its_user_is_the_one_it_states_or_the_usual_one(name: str, user: int) -> None:
    """A user that no container can have is the API server's to refuse."""
    for said, expected in ((None, user), (1_000_700, 1_000_700), (0, user), (-1, user)):
        mesh = {"name": name, "securityContext": {"runAsUser": said}}
        assert plan(containers=[APP, mesh]).mesh_proxy_uids == (expected,)


def test_a_mesh_of_another_name_is_known_by_the_user_that_an_annotation_names() -> None:
    """Its ports are left out as those of the others."""
    mesh = {"name": "home-made", "ports": [{"containerPort": 15090}], "securityContext": {"runAsUser": 1500}}
    found = plan(TOLD, containers=[APP, mesh])
    assert (found.mesh, found.mesh_proxy_uids) == (True, (1337, 1500))
    assert found.inbound_ports == (PortRange(8000, 8000),)


def test_a_mesh_without_a_container_can_be_told() -> None:
    """A CNI plugin may redirect to a proxy of which the Pod's spec has nothing."""
    found = plan(TOLD, containers=[APP])
    assert (found.mesh, found.mesh_proxy_uids, found.inbound_ports) == (True, (1337, 1500), (PortRange(8000, 8000),))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("0", "0 is root's, which any container may have"),
        ("7363", "7363 is srcip's own"),
        ("4294967295", "4294967295 is not between 1 and 4294967294"),
        ("envoy", '"envoy" is not a user ID'),
        ("01", '"01" is not a user ID'),
        ("1500,,2", '"1500,,2" has an empty item'),
        (",".join(map(str, range(1, 34))), "33 items"),
    ],
)
def test_users_that_cannot_be_a_meshs_are_refused(text: str, fault: str) -> None:
    (message,) = consider(pod(annotations={"srcip.io/mesh-proxy-uids": text}, containers=[APP]), TRUSTING).messages
    assert "srcip.io/mesh-proxy-uids" in message
    assert fault in message
    assert "user IDs from 1 to 4294967294" in message


def test_an_application_with_the_user_of_the_mesh_is_refused_where_it_would_send_without_headers() -> None:
    app = {**APP, "securityContext": {"runAsUser": 1337}}
    (message,) = consider(pod(annotations=OUTBOUND, containers=[app, {"name": MESH}]), TRUSTING).messages
    assert "runs as user 1337 (runAsUser in its securityContext)" in message
    assert "it would send without headers" in message
    assert plan(containers=[app, {"name": MESH}]).mesh


def test_an_init_container_of_that_name_is_none() -> None:
    """It is gone when the application runs."""
    assert not has_mesh(containers=[APP], initContainers=[{"name": MESH, "image": "m"}])
    assert not has_mesh(containers=[APP])


def test_a_mesh_that_comes_after_srcip_is_seen_when_the_webhook_is_asked_again() -> None:
    """`reinvocationPolicy: IfNeeded`: another webhook has added its sidecar meanwhile."""
    patched = deepcopy(consider(pod(containers=[APP]), TRUSTING).after)
    patched["spec"]["containers"].append({"name": MESH, "image": "m"})
    again = consider(patched, TRUSTING)
    assert isinstance(again.decision, Inject)
    assert again.decision.plan.mesh
    assert [c["name"] for c in again.after["spec"]["containers"]] == ["app", MESH]
