"""What a Pod's object asks of the agent: an order, a refusal with its reason, or nothing. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from srcip_proxy.plan import ENV, Plan, PlanError

Json = dict[str, Any]

LABEL, VALUE = "srcip.io/agent", "ebpf"
"""The webhook's label, by which Pods are found, and what it asks for."""
GATE = "srcip-init"
"""The init container that waits for the agent."""
COMMAND = ["srcip-proxy", "gate"]
MIRROR = "kubernetes.io/config.mirror"
"""The annotation of what kubelet shows of a static Pod."""
LONGEST_PLAN = 262_144
"""Bytes of a plan; 4,096 networks and 4,096 ports take less than half of it."""
REASONS = ("host_network", "mirror_pod", "windows", "no_gate", "plan_too_long", "plan", "mode")
"""Why an object is refused."""
_UID = re.compile(r"[0-9A-Za-z-]{1,63}", re.ASCII)


@dataclass(frozen=True)
class Order:
    """One Pod that is to be set up."""

    uid: str
    name: str
    """Namespace and name, for the log."""
    plan: str
    """As in SRCIP_PLAN."""


@dataclass(frozen=True)
class Refusal:
    """Why a Pod is not set up: one of REASONS, and a sentence."""

    uid: str
    name: str
    reason: str
    text: str


class OrderError(ValueError):
    """What asks for the programs is not what srcip's webhook writes: `reason` is one of REASONS."""

    def __init__(self, reason: str, text: str) -> None:
        self.reason = reason
        super().__init__(text)


def of_pod(pod: Json) -> Order | Refusal | None:
    """What this Pod asks for; None if it asks for nothing, or is over. The object's types are the API server's."""
    meta, spec = pod["metadata"], pod.get("spec") or {}
    if (meta.get("labels") or {}).get(LABEL) != VALUE or is_over(pod):
        return None
    if _gate(spec).get("command", COMMAND) != COMMAND:
        return None  # it sets itself up: an older webhook has seen it last
    uid, name = str(meta["uid"]), f"{meta['namespace']}/{meta['name']}"
    try:
        _check_kind(meta, spec)
        order = Order(uid, name, _plan(spec))
        plan_for(order)
    except OrderError as error:
        return Refusal(uid, name, error.reason, str(error))
    return order


def is_over(pod: Json) -> bool:
    """Whether none of its containers will run again."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def _check_kind(meta: Json, spec: Json) -> None:
    if MIRROR in (meta.get("annotations") or {}):
        raise OrderError("mirror_pod", "it is the mirror of a static Pod, whose UID on the node is another one")
    if spec.get("hostNetwork"):
        raise OrderError("host_network", "it has the node's network (hostNetwork), which the agent never touches")
    if (spec.get("os") or {}).get("name") == "windows":
        raise OrderError("windows", "it is a Windows Pod")


def _gate(spec: Json) -> Json:
    containers: list[Json] = spec.get("initContainers") or []
    return next((each for each in containers if each.get("name") == GATE), {})


def _plan(spec: Json) -> str:
    gate = _gate(spec)
    if not gate:
        raise OrderError("no_gate", f"it has the label {LABEL} and no init container {GATE}")
    values = [each.get("value") for each in gate.get("env") or [] if each.get("name") == ENV]
    if len(values) != 1 or not isinstance(values[0], str):
        raise OrderError("plan", f"{GATE} has no {ENV} of its own")
    return values[0]


def plan_for(order: Order) -> Plan:
    """The plan of this order, checked as if nobody had checked it before. Raises OrderError."""
    if not _UID.fullmatch(order.uid):
        raise OrderError("plan", f"{order.uid[:80]!r} is not the UID of a Pod")
    if len(order.plan.encode()) > LONGEST_PLAN:
        raise OrderError("plan_too_long", f"{ENV} has {len(order.plan.encode())} bytes; {LONGEST_PLAN} are allowed")
    try:
        plan = Plan.from_env(order.plan)
    except PlanError as error:
        raise OrderError("plan", str(error)[:1000]) from None
    if not plan.attaches_programs or plan.has_sidecar:
        raise OrderError("mode", f"its plan is for mode {plan.written_mode}; the agent sets up mode ebpf alone")
    return plan
