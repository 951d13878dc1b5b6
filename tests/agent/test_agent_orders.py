"""What a Pod's object asks of the agent. Pure."""

from typing import Any

import pytest

from srcip_agent.orders import LONGEST_PLAN, REASONS, Order, Refusal, of_pod
from srcip_proxy.plan import Plan
from srcip_proxy.plan.ports import PortRange
from support.agent_rig import pod_object

PLAN = Plan(mode="ebpf", inbound_ports=(PortRange(8080, 8080),), trusted_cidrs=("192.0.2.0/24",))
TPROXY = Plan(inbound_ports=(PortRange(8080, 8080),), trusted_cidrs=("192.0.2.0/24",))
MIRROR = {"kubernetes.io/config.mirror": "x"}


def changed(pod: dict[str, Any], **meta: Any) -> dict[str, Any]:
    return {**pod, "metadata": {**pod["metadata"], **meta}}


def test_what_the_webhook_writes_is_an_order() -> None:
    found = of_pod(pod_object(1, PLAN))
    assert isinstance(found, Order)
    assert (found.name, found.plan) == ("shop/web-1", PLAN.to_env())


@pytest.mark.parametrize(
    "pod",
    [
        changed(pod_object(1, PLAN), labels={}),
        changed(pod_object(1, PLAN), labels=None),
        {**pod_object(1, PLAN), "status": {"phase": "Succeeded"}},
        {**pod_object(1, PLAN), "status": {"phase": "Failed"}},
    ],
)
def test_who_asks_for_nothing_gets_nothing(pod: dict[str, Any]) -> None:
    """Without the label, or when no container will run again."""
    assert of_pod(pod) is None


REFUSED: dict[str, list[dict[str, Any]]] = {
    "host_network": [pod_object(1, PLAN, hostNetwork=True)],
    "mirror_pod": [changed(pod_object(1, PLAN), annotations=MIRROR)],
    "windows": [pod_object(1, PLAN, os={"name": "windows"})],
    "no_gate": [pod_object(1, PLAN, initContainers=[]), pod_object(1, PLAN, initContainers=[{"name": "other"}])],
    "plan_too_long": [pod_object(1, " " * (LONGEST_PLAN + 1)), pod_object(1, "x" * (1 << 20))],
    "plan": [pod_object(1, text) for text in ("", "{", "[]", '{"version":3}', "[" * 100_000)],
    "mode": [pod_object(1, TPROXY)],
}


@pytest.mark.parametrize("reason", REASONS)
def test_what_is_not_srcips_own_is_refused_with_its_reason(reason: str) -> None:
    """In a sentence, and never with an exception."""
    for pod in REFUSED[reason]:
        found = of_pod(pod)
        assert isinstance(found, Refusal)
        assert (found.reason, bool(found.text)) == (reason, True)
