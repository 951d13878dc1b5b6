"""Renders the Pod that a decision asks for. What does not change is shared with the Pod that came in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from srcip_webhook import names, pods, status
from srcip_webhook.annotations import AGENT, INJECTED, STATUS
from srcip_webhook.containers import Rendered, rendered
from srcip_webhook.pods import Container, Pod
from srcip_webhook.policy import Inject
from srcip_webhook.probes import rewritten
from srcip_webhook.settings import Settings


def injected(pod: Pod, decision: Inject, settings: Settings) -> Pod:
    """`pod` (which bears nothing of ours) with everything that `decision` adds."""
    added = rendered(decision, settings)
    fields, before = _probes_rewritten(pod, decision)
    spec = {
        **pods.spec(pod),
        **fields,
        "initContainers": [*added.containers, *fields["initContainers"]],
        "volumes": [*pods.named(pod, "volumes"), *added.volumes],
    }
    added_names = {field: _names(getattr(added, field)) for field in ("containers", "volumes")}
    said = status.text(decision.plan, before, added_names, added.digest, is_by_agent=decision.is_by_agent)
    return {**pod, "metadata": _metadata(pod, said, added, _labels(decision, added)), "spec": spec}


def is_whole(pod: Pod, after: Pod) -> bool:
    """Whether the Pod already bears what we would give it, `after`.

    Fields that the API server or another webhook filled into our containers do not count: they are not ours to undo.
    """
    return _marks(pod) == _marks(after)


def _marks(pod: Pod) -> tuple[Any, ...]:
    """What tells one Pod of ours from another: the status holds the digest of all that was rendered."""
    found = {
        field: sorted(name for name in _names(pods.named(pod, field)) if name in ours)
        for field, ours in names.OF_FIELD.items()
    }
    return found, pods.annotations_of(pod).get(STATUS), [pods.labels_of(pod).get(label) for label in (INJECTED, AGENT)]


def _names(items: Iterable[dict[str, Any]]) -> list[str]:
    return [item.get("name") or "" for item in items]


def _probes_rewritten(pod: Pod, decision: Inject) -> tuple[dict[str, list[Container]], dict[str, Any]]:
    alias_of = {item.port: item.alias for item in decision.plan.probe_aliases}
    fields: dict[str, list[Container]] = {}
    before: dict[str, Any] = {}
    for field in ("initContainers", "containers"):
        fields[field] = []
        for container in pods.named(pod, field):
            listens = field == "containers" or pods.is_sidecar(container)
            changed, said = rewritten(container, alias_of) if listens else (container, {})
            fields[field].append(changed)
            before |= {container.get("name") or "": said} if said else {}
    return fields, before


def _labels(decision: Inject, added: Rendered) -> dict[str, str]:
    """By which others find the Pod: Prometheus its sidecar, the agent what it has to do."""
    sidecar = {INJECTED: "true"} if names.PROXY in _names(added.containers) else {}
    return sidecar | ({AGENT: decision.plan.mode} if decision.is_by_agent else {})


def _metadata(pod: Pod, said: str, added: Rendered, labels: dict[str, str]) -> dict[str, Any]:
    ours, annotations = _names(added.volumes), dict(pods.annotations_of(pod))
    evictable = [item for item in annotations.get(status.EVICT, "").split(",") if item.strip()]
    annotations[status.EVICT] = ",".join([*(item for item in evictable if item.strip() not in ours), *ours])
    annotations[STATUS] = said
    changed = {**pods.metadata(pod), "annotations": annotations}
    if labels:
        changed["labels"] = {**pods.labels_of(pod), **labels}
    return changed
