"""The plan and the Pod that a process finds in its environment."""

from __future__ import annotations

from collections.abc import Mapping

from srcip_proxy import pod as pods
from srcip_proxy.plan import ENV, Plan, PlanError
from srcip_proxy.pod import Pod


def load(environment: Mapping[str, str]) -> tuple[Plan, Pod]:
    """The plan and the Pod of this process. Raises PlanError, PodError."""
    return plan_of(environment), pods.from_environment(environment, pods.run_ip)


def plan_of(environment: Mapping[str, str]) -> Plan:
    """The plan alone. Raises PlanError."""
    if ENV not in environment:
        raise PlanError(["not set; the webhook sets it in the Pods that it injects"])
    return Plan.from_env(environment[ENV])
