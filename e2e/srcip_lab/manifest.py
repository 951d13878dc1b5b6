"""From a manifest to the Pod that a cluster would make of it."""

from __future__ import annotations

import copy
import sys
import uuid
from pathlib import Path
from typing import Any

from srcip_lab.errors import LabError
from srcip_webhook import manifests, pod_templates


def load(path: str) -> dict[str, Any]:
    """The one Pod of the manifest in file `path` (- is standard input). Raises LabError."""
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text()
        found = list(manifests.pods_in(text))
    except (OSError, UnicodeDecodeError, manifests.ManifestError) as error:
        raise LabError(f"{path}: {error}") from error
    return _only(found, path)


def pod(manifest: dict[str, Any]) -> dict[str, Any]:
    """The one Pod of an object: a Pod, a workload or a List. Raises LabError."""
    found: list[tuple[str, dict[str, Any]]] = []

    def note(each: dict[str, Any], place: manifests.Place) -> dict[str, Any]:
        found.append((place.owner, each))
        return each

    manifests.changed(manifest, note)
    return _only(found, pod_templates.title(manifest))


def _only(found: list[tuple[str, dict[str, Any]]], where: str) -> dict[str, Any]:
    if len(found) != 1:
        names = ": " + ", ".join(owner for owner, _ in found) if found else ""
        raise LabError(f"{where}: the lab runs one Pod, and this holds {len(found)}{names}")
    owner, only = found[0]
    spec = only.get("spec")
    if not isinstance(spec, dict) or not isinstance(spec.get("containers"), list) or not spec["containers"]:
        raise LabError(f"{owner}: spec.containers is missing")
    return _defaults(copy.deepcopy(only), owner.partition("/")[2])


def _defaults(found: dict[str, Any], owner: str) -> dict[str, Any]:
    """What the API server sets before a webhook sees the Pod, as far as it matters here."""
    spec, metadata = found["spec"], {**(found.get("metadata") or {})}
    metadata.setdefault("name", metadata.get("generateName") or owner)
    metadata.setdefault("namespace", "default")
    metadata["uid"] = str(uuid.uuid4())  # also where the manifest has that of a Pod that ran somewhere
    spec.setdefault("restartPolicy", "Always")
    for container in [*(spec.get("initContainers") or []), *spec["containers"]]:
        for port in container.get("ports") or [] if isinstance(container, dict) else []:
            if isinstance(port, dict):
                port.setdefault("protocol", "TCP")
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
