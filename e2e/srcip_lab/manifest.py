"""From a manifest to the Pod that a cluster would make of it. Pure, but for reading the file."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from srcip_lab.errors import LabError

TEMPLATES = {
    "Pod": (),
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "ReplicationController": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
"""Where each kind keeps its Pod template."""


def load(path: str) -> dict[str, Any]:
    """The one Pod that the manifest in file `path` (- is standard input) makes. Raises LabError."""
    try:
        with open(0) if path == "-" else Path(path).open() as file:
            documents = list(yaml.safe_load_all(file))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise LabError(f"{path}: {error}") from error
    found = [item for document in documents for item in _objects(document) if item.get("kind") in TEMPLATES]
    if len(found) != 1:
        names = ", ".join(f"{item['kind']} {(item.get('metadata') or {}).get('name')}" for item in found)
        raise LabError(
            f"{path}: the lab runs one Pod, and this holds {len(found)} of {', '.join(TEMPLATES)}"
            + f": {names}" * bool(found)
        )
    return pod(found[0])


def _objects(document: Any) -> Iterator[dict[str, Any]]:
    if isinstance(document, dict):
        if document.get("kind") == "List":
            for item in document.get("items") or []:
                yield from _objects(item)
        else:
            yield document


def pod(manifest: dict[str, Any]) -> dict[str, Any]:
    """The Pod of a Pod or workload, with the defaults that the API server sets. Raises LabError."""
    kind = manifest.get("kind")
    if kind not in TEMPLATES:
        raise LabError(f"kind {kind!r}: the lab runs one of {', '.join(TEMPLATES)}")
    found: Any = copy.deepcopy(manifest)
    for key in TEMPLATES[kind]:
        found = found.get(key) if isinstance(found, dict) else None
    if not isinstance(found, dict) or not isinstance(found.get("spec"), dict) or not found["spec"].get("containers"):
        raise LabError(f"{kind}: no Pod with spec.containers in it")
    return _defaults(found, manifest.get("metadata") or {})


def _defaults(found: dict[str, Any], owner: dict[str, Any]) -> dict[str, Any]:
    spec, metadata = found["spec"], {**(found.get("metadata") or {})}
    metadata.setdefault("name", metadata.get("generateName") or owner.get("name") or "pod")
    metadata.setdefault("namespace", owner.get("namespace") or "default")
    metadata.setdefault("uid", str(uuid.uuid4()))
    spec.setdefault("restartPolicy", "Always")
    for container in [*(spec.get("initContainers") or []), *spec["containers"]]:
        for port in container.get("ports") or []:
            port.setdefault("protocol", "TCP")
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
