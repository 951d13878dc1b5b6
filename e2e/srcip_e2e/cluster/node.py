"""A whole Kubernetes on one machine: kubelet, containerd, kube-proxy and the control plane, in namespaces of their own.

Everything runs in one PID namespace and one mount namespace: when its first process ends, for whatever reason, all are
gone with their mounts. What may be left then is empty: two network namespaces, cgroups and the directory; the next
`up` clears them away.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from srcip_e2e.cluster import apps, binaries, node_files, node_init, node_network, pki
from srcip_e2e.cluster.node_files import API_SERVER, CONTAINERD_SOCKET, NAME, Layout, Programs
from srcip_e2e.cluster.node_network import API_SERVICE_IP, EDGE, NODE
from srcip_lab import places
from srcip_lab.errors import LabError, raise_all
from srcip_lab.state import Process
from srcip_lab.tools import STANDARD_PATH

PACKAGES = {
    "etcd": "etcd-server",
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "nft": "nftables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
}
"""Programs of Debian that the node runs, and their packages."""
BUILT = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")
"""Programs of Kubernetes."""
UP_TIMEOUT_S = 120
DOWN_TIMEOUT_S = 60
LOCK = Path("/run/srcip-k8s.lock")
"""Held while a node of this machine is made or removed."""


def default_directory() -> Path:
    """Where a node's state is kept if not told otherwise."""
    return places.cache() / "cluster"


@dataclass(frozen=True)
class Node:
    """The node whose state is in one directory, running or not."""

    layout: Layout

    @classmethod
    def at(cls, directory: Path | None = None) -> Node:
        """The node of this directory."""
        return cls(Layout(directory or default_directory()))

    @property
    def init(self) -> Process | None:
        """The node's first process if it runs."""
        return self._running("init")

    @property
    def taken(self) -> bool:
        """Whether the node runs for somebody who will stop it: it is not for others to use."""
        return bool(self.init and json.loads(self.layout.process.read_text())["bound"])

    def up(self, *, bound: bool = False) -> None:
        """Start the node and return when it is Ready. A `bound` one ends with the calling thread.

        Raises LabError: something is missing, another node is there, or it does not get ready in time.
        """
        raise_all(missing())
        pause = apps.pause()
        with _locked():
            if strangers := node_network.processes():
                pids = ", ".join(map(str, strangers[:8]))
                raise LabError(f"a node runs already, with the processes {pids} in {NODE.netns} and {EDGE.netns}")
            self._clear()
            self._write()
            node_network.create()
            self._start(bound)
        self._await_ready()
        self.load(pause)

    def down(self) -> None:
        """Stop the node and remove all that it made, but for its logs. No node is no error."""
        with _locked():
            for process in filter(None, map(self._running, ("init", "unshare"))):
                process.signal(signal.SIGKILL)
                if not process.wait(DOWN_TIMEOUT_S):
                    raise LabError(
                        f"process {process.pid} of the node is killed, and not gone after {DOWN_TIMEOUT_S} s"
                    )
            self._clear()

    def _clear(self) -> None:
        """Remove what a node that is gone has left, whoever had it; one that runs elsewhere keeps all it has."""
        if not node_network.processes():
            node_network.delete()
            _remove_cgroups()
        for path in (self.layout.var, self.layout.config, self.layout.pki):
            if path.exists():
                shutil.rmtree(path)
        for path in (self.layout.process, self.layout.kubeconfig):
            path.unlink(missing_ok=True)

    def inside(self, args: Sequence[str]) -> list[str]:
        """`args` as a command line that runs on the node, among its processes and mounts."""
        if not (init := self.init):
            raise LabError(f"no node runs with its state in {self.layout.root}")
        return ["nsenter", f"--target={init.pid}", "--mount", "--pid", "--net", "--", *args]

    def kubectl(self, *args: str) -> list[str]:
        """kubectl as a command line, as the cluster's administrator."""
        return NODE.command([str(binaries.find("kubectl")), f"--kubeconfig={self.layout.kubeconfig}", *args])

    def run(self, *args: str, stdin: str | None = None, timeout_s: float = 60) -> str:
        """Run a program on the node and return what it printed. Raises LabError with what it said."""
        return run(self.inside(args), stdin=stdin, timeout_s=timeout_s)

    def load(self, archive: Path) -> None:
        """Import a docker archive, so that kubelet finds the image without a registry."""
        self.ctr("images", "import", str(archive))

    def ctr(self, *args: str) -> str:
        """Run containerd's own command line and return what it printed."""
        return self.run("ctr", f"--address={CONTAINERD_SOCKET}", "--namespace=k8s.io", *args)

    def memory(self) -> dict[str, int]:
        """Proportional set size in KiB of the node's own programs by their names; containers are not among them."""
        init = self.init
        inside = str(Path(f"/proc/{init.pid}/ns/pid").readlink()) if init else ""
        sizes: dict[str, int] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and (size := _size(entry, inside)):
                name = (entry / "comm").read_text().strip()
                sizes[name] = sizes.get(name, 0) + size
        return sizes

    def _running(self, name: str) -> Process | None:
        if not self.layout.process.exists():
            return None
        process = Process.read(json.loads(self.layout.process.read_text()).get(name))
        return process if process and process.alive() else None

    def _write(self) -> None:
        layout = self.layout
        for directory in (layout.log, layout.pki, layout.config, layout.var / "etcd"):
            directory.mkdir(parents=True, exist_ok=True)
        for path, text in node_files.files(layout).items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        stages = node_files.stages(layout, _programs())
        layout.stages.write_text(json.dumps(stages))
        _write_keys(layout)
        node_init.make_cgroups()

    def _start(self, bound: bool) -> None:
        """Remember both processes: the one that holds the namespaces, and the first one inside."""
        command = ["setpriv", "--pdeathsig=KILL", "--"] if bound else []
        command += ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation=private", "--"]
        command += [sys.executable, "-m", "srcip_e2e.cluster.node_init", str(self.layout.root)]
        with (self.layout.log / "node.log").open("wb") as log:
            outer = subprocess.Popen(
                NODE.command(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={"PATH": STANDARD_PATH, "PYTHONPATH": str(Path(__file__).parents[2])},
            )
        inner = _child(outer.pid)
        known = {"unshare": Process.of(outer.pid), "init": Process.of(inner)}
        stored = {name: asdict(process) for name, process in known.items() if process}
        self.layout.process.write_text(json.dumps({**stored, "bound": bound}))

    def _await_ready(self) -> None:
        deadline = time.monotonic() + UP_TIMEOUT_S
        while not (self.layout.started.exists() and self._answers()):
            if not self.init:
                raise LabError("the node ended at its start", *_tail(self.layout.log / "node.log"))
            if time.monotonic() > deadline:
                raise LabError(f"the node is not Ready after {UP_TIMEOUT_S} s; its logs are in {self.layout.log}")
            time.sleep(0.2)

    def _answers(self) -> bool:
        """Whether the node is Ready and Pods can be made: a namespace gets its ServiceAccount a little late."""
        jsonpath = "{.status.conditions[?(@.type=='Ready')].status}"
        ready = _output(self.kubectl("get", "node", NAME, "-o", f"jsonpath={jsonpath}")) == "True"
        return ready and _output(self.kubectl("get", "serviceaccount", "default", "-o", "name")) != ""


def missing() -> list[str]:
    """What this machine lacks for a node, in words with the way to get it."""
    if os.geteuid():
        return ["the single-node cluster needs root"]
    absent = {package for program, package in PACKAGES.items() if not shutil.which(program, path=STANDARD_PATH)}
    names = " ".join(sorted(absent))
    reasons = [f"missing on this machine: {names} (apt-get install -y --no-install-recommends {names})"]
    return (reasons if absent else []) + binaries.missing(BUILT)


def run(command: Sequence[str], *, stdin: str | None = None, timeout_s: float = 60) -> str:
    """Run a command line and return what it printed. Raises LabError with what it said."""
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise LabError(f"{_brief(command)}: no end within {timeout_s:g} s") from None
    if done.returncode:
        raise LabError(f"{_brief(command)}: exit code {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def _write_keys(layout: Layout) -> None:
    authority = pki.Authority.create("srcip-e2e")
    authority.pair.write(layout.pki, "ca")
    hosts = ("127.0.0.1", *NODE.ips, API_SERVICE_IP, "localhost", "kubernetes", "kubernetes.default.svc")
    authority.issue("kube-apiserver", hosts=hosts).write(layout.pki, "apiserver")
    admin = authority.issue("admin", groups=[pki.ADMINISTRATORS]).write(layout.pki, "admin")
    private, public = pki.service_account_keys()
    pki.write_private(layout.pki / "sa.key", private)
    (layout.pki / "sa.pub").write_bytes(public)
    pki.write_private(layout.kubeconfig, pki.kubeconfig(API_SERVER, authority.pair.certificate, admin))


def _programs() -> Programs:
    found = {name.replace("-", "_"): binaries.find(name) for name in ("etcd", *BUILT[:-1])}
    return Programs(**found)


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


@contextmanager
def _locked() -> Iterator[None]:
    with LOCK.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _child(pid: int) -> int:
    """The only child of a process that is about to fork."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if children := path.read_text().split():
            return int(children[0])
        time.sleep(0.02)
    raise LabError("the node's namespaces could not be made (unshare)")


def _remove_cgroups() -> None:
    """Empty ones of a node that is gone. The kernel takes a moment to empty them."""
    for top in node_init.cgroups():
        for directory in sorted((path for path in top.glob("**/") if path.is_dir()), reverse=True):
            _remove_directory(directory)


def _remove_directory(directory: Path) -> None:
    deadline = time.monotonic() + 5
    while directory.exists():
        try:
            directory.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _size(process: Path, pid_namespace: str) -> int:
    """Proportional set size in KiB of a process of this PID namespace; 0 for others and those that just ended."""
    try:
        if str((process / "ns/pid").readlink()) != pid_namespace:
            return 0
        lines = (process / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def _brief(command: Sequence[str]) -> str:
    return " ".join(command[:12])


def _tail(log: Path, lines: int = 12) -> list[str]:
    return log.read_text(errors="replace").splitlines()[-lines:] if log.exists() else []
