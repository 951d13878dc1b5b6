"""A container's environment and command line, as kubelet makes them. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from srcip_lab.errors import LabError

_REFERENCE = re.compile(r"\$(\$|\(([-._a-zA-Z][-._a-zA-Z0-9]*)\))")
_METADATA = re.compile(r"metadata\.(labels|annotations)\['(.+)'\]")


@dataclass(frozen=True)
class PodStatus:
    """What the downward API tells about the Pod's place."""

    pod_ips: tuple[str, ...]
    host_ips: tuple[str, ...]
    node_name: str


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace $(NAME) by the variable; $$ is one $, and an unknown name stays as it is written."""

    def replacement(match: re.Match[str]) -> str:
        return "$" if match[1] == "$" else variables.get(match[2], match[0])

    return _REFERENCE.sub(replacement, text)


def environment(container: Mapping[str, Any], pod: Mapping[str, Any], status: PodStatus) -> dict[str, str]:
    """The variables of `container` in their order. Raises LabError for a source that only a cluster has."""
    if container.get("envFrom"):
        raise LabError(f"container {container['name']}: envFrom needs a cluster; write the variables into env")
    variables: dict[str, str] = {}
    for entry in container.get("env") or []:
        value = _value(container["name"], entry, pod, status)
        if value is not None:
            variables[entry["name"]] = expand(value, variables)
    return variables


def _value(container: str, entry: Mapping[str, Any], pod: Mapping[str, Any], status: PodStatus) -> str | None:
    source = entry.get("valueFrom")
    if not source:
        return str(entry.get("value") or "")
    if field := source.get("fieldRef"):
        return _field(container, field["fieldPath"], pod, status)
    kind = next(iter(source))
    if isinstance(source[kind], dict) and source[kind].get("optional"):
        return None
    raise LabError(f"container {container}: env {entry['name']}: {kind} needs a cluster; give it a value")


def _field(container: str, path: str, pod: Mapping[str, Any], status: PodStatus) -> str:
    metadata, spec = pod.get("metadata") or {}, pod.get("spec") or {}
    if match := _METADATA.fullmatch(path):
        return str((metadata.get(match[1]) or {}).get(match[2], ""))
    known = {
        "metadata.name": metadata.get("name", ""),
        "metadata.namespace": metadata.get("namespace", "default"),
        "metadata.uid": metadata.get("uid", ""),
        "spec.nodeName": status.node_name,
        "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
        "status.hostIP": status.host_ips[0],
        "status.hostIPs": ",".join(status.host_ips),
        "status.podIP": status.pod_ips[0],
        "status.podIPs": ",".join(status.pod_ips),
    }
    if path not in known:
        raise LabError(f"container {container}: fieldPath {path!r} is not one of {', '.join(known)}")
    return str(known[path])
