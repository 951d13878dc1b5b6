"""Pods to whose cgroup the init container attaches programs: ebpf mode, told by the patched Pod itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from srcip_lab import agent, cgroup, rootless
from srcip_lab.namespace import Host
from srcip_webhook.names import CGROUP, INIT, PROXY


def wanted(pod: Mapping[str, Any]) -> bool:
    """Whether the Pod waits for an agent, or mounts the node's cgroups, by which the init container finds its own."""
    return agent.serves(pod) or any(volume.get("name") == CGROUP for volume in pod["spec"].get("volumes") or [])


def obstacles(pod: Mapping[str, Any]) -> list[str]:
    """Why no lab of this user can attach them. A Pod with a sidecar goes on without: its init container says why."""
    names = [container["name"] for container in pod["spec"].get("initContainers") or []]
    if not wanted(pod) or PROXY in names or not rootless.is_inside():
        return []
    return [
        "srcip.io/mode: ebpf needs root: from a user namespace, where a lab without root lives, the kernel takes no "
        "programs",
        "  run it as root (sudo), or with srcip.io/mode: ebpf,tproxy, which goes on in tproxy mode here, as on a node "
        "that cannot have ebpf mode",
    ]


def facts(lab: str, pod: Host) -> dict[str, Any]:
    """What `--json` tells about them; the counters only where they are attached."""
    found = counters(lab, pod)
    return {"attached": found is not None, "cgroup": str(cgroup.of_pod(lab) or "") or None, "counters": found}


def text(told: Mapping[str, Any], lab: str) -> Iterator[str]:
    """The same in some lines for a person: counters that have counted nothing are left out."""
    if told["attached"]:
        yield f"programs: attached to eth0 and {told['cgroup']}"
        yield from (f"  {name} {value}" for name, value in told["counters"].items() if value)
    else:
        why = "" if not rootless.is_inside() else ", as the kernel takes none without root"
        yield f"programs: not attached{why}; see the log of the init container: srcip lab logs --name {lab} {INIT}"


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
