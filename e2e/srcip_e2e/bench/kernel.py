"""ebpf mode in the benchmark: no relay, but programs on the Pod's interface and on the cgroup of its server."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from statistics import median

from srcip_e2e import images
from srcip_e2e.bench.rig import BenchError, Pod, Rig, Variant, in_cgroup
from srcip_e2e.bench.variants import Skipped, contained, environment, plan
from srcip_e2e.images import buildah

NAME = "srcip, ebpf mode"
STARTS = 5


def ebpf(rig: Rig) -> Variant:
    """The image's own loader; the server is in a cgroup of its own, as a Pod's containers are."""
    pod = rig.pod(cgroups())
    attach(pod)
    return Variant(NAME, pod)


def start_ms(rig: Rig) -> dict[str, float]:
    """What a Pod's start costs in ebpf mode, in ms of wall-clock time; nothing where the mode cannot run."""
    try:
        return {"ebpf_init_ms": median(attach(rig.pod(cgroups())) for _ in range(STARTS))}
    except Skipped:
        return {}


def cgroups() -> Path:
    """Where cgroup v2 is mounted. Raises Skipped."""
    mounts = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    root = next((row[1] for row in mounts if row[2] == "cgroup2"), None)
    if root is None:
        raise Skipped("cgroup v2 is not mounted")
    return Path(root)


def attach(pod: Pod) -> float:
    """Attach the programs as the init container does; how long it took, in ms. Raises BenchError, Skipped."""
    if missing := buildah.missing():
        raise Skipped(f"cannot build the image: {missing}")
    assert pod.cgroup
    command = ["srcip-proxy", "ebpf", "attach", "--cgroup", f"/run/srcip/{pod.cgroup.name}"]
    rootfs = images.unpacked("proxy")
    inside = contained(rootfs, pod.cgroup.parent, command, "+bpf,+net_admin", environment(pod, plan(pod)))
    # not `ip netns exec`: it hides /sys/fs/cgroup
    script = in_cgroup(pod.cgroup, ["nsenter", f"--net=/run/netns/{pod.netns}", *inside])
    begin = time.monotonic()
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"srcip-proxy ebpf attach: {done.stderr.strip()}")
    return (time.monotonic() - begin) * 1000
