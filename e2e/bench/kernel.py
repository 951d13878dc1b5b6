"""ebpf mode in the benchmark: no relay, but programs on the Pod's interface and on the cgroup of its server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from bench import variants
from bench.rig import BenchError, Pod, Rig, Variant, in_cgroup
from srcip_lab import bpf
from srcip_lab.errors import LabError

NAME = "srcip, ebpf mode"


def ebpf(rig: Rig) -> Variant:
    """The real loader; the server is in a cgroup of its own, as a Pod's containers are."""
    try:
        program = bpf.compiled()
    except (LabError, OSError) as error:
        raise variants.Skipped(f"cannot compile the programs: {error}") from None
    pod = rig.pod(own_cgroup=True)
    attach(pod, program)
    return Variant(NAME, pod)


def attach(pod: Pod, program: Path) -> float:
    """Attach the programs as the init container does; how long it took, in ms. Raises BenchError."""
    command = [sys.executable, "-m", "srcip_proxy", "ebpf", "attach"]
    command += ["--cgroup", str(pod.cgroup), "--object", str(program)]
    # not `ip netns exec`: it hides /sys/fs/cgroup
    inside = in_cgroup(pod.cgroup, ["nsenter", f"--net=/run/netns/{pod.netns}", *command])
    begin = time.monotonic()
    environment = {**os.environ, **variants.environment(pod)}
    done = subprocess.run(inside, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"srcip-proxy ebpf attach: {done.stderr.strip()}")
    return (time.monotonic() - begin) * 1000
