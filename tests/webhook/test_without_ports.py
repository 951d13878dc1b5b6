"""An operator annotates all its Pods alike: those that serve nothing are left alone if it says so."""

from typing import Any

import pytest

from srcip_webhook.hints import of_opted_in
from srcip_webhook.mutate import consider
from srcip_webhook.policy import Inject, Reason, Refuse, Skip
from srcip_webhook.review import Kind, Request
from support.reviews import TRUSTING, pod

KEY = "srcip.io/without-ports"
HELPER: dict[str, Any] = {"containers": [{"name": "migrate", "image": "m"}]}
SKIP = {KEY: "skip"}


def test_a_pod_without_ports_is_refused_and_told_the_way_out() -> None:
    """By default, as a container that forgot its ports would take a header for data."""
    outcome = consider(pod(**HELPER), TRUSTING)
    assert outcome.reason == Reason.NO_PORTS
    assert f"set {KEY}: skip" in outcome.messages[0]
    assert consider(pod({KEY: "refuse"}, **HELPER), TRUSTING).reason == Reason.NO_PORTS


@pytest.mark.parametrize(
    "spec",
    [
        HELPER,
        {"containers": [{"name": "dns", "image": "d", "ports": [{"containerPort": 53, "protocol": "UDP"}]}]},
        {**HELPER, "hostNetwork": True},
        {"containers": [{"name": "istio-proxy", "image": "i", "ports": [{"containerPort": 15090}]}]},
    ],
)
@pytest.mark.parametrize("mode", ["tproxy", "redirect", "ebpf", "ebpf,tproxy"])
def test_it_is_left_alone_if_told_so(mode: str, spec: dict[str, Any]) -> None:
    """In each mode, and whatever else would stand against a sidecar."""
    outcome = consider(pod({"srcip.io/mode": mode, **SKIP}, **spec), TRUSTING)
    assert isinstance(outcome.decision, Skip)
    assert outcome.reason == Reason.WITHOUT_PORTS
    assert outcome.operations() == []


def test_a_pod_with_ports_is_injected() -> None:
    """It says nothing about those: the plan is the same."""
    outcome, usual = consider(pod(SKIP), TRUSTING), consider(pod(), TRUSTING)
    assert isinstance(outcome.decision, Inject)
    assert isinstance(usual.decision, Inject)
    assert outcome.decision.plan == usual.decision.plan


def test_a_pod_that_sends_headers_is_injected() -> None:
    """Its own requests are asked for."""
    outbound = {"srcip.io/outbound-ports": "80", "srcip.io/set-forwarded-for": "default"}
    assert isinstance(consider(pod({**SKIP, **outbound}, **HELPER), TRUSTING).decision, Inject)


@pytest.mark.parametrize(
    "annotations",
    [{"srcip.io/inbound-ports": "8080"}, {"srcip.io/mode": "tpoxy"}, {"srcip.io/header-timeout": "5"}, {KEY: "ignore"}],
)
def test_a_fault_is_told_all_the_same(annotations: dict[str, str]) -> None:
    """A port that is meant and not declared, and each value that is not allowed: none is left out silently."""
    assert isinstance(consider(pod({**SKIP, **annotations}, **HELPER), TRUSTING).decision, Refuse)


def test_a_job_is_told_before_its_pods_are_refused() -> None:
    """Whoever applies it sees the way out; its Pods' events are seen by few."""
    made = pod(**HELPER)
    template = {"metadata": made["metadata"], "spec": made["spec"]}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "migrate"}, "spec": {"template": template}}
    kind = Kind(group="batch", version="v1", kind="Job")
    warnings = of_opted_in(Request(uid="1", kind=kind, operation="CREATE", object=job), TRUSTING).decision.warnings
    assert f"{KEY}: skip" in warnings[0][:256]
