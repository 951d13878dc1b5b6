"""Where a Pod's directory is in the node's cgroup v2, by the Pod's UID."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

DEEPEST = 8
"""How far below the root the directory may be: nodes that are containers themselves have some levels more."""
_UID = re.compile(r"[0-9A-Za-z-]{1,63}", re.ASCII)
_POD = re.compile(r"(?:.+-)?pod([0-9A-Za-z_-]+?)(?:\.slice)?", re.ASCII)


def version_2(root: Path) -> Path | None:
    """Where cgroup v2 is mounted: there, or in `unified` beside the controllers of v1, as systemd does; else None."""
    return next((path for path in (root, root / "unified") if (path / "cgroup.controllers").is_file()), None)


def of_pod(root: Path, uid: str) -> Path | None:
    """The directory of the Pod, or None.

    kubelet's two drivers name it differently: `pod<uid>` (cgroupfs), and `kubepods-burstable-pod<uid>.slice` (systemd),
    where systemd wants `_` for each `-` of the UID.
    """
    if not _UID.fullmatch(uid):
        return None
    return next((path for path, name in pods(root) if name in (uid, uid.replace("-", "_"))), None)


def holds(cgroup: Path, process: int) -> bool:
    """Whether the process is in the group or below it. Processes outside of this PID namespace are 0 (cgroups(7))."""
    return any(str(process) in _processes(path) for path in cgroup.rglob("cgroup.procs"))


def _processes(path: Path) -> list[str]:
    """None of a group that has just gone, or that holds threads alone (cgroups(7), threaded)."""
    try:
        return path.read_text().split()
    except OSError:
        return []


def pods(root: Path) -> Iterator[tuple[Path, str]]:
    """Every Pod's directory and the UID in its name, level by level; nothing is looked for inside of them.

    The UID is as the driver writes it, and some other directories have a name of this kind, too.
    """
    level = [root]
    for _ in range(DEEPEST):
        below: list[Path] = []
        for directory in level:
            for name in _directories(directory):
                if match := _POD.fullmatch(name):
                    yield directory / name, match[1]
                else:
                    below.append(directory / name)
        level = below


def _directories(path: Path) -> list[str]:
    """Sorted; a directory that has just gone, or can't be read, is empty."""
    try:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []
