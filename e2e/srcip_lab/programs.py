"""Pods to whose cgroup the init container attaches programs: ebpf mode, told by the patched Pod itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srcip_lab import cgroup
from srcip_lab.namespace import Host
from srcip_webhook.policy import CGROUP, PROXY

_EVERYBODY = ["0", "0", "4294967295"]
"""uid_map of the one user namespace that is not inside another."""


def wanted(pod: Mapping[str, Any]) -> bool:
    """Whether the Pod mounts the node's cgroups, by which the init container finds its own."""
    return any(volume.get("name") == CGROUP for volume in pod["spec"].get("volumes") or [])


def obstacles(pod: Mapping[str, Any]) -> list[str]:
    """Why no lab of this user can attach them. A Pod with a sidecar goes on without: its init container says why."""
    names = [container["name"] for container in pod["spec"].get("initContainers") or []]
    if not wanted(pod) or PROXY in names or not _in_user_namespace():
        return []
    return [
        "srcip.io/mode: ebpf needs root: the kernel takes no programs from a user namespace, where the lab runs without",
        "  run it as root (sudo), or try srcip.io/mode: ebpf,tproxy, which goes on in tproxy mode here, as on a node "
        "that cannot have ebpf mode",
    ]


def _in_user_namespace() -> bool:
    return Path("/proc/self/uid_map").read_text().split() != _EVERYBODY


def counters(lab: str, pod: Host) -> dict[str, int] | None:
    """What the programs have counted so far, by the series' names; None where no programs are attached.

    Asked by `srcip-proxy ebpf stats` in the Pod's network and cgroup, as a debug container would.
    """
    with cgroup.visiting(lab) as joining:
        if not joining:
            return None
        command = [*joining, sys.executable, "-m", "srcip_proxy", "ebpf", "stats"]
        done = pod.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=os.sep)
    return _counters(done.stdout) if done.returncode == 0 else None


def _counters(text: str) -> dict[str, int]:
    rows = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: int(value) for name, _, value in rows}
