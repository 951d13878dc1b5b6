"""Where a Pod is on its node: its cgroup, by its UID, and its network namespace, by a process in that cgroup."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from srcip_proxy.ebpf import cgroups

PROC = Path("/proc")
Network = tuple[int, int]
"""A network namespace: device and inode of its file."""


@dataclass(frozen=True)
class Sandbox:
    """One process of a Pod, and what it is in."""

    cgroup: Path
    """The Pod's directory."""
    group: Path
    """The directory below it, or itself, that has the process."""
    process: int
    network: Network


def identity(file: Path) -> Network:
    """Of a file as /proc/PID/ns/net. Raises OSError: the process has gone, or SYS_PTRACE is missing."""
    found = file.stat()
    return found.st_dev, found.st_ino


def pods(root: Path) -> dict[str, Path]:
    """The directory of each Pod of this node by its UID, in kubelet's own spelling."""
    return {uid.replace("_", "-"): path for path, uid in cgroups.pods(root)}


def find(cgroup: Path, nodes: Network) -> Sandbox | None:
    """The oldest process of the Pod outside of the node's own network namespace `nodes`, if there is one.

    The oldest is the sandbox's: whatever a Pod starts in further namespaces of its own comes later. What a runtime
    starts is in the node's own network for a moment.
    """
    found = [(_age(process), process, group) for group, process in _processes(cgroup)]
    for _, process, group in sorted(found):
        try:
            network = identity(PROC / str(process) / "ns/net")
        except FileNotFoundError:
            continue
        if network != nodes:
            return Sandbox(cgroup, group, process, network)
    return None


def _processes(cgroup: Path) -> Iterator[tuple[Path, int]]:
    for directory, _, _ in os.walk(cgroup):
        yield from ((Path(directory), process) for process in members(Path(directory)))


def members(group: Path) -> list[int]:
    """The processes in this directory; 0, one of another PID namespace, is left out (cgroups(7))."""
    try:
        return [int(word) for word in (group / "cgroup.procs").read_text().split() if word != "0"]
    except OSError:
        return []


def _age(process: int) -> int:
    """When it started, in clock ticks since the machine did (proc(5), stat); the latest for one that has gone."""
    try:
        return int((PROC / str(process) / "stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError):
        return 1 << 63
