"""The first process of the node: process 1 of a PID namespace, with mounts of its own. When it ends, all end.

Runs as `python -m srcip_e2e.cluster.node_init DIRECTORY` inside the network namespace of the node. Nothing that it
mounts is seen outside. It starts what stages.json says, and from then on only collects what ended.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from srcip_e2e.cluster.node_files import API_SERVER, CGROUP, Layout

CGROUPS = Path("/sys/fs/cgroup")
KERNEL_DEFAULTS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
"""What kubelet wants to find (k8s.io/component-helpers, node/util/sysctl). It would set these for the whole machine; so
it is shown files that say so already, and the machine keeps its own values."""
DIRECTORIES = ("kubelet", "cni", "containerd", "log")
READY_TIMEOUT_S = 60


def main(layout: Layout) -> None:
    """Never returns: the node runs until it is killed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    _mounts(layout)
    stages = json.loads(layout.stages.read_text())
    for number, stage in enumerate(stages):
        if number:
            _until_ready(layout)
        for name, command in stage.items():
            _start(layout, name, command)
    layout.started.touch()
    _reap(layout)


def _mounts(layout: Layout) -> None:
    _mount("--make-rprivate", "/")
    _sysctls(layout)
    _sysfs(layout)
    _mount("-t", "tmpfs", "tmpfs", "/run")
    for name in DIRECTORIES:
        seen = Path("/var", name) if name == "log" else Path("/var/lib", name)
        for path in (layout.var / name, seen):
            path.mkdir(parents=True, exist_ok=True)
        _mount("--bind", str(layout.var / name), str(seen))
    _mount("--make-rshared", "/")  # volumes of Pods are to be seen by containerd, whoever mounts them


def _sysctls(layout: Layout) -> None:
    """A /proc of this PID namespace, where kubelet finds what it would set otherwise."""
    _mount("-t", "proc", "proc", "/proc")
    for name, value in KERNEL_DEFAULTS.items():
        shown = layout.config / "sysctl" / name
        shown.parent.mkdir(parents=True, exist_ok=True)
        shown.write_text(value + "\n")
        if Path("/proc/sys", name).exists():
            _mount("--bind", str(shown), f"/proc/sys/{name}")


def _sysfs(layout: Layout) -> None:
    """The sysfs of the node's network namespace; the machine's cgroups are put back into it."""
    aside = layout.config / "cgroup"
    aside.mkdir(parents=True, exist_ok=True)
    _mount("--rbind", str(CGROUPS), str(aside))
    _mount("-t", "sysfs", "sysfs", "/sys")
    _mount("--rbind", str(aside), str(CGROUPS))
    subprocess.run(["umount", "--lazy", str(aside)], check=True)


def cgroups() -> list[Path]:
    """The node's own cgroup in each hierarchy of this machine: one with cgroup v2, several with v1."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS / CGROUP]
    return [entry / CGROUP for entry in CGROUPS.iterdir() if (entry / "cgroup.procs").exists()]


def make_cgroups() -> None:
    """Make the node's cgroups. With cgroup v2 they have only the controllers that the one above hands on."""
    if (offered := CGROUPS / "cgroup.controllers").exists():
        for controller in offered.read_text().split():
            with suppress(OSError):  # some machines keep one for themselves
                (CGROUPS / "cgroup.subtree_control").write_text(f"+{controller}")
    for directory in cgroups():
        directory.mkdir(exist_ok=True)


def _start(layout: Layout, name: str, command: list[str]) -> None:
    with (layout.log / f"{name}.log").open("wb") as log:
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def _until_ready(layout: Layout) -> None:
    """Wait for the API server. Asks as the administrator, as strangers may not ask."""
    context = ssl.create_default_context(cafile=str(layout.pki / "ca.crt"))
    context.load_cert_chain(layout.pki / "admin.crt", layout.pki / "admin.key")
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        with (
            suppress(OSError),
            urllib.request.urlopen(f"{API_SERVER}/readyz", context=context, timeout=2) as answer,  # noqa: S310
        ):
            if answer.status == 200:
                return
        time.sleep(0.1)
    sys.exit(f"the API server is not ready after {READY_TIMEOUT_S} s; see {layout.log}/kube-apiserver.log")


def _reap(layout: Layout) -> None:
    """Collect ended processes, those of containers, too; a program of ours that ended is noted."""
    while True:
        try:
            pid, status = os.wait()
        except ChildProcessError:
            sys.exit("every program of the node has ended")
        with (layout.log / "ended.log").open("a") as log:
            print(f"process {pid} ended with {os.waitstatus_to_exitcode(status)}", file=log)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


if __name__ == "__main__":
    main(Layout(Path(sys.argv[1])))
