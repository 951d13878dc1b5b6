"""A Pod that bears what srcip added, and no longer the annotation that says so: another webhook took it away.

What is there is recognised by its content: srcip takes back what equals what it would add, and says what happened where
it does not. What only has a name of srcip's stays somebody else's.
"""

from __future__ import annotations

from typing import Any

from srcip_proxy.plan import ENV, Plan, PlanError
from srcip_webhook import pods
from srcip_webhook.annotations import STATUS
from srcip_webhook.names import INIT, OF_FIELD
from srcip_webhook.pods import Pod, lookup
from srcip_webhook.status import places

_OTHERS_MAY_CHANGE = ("image", "imagePullPolicy", "resources")
"""Mirrors of registries and LimitRanges rewrite these; rendered anew, they are srcip's again."""


def status_of(pod: Pod) -> dict[str, Any] | None:
    """The status that the Pod would have, from the Plan in srcip's init container; None if there is no such one."""
    if pods.annotations_of(pod).get(STATUS) is not None:
        return None
    plan = next((_plan(each) for each in pods.named(pod, "initContainers") if each.get("name") == INIT), None)
    if plan is None:
        return None
    port_of = {item.alias: item.port for item in plan.probe_aliases}
    containers = (*pods.named(pod, "initContainers"), *pods.named(pod, "containers"))
    return {
        "probes": {each.get("name") or "": _before(each, port_of) for each in containers},
        "probeAliases": {str(alias): port for alias, port in port_of.items()},
    }


def _plan(container: dict[str, Any]) -> Plan | None:
    env = container.get("env")
    items = [each for each in env if isinstance(each, dict)] if isinstance(env, list) else []
    said = (each.get("value") for each in items if each.get("name") == ENV)
    try:
        return next((Plan.from_env(text) for text in said if isinstance(text, str)), None)
    except PlanError:
        return None


def _before(container: dict[str, Any], port_of: dict[int, int]) -> dict[str, int]:
    """The number of each port that a handler names by its alias; whether it had a name, nobody knows any more."""
    found = {dotted: lookup(container, *path, "port") for dotted, path in places()}
    return {dotted: port_of[port] for dotted, port in found.items() if type(port) is int and port in port_of}


def is_ours(pod: Pod, after: Pod) -> bool:
    """Whether all of srcip's in the Pod is what srcip would give it, `after`, whatever others filled in."""
    return all(
        _holds(_named(pod, field, names), _named(after, field, names), _OTHERS_MAY_CHANGE)
        for field, names in OF_FIELD.items()
    )


def _named(pod: Pod, field: str, names: tuple[str, ...]) -> dict[str, Any]:
    return {each["name"]: each for each in pods.named(pod, field) if each.get("name") in names}


def _holds(found: Any, ours: Any, but: tuple[str, ...] = ()) -> bool:
    """Whether everything of `ours` is in `found`, which may have more."""
    if isinstance(ours, dict):
        return isinstance(found, dict) and all(
            _holds(found.get(key), value, but) for key, value in ours.items() if key not in but
        )
    if isinstance(ours, list):
        return isinstance(found, list) and all(any(_holds(each, item) for each in found) for item in ours)
    return bool(found == ours)


def message(pod: Pod) -> str:
    """What happened, and what its owner can do."""
    parts = [
        f"{each['name']} in spec.{field}"
        for field, names in OF_FIELD.items()
        for each in _named(pod, field, names).values()
    ]
    return (
        f"{STATUS} is missing beside {', '.join(parts)}, which srcip added for another request: "
        "another webhook or a tool removed that annotation and changed the Pod. "
        f"Let it keep {STATUS}; in a manifest copied from a running Pod, remove these parts"
    )
