"""The annotation `srcip.io/status`: what srcip did to a Pod, exact enough to be undone.

A Pod can come back to the webhook (reinvocation, a manifest copied from a running Pod). `undo` gives the Pod as its
owner wrote it; then the decision is taken anew, and nothing is ever added twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from srcip_proxy.plan import Plan
from srcip_webhook import __version__, pods
from srcip_webhook.annotations import AGENT, INJECTED, STATUS
from srcip_webhook.intent import BY_AGENT
from srcip_webhook.names import OF_FIELD, VOLUMES
from srcip_webhook.pods import HANDLERS, HOOKS, PROBES, Container, Pod
from srcip_webhook.probes import with_port

EVICT = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"
"""Tells the cluster autoscaler that our volume is no reason to keep a node."""

NOTHING: dict[str, Any] = {"probes": {}, "probeAliases": {}}
"""A status that says of no probe that it was rewritten."""

Rewritten = Mapping[str, Mapping[str, int | str]]
"""Container name → dotted path of the handler → the port it named before."""

_PATHS = {
    ".".join(path): path
    for handler in HANDLERS
    for path in ((*((probe, handler) for probe in PROBES), *(("lifecycle", hook, handler) for hook in HOOKS)))
}


def text(
    plan: Plan, rewritten: Rewritten, names: Mapping[str, Sequence[str]], digest: str, *, is_by_agent: bool
) -> str:
    """The annotation's value. `names` are those of what was added, `digest` stands for all of it."""
    return json.dumps(
        {
            "version": __version__,
            "mode": plan.written_mode,
            **({"privilege": BY_AGENT} if is_by_agent else {}),
            "containers": list(names["containers"]),
            "volumes": list(names["volumes"]),
            "ports": [str(item) for item in plan.inbound_ports],
            "trustedCIDRs": list(plan.trusted_cidrs),
            "probes": rewritten,
            "probeAliases": {str(item.alias): item.port for item in plan.probe_aliases},
            "digest": digest,
        },
        sort_keys=True,
        separators=(",", ":"),
    )


def read(pod: Pod) -> dict[str, Any] | None:
    """The status of a Pod that has one. Raises ValueError if it is not one of ours."""
    said = pods.annotations_of(pod).get(STATUS)
    if said is None:
        return None
    try:
        status = json.loads(said)
    except (ValueError, RecursionError):
        raise ValueError(f"{STATUS} is not JSON; it is written by srcip alone: remove it") from None
    if not (isinstance(status, dict) and _rewritten(status) and _aliases(status)):
        raise ValueError(f"{STATUS} is not as srcip writes it: remove it")
    return status


def _rewritten(status: dict[str, Any]) -> bool:
    probes = status.get("probes")
    return isinstance(probes, dict) and all(
        isinstance(paths, dict) and all(path in _PATHS and type(port) in (int, str) for path, port in paths.items())
        for paths in probes.values()
    )


def _aliases(status: dict[str, Any]) -> bool:
    known = status.get("probeAliases")
    return isinstance(known, dict) and all(
        key.isascii() and key.isdigit() and len(key) < 6 and type(port) is int for key, port in known.items()
    )


def undo(pod: Pod) -> Pod:
    """The Pod without anything that srcip added to it; the same object if there is nothing. Raises ValueError."""
    status = read(pod)
    return pod if status is None else without(pod, status)


def without(pod: Pod, status: dict[str, Any]) -> Pod:
    """The Pod without anything that srcip added to it, as this status tells."""
    return {**pod, "metadata": _metadata_without(pod), "spec": _spec_without(pod, status)}


def places() -> Iterable[tuple[str, tuple[str, ...]]]:
    """Where a container can name a port that srcip rewrites: each place with dots, and as steps."""
    return _PATHS.items()


def _metadata_without(pod: Pod) -> dict[str, Any]:
    kept = {key: value for key, value in pods.annotations_of(pod).items() if key != STATUS}
    if EVICT in kept:
        volumes = [item for item in kept.pop(EVICT).split(",") if item.strip() not in ("", *VOLUMES)]
        kept |= {EVICT: ",".join(volumes)} if volumes else {}
    marks = {key: value for key, value in pods.labels_of(pod).items() if key not in (INJECTED, AGENT)}
    return _with(pods.metadata(pod), annotations=kept, labels=marks)


def _spec_without(pod: Pod, status: dict[str, Any]) -> dict[str, Any]:
    aliases = {int(alias) for alias in status["probeAliases"]}

    def restored(field: str) -> list[Container]:
        ours = OF_FIELD.get(field, ())
        kept = (container for container in pods.named(pod, field) if container.get("name") not in ours)
        return [_restore(container, status["probes"].get(container.get("name"), {}), aliases) for container in kept]

    volumes = [item for item in pods.named(pod, "volumes") if item.get("name") not in VOLUMES]
    return _with(
        pods.spec(pod),
        volumes=volumes,
        initContainers=restored("initContainers"),
        containers=restored("containers"),
    )


def _restore(container: Container, before: Mapping[str, int | str], aliases: set[int]) -> Container:
    """Its probes as they were, unless somebody else has changed them since."""
    for dotted, port in before.items():
        path = _PATHS[dotted]
        node: Any = container
        for step in path:
            node = (node or {}).get(step)
        if node and node.get("port") in aliases:
            container = with_port(container, path, port)
    return container


def _with(node: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """The node with these fields; those that are empty go, unless they were there as empty before."""
    merged = {**node, **changed}
    return {key: value for key, value in merged.items() if value or key not in changed or node.get(key) == value}
