"""Renders the Pod that a decision asks for. What does not change is shared with the Pod that came in."""

from __future__ import annotations

from typing import Any

from srcip_webhook import pods, status
from srcip_webhook.annotations import INJECTED, STATUS
from srcip_webhook.containers import rendered, volume
from srcip_webhook.pods import Container, Pod
from srcip_webhook.policy import INIT, PROXY, VOLUME, Inject
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
        "volumes": [*pods.named(pod, "volumes"), volume()],
    }
    said = status.text(decision.plan, before, added.digest)
    return {**pod, "metadata": _metadata(pod, said), "spec": spec}


def is_whole(pod: Pod, said: str) -> bool:
    """Whether the Pod already bears what the status `said` describes.

    Fields that the API server or another webhook filled into our containers do not count: they are not ours to undo.
    """
    inits = [container.get("name") for container in pods.named(pod, "initContainers")]
    volumes = [item.get("name") for item in pods.named(pod, "volumes")]
    once = all(inits.count(ours) == 1 for ours in (INIT, PROXY)) and volumes.count(VOLUME) == 1
    return once and pods.annotations_of(pod).get(STATUS) == said and pods.labels_of(pod).get(INJECTED) == "true"


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


def _metadata(pod: Pod, said: str) -> dict[str, Any]:
    annotations = dict(pods.annotations_of(pod))
    evictable = [item for item in annotations.get(status.EVICT, "").split(",") if item.strip()]
    annotations[status.EVICT] = ",".join([*(item for item in evictable if item.strip() != VOLUME), VOLUME])
    annotations[STATUS] = said
    return {**pods.metadata(pod), "annotations": annotations, "labels": {**pods.labels_of(pod), INJECTED: "true"}}
