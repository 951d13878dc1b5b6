"""Another webhook takes `srcip.io/status` away and asks again: srcip knows its own by what it is."""

import copy
from collections.abc import Callable
from typing import Any

import jsonpatch
import pytest

from srcip_webhook.mutate import consider
from srcip_webhook.policy import Inject, Reason, Refuse, Skip
from srcip_webhook.settings import Settings
from support.reviews import SETTINGS, pod

STATUS = "srcip.io/status"
PROBED = {"readinessProbe": {"httpGet": {"path": "/", "port": "http"}}, "livenessProbe": {"tcpSocket": {"port": 80}}}
APP = {"name": "app", "image": "a", "ports": [{"name": "http", "containerPort": 80}], **PROBED}
MODES = ["tproxy", "redirect", "ebpf", "ebpf,tproxy"]


def stripped(mode: str = "tproxy") -> dict[str, Any]:
    """A Pod that srcip changed, without its status."""
    after = copy.deepcopy(consider(pod({"srcip.io/mode": mode}, containers=[APP]), SETTINGS).after)
    del after["metadata"]["annotations"][STATUS]
    return after


@pytest.mark.parametrize("mode", MODES)
def test_what_equals_what_srcip_would_add_is_its_own(mode: str) -> None:
    """The status comes back, nothing is added twice, and a further look changes nothing."""
    before = stripped(mode)
    outcome = consider(before, SETTINGS)
    assert isinstance(outcome.decision, Inject)
    assert outcome.reason == Reason.CHANGED
    after = jsonpatch.apply_patch(before, outcome.operations())
    assert after["spec"] == before["spec"]
    assert STATUS in after["metadata"]["annotations"]
    assert consider(after, SETTINGS).reason == Reason.UNCHANGED


def defaults(after: dict[str, Any]) -> None:
    """As the API server fills them in."""
    for container in (*after["spec"]["initContainers"], *after["spec"]["containers"]):
        container["terminationMessagePath"] = "/dev/termination-log"
        container.setdefault("volumeMounts", []).append({"name": "kube-api-access-x", "mountPath": "/var/run/secrets"})
    for each in after["spec"]["initContainers"][0]["env"]:
        if "valueFrom" in each:
            each["valueFrom"]["fieldRef"]["apiVersion"] = "v1"


def labels(after: dict[str, Any]) -> None:
    """All that srcip wrote beside its containers."""
    del after["metadata"]["labels"]
    after["metadata"]["annotations"].pop("cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes")


def mirror(after: dict[str, Any]) -> None:
    """As a mirror of registries and a LimitRange rewrite them."""
    for each in after["spec"]["initContainers"]:
        each |= {"image": "mirror.example/srcip-proxy:1", "resources": {"limits": {"cpu": "1"}}}


def order(after: dict[str, Any]) -> None:
    """As a webhook that puts its own container first."""
    after["spec"]["initContainers"].reverse()
    after["spec"]["initContainers"].insert(0, {"name": "first", "image": "f"})


@pytest.mark.parametrize("change", [defaults, labels, mirror, order])
def test_what_others_fill_in_or_rewrite_does_not_hide_it(change: Callable[[dict[str, Any]], None]) -> None:
    before = stripped()
    change(before)
    outcome = consider(before, SETTINGS)
    assert isinstance(outcome.decision, Inject)
    after = outcome.after
    assert [each["name"] for each in after["spec"]["initContainers"]][:2] == ["srcip-init", "srcip-proxy"]
    assert after["spec"]["initContainers"][0]["image"] == SETTINGS.proxy_image
    assert consider(after, SETTINGS).reason == Reason.UNCHANGED


def other_request(after: dict[str, Any]) -> None:
    after["metadata"]["annotations"]["srcip.io/header-timeout"] = "1s"


def other_user(after: dict[str, Any]) -> None:
    after["spec"]["initContainers"][1]["securityContext"]["runAsUser"] = 0


def no_sidecar(after: dict[str, Any]) -> None:
    after["spec"]["initContainers"].pop()


@pytest.mark.parametrize("change", [other_request, other_user, no_sidecar])
def test_what_differs_is_one_message(change: Callable[[dict[str, Any]], None]) -> None:
    """It says what happened and what can be done, in place of a fault for each name and user."""
    before = stripped()
    change(before)
    outcome = consider(before, SETTINGS)
    (message,) = outcome.messages
    assert isinstance(outcome.decision, Refuse)
    assert outcome.reason == Reason.NAME_CLASH
    assert f"{STATUS} is missing beside srcip-init in spec.initContainers" in message
    assert f"Let it keep {STATUS}" in message


def test_other_faults_are_told_without_those_of_its_own_parts() -> None:
    """What srcip added is no fault of the Pod's."""
    before = stripped()
    before["spec"]["hostNetwork"] = True
    (message,) = consider(before, SETTINGS).messages
    assert message.startswith("spec.hostNetwork")


def test_what_only_has_a_name_of_srcips_is_somebody_elses() -> None:
    """Neither a plan that can't be read nor a container of that name makes it srcip's."""
    for env in (None, 5, [5], [], [{"name": "SRCIP_PLAN", "value": "{}"}], [{"name": "SRCIP_PLAN"}]):
        foreign = {"name": "srcip-init", "image": "evil", **({"env": env} if env is not None else {})}
        (message,) = consider(pod(initContainers=[foreign]), SETTINGS).messages
        assert "is reserved for srcip" in message
    real = stripped()["spec"]["initContainers"][0]
    forged = pod(initContainers=[{**real, "command": ["sh"]}])
    assert isinstance(consider(forged, SETTINGS).decision, Refuse)


def test_an_opt_out_leaves_it_as_it_is() -> None:
    before = stripped()
    before["metadata"]["annotations"]["srcip.io/inject"] = "false"
    outcome = consider(before, SETTINGS)
    assert isinstance(outcome.decision, Skip)
    assert outcome.after is before


def test_a_changed_setting_is_told() -> None:
    """A manifest copied from a running Pod without its status, after the chart's networks changed."""
    asked = pod({"srcip.io/trusted-cidrs": None}, containers=[APP])
    old, new = (Settings(SETTINGS.proxy_image, trusted_cidrs=(cidr,)) for cidr in ("192.0.2.0/24", "198.51.100.0/24"))
    before = copy.deepcopy(consider(asked, old).after)
    del before["metadata"]["annotations"][STATUS]
    assert len(consider(before, new).messages) == 1
