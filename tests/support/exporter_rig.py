"""A node for the exporter: cgroups named as kubelet names them, directories of logs, and the exporter as a process."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

from srcip_proxy.ebpf.exporter.run import NEEDED
from support.ebpf_rig import ALL_PORTS, Pod, cgroup_root, remove, running
from support.rig import APP
from support.waiting import DEADLINE_S

SYSTEMD = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice"
CGROUPFS = "kubepods/besteffort/pod{}"
Samples = dict[tuple[str, str, str], int]
"""Values that are not zero, by namespace, Pod and `refused malformed`."""


def uid(number: int) -> str:
    return f"{number:08x}-6cd9-4c5c-9a0a-5b9d1b5f7a10"


def only(*names: str) -> tuple[str, ...]:
    """Runs a program with no other capabilities than these, as a container's."""
    kept = ",".join(["-all", *(f"+{name.lower()}" for name in names)])
    return ("setpriv", f"--inh-caps={kept}", f"--bounding-set={kept}")


@dataclass
class Node:
    """What the exporter reads."""

    root: Path
    """A cgroup."""
    logs: Path
    stack: ExitStack
    made: list[Path] = field(default_factory=list)

    def cgroup(self, number: int, form: str = SYSTEMD) -> Path:
        """A Pod's directory."""
        name = uid(number).replace("-", "_") if form == SYSTEMD else uid(number)
        path = self.root / form.format(name)
        for each in (*reversed(path.relative_to(self.root).parents), path.relative_to(self.root)):
            if not (self.root / each).exists():
                (self.root / each).mkdir()
                self.made.append(self.root / each)
        return path

    def name(self, number: int, namespace: str, pod: str) -> Path:
        """kubelet's directory for the Pod's logs."""
        path = self.logs / f"{namespace}_{pod}_{uid(number)}"
        path.mkdir()
        return path

    def pod(self, number: int, name: str = "", form: str = SYSTEMD) -> Pod:
        """A Pod in ebpf mode with the application of the tests, in a network of its own."""
        outer = self.stack.enter_context(running(attached=False))
        if name:
            self.name(number, "shop", name)
        made = Pod(outer.net, self.cgroup(number, form), outer.wanted)
        assert made.attach().returncode == 0
        self.stack.callback(made.stop)
        made.log = made.start([sys.executable, str(APP), *ALL_PORTS])
        return made

    def close(self) -> None:
        """All networks and processes, then all cgroups."""
        self.stack.close()
        for each in reversed(self.made):
            remove(each)


@contextmanager
def node(logs: Path) -> Iterator[Node]:
    """An empty node."""
    top = cgroup_root()
    assert top
    root = top / f"srcip-exporter-{os.getpid()}-{time.monotonic_ns() % 10**6}"
    root.mkdir()
    logs.mkdir()
    made = Node(root, logs, ExitStack(), [root])
    try:
        yield made
    finally:
        made.close()


@dataclass
class Exporter:
    """The exporter as a process."""

    process: subprocess.Popen[str]
    port: int

    def child(self) -> int:
        """The number of the process that speaks HTTP."""
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text())

    def ask(self, path: str, method: str = "GET") -> tuple[int, str, HTTPResponse]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(), answer
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_S)

    def fresh(self) -> str:
        """A page that nobody has asked for before."""
        time.sleep(1.05)
        status, text, _ = self.ask("/metrics")
        assert status == 200, text
        return text

    def counters(self) -> Samples:
        found = {}
        for row in self.fresh().splitlines():
            match = re.fullmatch(r'srcip_(\w+?)_\w+\{namespace="(.*)",pod="(.*)",\w+="(.*)"\} (\d+)', row)
            if match and match[5] != "0":
                found[match[2], match[3], f"{match[1]} {match[4]}"] = int(match[5])
        return found

    def states(self) -> dict[str, int]:
        """How many Pods are shown, and how many are not, where there are any."""
        found = re.findall(r'^srcip_ebpf_pods\{state="(\w+)"\} (\d+)$', self.fresh(), re.MULTILINE)
        return {state: int(number) for state, number in found if number != "0"}


def command(root: Path, logs: Path, port: int, *prefix: str, address: str = "127.0.0.1") -> list[str]:
    options = ["--listen", f"{address}:{port}", "--cgroups", str(root), "--pods", str(logs)]
    return [*prefix, sys.executable, "-m", "srcip_proxy", "ebpf", "exporter", *options]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def exporter(root: Path, logs: Path, *prefix: str, address: str = "127.0.0.1") -> Iterator[Exporter]:
    """The exporter of these directories, once it listens; with its capabilities alone, unless `prefix` says else."""
    port = free_port()
    words = command(root, logs, port, *(prefix or only(*NEEDED)), address=address)
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr
        line = process.stderr.readline()
        assert "listening" in line, line + process.stderr.read()
        yield Exporter(process, port)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
