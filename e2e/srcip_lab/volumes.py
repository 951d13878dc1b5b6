"""The Pod's volumes on this machine, and the mounts of its containers."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srcip_lab.errors import LabError
from srcip_lab.state import Directory
from srcip_lab.tools import run

_QUANTITY = re.compile(r"(\d+)(|k|Ki|M|Mi|G|Gi)")
_UNITS = {"": 1, "k": 1000, "Ki": 1 << 10, "M": 10**6, "Mi": 1 << 20, "G": 10**9, "Gi": 1 << 30}
EVERYBODY = 0o777


def size(quantity: str) -> int:
    """Bytes of a Kubernetes quantity such as 4Mi. Raises LabError for a form that no volume needs."""
    match = _QUANTITY.fullmatch(str(quantity))
    if not match:
        raise LabError(f"sizeLimit {quantity!r}: allowed is a whole number with {', '.join(_UNITS)}")
    return int(match[1]) * _UNITS[match[2]]


def prepare(pod: Mapping[str, Any], directory: Directory) -> tuple[dict[str, Path], list[str]]:
    """Make every volume; where each is, and a warning for each that the lab cannot give its content.

    Memory volumes are mounted, so the caller must be in a mount namespace of its own.
    """
    spec = pod["spec"]
    group = (spec.get("securityContext") or {}).get("fsGroup")
    places: dict[str, Path] = {}
    warnings: list[str] = []
    for volume in spec.get("volumes") or []:
        if "hostPath" in volume:
            places[volume["name"]] = _host_path(volume)
            continue
        places[volume["name"]] = _empty_dir(volume, directory.volume(volume["name"]), group)
        if "emptyDir" not in volume:
            kind = next((key for key in volume if key != "name"), "volume")
            warnings.append(f"volume {volume['name']}: {kind} needs a cluster; the lab mounts an empty directory")
    return places, warnings


def _host_path(volume: Mapping[str, Any]) -> Path:
    path = Path(volume["hostPath"]["path"])
    if not path.exists():
        raise LabError(
            f"volume {volume['name']}: hostPath {path} does not exist on this machine; the lab does not make it"
        )
    return path


def _empty_dir(volume: Mapping[str, Any], path: Path, group: int | None) -> Path:
    path.mkdir(parents=True)
    wanted = volume.get("emptyDir") or {}
    if wanted.get("medium") == "Memory":
        limit = [f"size={size(wanted['sizeLimit'])}"] if wanted.get("sizeLimit") else []
        run("mount", "-t", "tmpfs", "-o", ",".join(["nosuid", "nodev", *limit]), "srcip-lab", str(path))
    path.chmod(EVERYBODY)
    if group is not None:
        os.chown(path, -1, group)
        path.chmod(EVERYBODY | 0o2000)
    return path


def mounts(container: Mapping[str, Any], places: Mapping[str, Path]) -> tuple[tuple[Path, str, bool], ...]:
    """Source, path in the container and read-only, of each volume mount. Raises LabError for an unknown volume."""
    found = []
    for mount in container.get("volumeMounts") or []:
        if mount["name"] not in places:
            raise LabError(f"container {container['name']}: volume {mount['name']!r} is not in the Pod's volumes")
        source = places[mount["name"]]
        if mount.get("subPath"):
            source = source / mount["subPath"]
            source.mkdir(parents=True, exist_ok=True)
        found.append((source, mount["mountPath"], bool(mount.get("readOnly"))))
    return tuple(found)


def make_mount_points(container: Mapping[str, Any]) -> list[str]:
    """Make the mount points that this machine does not have, and return what was made, the deepest first."""
    made: list[str] = []
    for mount in container.get("volumeMounts") or []:
        path = Path(mount["mountPath"])
        missing = [each for each in (path, *path.parents) if not each.exists()]
        path.mkdir(parents=True, exist_ok=True)
        made += map(str, missing)
    return sorted(made, key=len, reverse=True)
