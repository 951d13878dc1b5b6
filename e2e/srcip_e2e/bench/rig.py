"""Namespaces and processes of the benchmark: one load balancer, and a Pod for every variant. Always cleaned up.

    lb ── veth ── pod 1 (direct)          each Pod: 10.78.N.1 and fd78:N::1, its own copy of the same server
       ── veth ── pod 2 (srcip)           the balancer: 10.78.N.16-31, trusted; 10.78.N.144-159, not trusted
       ── veth ── ...

No router, no bridge: a hop that all variants share would only make their difference smaller.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PORT = 8080
"""The server's first port; the three behind it have the other roles of load/."""
PORTS = range(PORT, PORT + 4)
HTTP_PORT, SEEN_PORT = PORT + 4, PORT + 5
"""Where the server speaks HTTP, and where it answers with what it was sent."""
LOAD_SOURCES = sorted((Path(__file__).parent / "load").glob("*.c"))
SOURCES = 16
CLAIMED_PER_RUN = 1_000_000
"""Client addresses and ports that one run of the load generator may claim, so that no two runs share one."""
SETTINGS = {
    # ports are reused after a second, and there are enough of them: the client is not to be the limit
    "net.ipv4.ip_local_port_range": "1024 65535",
    "net.ipv4.tcp_tw_reuse": "1",
    "net.ipv4.tcp_congestion_control": "cubic",
    "net.ipv6.conf.default.accept_dad": "0",
}


class BenchError(Exception):
    """The benchmark cannot go on; the message says why."""


@dataclass
class Pod:
    """One Pod: a network namespace with the server in it, and with whatever relay a variant puts there."""

    number: int
    netns: str
    cgroup: Path | None = None
    """Where its processes are, if in a cgroup of its own."""
    server: int = 0
    """Process of the server."""
    relays: list[int] = field(default_factory=list)
    """Processes of the relay that were started; their children work for them."""

    @property
    def ip(self) -> str:
        return f"10.78.{self.number}.1"

    @property
    def balancer(self) -> str:
        """The first of the balancer's trusted addresses."""
        return f"10.78.{self.number}.16"

    @property
    def stranger(self) -> str:
        """The first of the balancer's addresses that nobody trusts."""
        return f"10.78.{self.number}.144"

    @property
    def trusted(self) -> str:
        return f"10.78.{self.number}.0/25"


@dataclass(frozen=True)
class Variant:
    """One row of the tables: a Pod, and how the load generator is to talk to it."""

    name: str
    pod: Pod
    proxy: bool = True
    """Whether the balancer sends a PROXY header."""
    port: int = PORT
    stranger: bool = False
    """Whether the connection comes from an address that nobody trusts."""
    keeps_port: bool = True
    """Whether the application sees the client's port, too."""

    outbound: bool = False
    """Whether the application connects to a server outside, which is where the balancer else is."""

    @property
    def source(self) -> str:
        """The first address that connections come from."""
        if self.outbound:
            return self.pod.ip
        return self.pod.stranger if self.stranger else self.pod.balancer

    @property
    def target(self) -> str:
        """Where connections go to."""
        return self.pod.balancer if self.outbound else self.pod.ip


def run(*args: str, stdin: str | None = None) -> str:
    """Run a program to its end. Raises BenchError with what it said."""
    done = subprocess.run(args, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{' '.join(args[:6])}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def cpus() -> tuple[int, int]:
    """The CPU of the Pods and the CPU of the load generator; the same one if there is only one."""
    available = sorted(os.sched_getaffinity(0))
    return available[0], available[-1]


class Rig:
    """As a context manager: everything that was started and made is gone at the end."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.load = directory / "load"
        self.lb = f"srcip-bench-{os.getpid()}-lb"
        self.pods: list[Pod] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._claims = itertools.count(1)

    def __enter__(self) -> Rig:
        run("cc", "-O2", "-o", str(self.load), *map(str, LOAD_SOURCES))
        self._namespace(self.lb)
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            try:
                process.wait(3)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for name in (self.lb, *(pod.netns for pod in self.pods)):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
        for pod in self.pods:
            if pod.cgroup:  # empty, as its processes have been waited for
                pod.cgroup.rmdir()

    def pod(self, cgroups: Path | None = None) -> Pod:
        """A new Pod with the server running in it, on the Pods' CPU; in a new one of these `cgroups`, if any."""
        number = len(self.pods) + 1
        name = f"srcip-bench-{os.getpid()}-{number}"
        pod = Pod(number, name, cgroup=cgroups and cgroups / name)
        if pod.cgroup:
            pod.cgroup.mkdir()
        self.pods.append(pod)
        self._namespace(pod.netns)
        self._link(pod)
        pod.server = self._server(pod.netns, cpus()[0], pod.cgroup)
        return pod

    def outside(self) -> None:
        """Start the server outside, on the load generator's CPU."""
        self._server(self.lb, cpus()[1])

    def _server(self, netns: str, cpu: int, cgroup: Path | None = None) -> int:
        process = self._start(netns, [str(self.load), "server", str(PORT)], str(cpu), cgroup)
        self.wait(lambda: self._listens(netns, PORT), "the server")
        return process.pid

    def start(self, pod: Pod, command: Sequence[str], cpu: str | None = None) -> subprocess.Popen[bytes]:
        """Start a program in the Pod's namespace on the Pods' CPU, or on the CPUs of the list `cpu`."""
        return self._start(pod.netns, command, cpu or str(cpus()[0]), pod.cgroup)

    def _start(
        self, netns: str, command: Sequence[str], cpu: str, cgroup: Path | None = None
    ) -> subprocess.Popen[bytes]:
        words = ["ip", "netns", "exec", netns, "taskset", "-c", cpu, *command]
        log = (self.directory / f"{netns}.log").open("ab")
        with log:
            process = subprocess.Popen(in_cgroup(cgroup, words), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._processes.append(process)
        return process

    def relay(self, pod: Pod, command: Sequence[str], port: int, cpu: str | None = None) -> None:
        """Start a relay in a Pod and wait until it listens on `port`."""
        pod.relays.append(self.start(pod, command, cpu).pid)
        self.wait(lambda: self.listens(pod, port), f"{command[0]}: {self.said(pod)}")

    def seed(self) -> int:
        """The serial number of the first client that the next run claims."""
        return next(self._claims) * CLAIMED_PER_RUN

    def client(self, variant: Variant, mode: str, **options: int) -> subprocess.Popen[str]:
        """Start the load generator against a variant: on its own CPU, or in the Pod where it is the application."""
        given = {
            "sources": 1 if variant.outbound else SOURCES,
            "port": variant.port,
            "proxy": 2 if variant.proxy else 0,
            "seed": self.seed(),
        }
        netns, cpu = (variant.pod.netns, cpus()[0]) if variant.outbound else (self.lb, cpus()[1])
        words = [f"to={variant.target}", f"from={variant.source}"]
        words += [f"{key}={value}" for key, value in {**given, **options}.items()]
        command = ["ip", "netns", "exec", netns, "taskset", "-c", str(cpu), str(self.load), "client", mode]
        return subprocess.Popen(
            [*command, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def measure(self, variant: Variant, mode: str, **options: int) -> dict[str, Any]:
        """One run of the load generator; its line of JSON. Raises BenchError when it failed."""
        out, error = self.client(variant, mode, **options).communicate(timeout=120)
        if not out:
            said = self.said(variant.pod)
            raise BenchError(f"{variant.name}: load client {mode}: {error.strip() or 'no answer'}; {said}")
        return dict(json.loads(out))

    def wait(self, ready: Callable[[], bool], what: str, seconds: float = 10, every_s: float = 0.01) -> None:
        """Return when `ready`. Raises BenchError after `seconds`."""
        end = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > end:
                raise BenchError(f"not ready within {seconds:.0f} s: {what}")
            time.sleep(every_s)

    def inside(self, pod: Pod, *command: str, stdin: str | None = None) -> str:
        """Run a program in the Pod's namespace to its end."""
        return run("ip", "netns", "exec", pod.netns, *command, stdin=stdin)

    def listens(self, pod: Pod, port: int) -> bool:
        """Whether somebody listens on `port` in the Pod (asked by netlink: /proc/net/tcp is slow on a busy machine)."""
        return self._listens(pod.netns, port)

    def _listens(self, netns: str, port: int) -> bool:
        return bool(run("ip", "netns", "exec", netns, "ss", "-Hltn", f"sport = :{port}").strip())

    def said(self, pod: Pod) -> str:
        log = self.directory / f"{pod.netns}.log"
        return log.read_text(errors="replace").strip()[-600:] if log.exists() else ""

    def _namespace(self, name: str) -> None:
        run("ip", "netns", "add", name)
        for key, value in SETTINGS.items():
            subprocess.run(
                ["ip", "netns", "exec", name, "sysctl", "-qw", f"{key}={value}"], capture_output=True, check=False
            )
        run("ip", "-n", name, "link", "set", "lo", "up")

    def _link(self, pod: Pod) -> None:
        n = pod.number
        addresses = [*range(16, 16 + SOURCES), *range(144, 144 + SOURCES)]
        lb = [f"link add p{n} type veth peer name eth0 netns {pod.netns}", f"link set p{n} up"]
        lb += [f"address add 10.78.{n}.{last}/24 dev p{n}" for last in addresses]
        run("ip", "-n", self.lb, "-batch", "-", stdin="\n".join(lb) + "\n")
        inside = ["link set eth0 up", f"address add {pod.ip}/24 dev eth0", f"route add default via {pod.balancer}"]
        run("ip", "-n", pod.netns, "-batch", "-", stdin="\n".join(inside) + "\n")


def in_cgroup(cgroup: Path | None, command: Sequence[str]) -> list[str]:
    """`command` begun in a cgroup: a socket belongs to the one that it was made in."""
    script = 'echo $$ > "$1/cgroup.procs" && shift && exec "$@"'
    return ["sh", "-c", script, "sh", str(cgroup), *command] if cgroup else list(command)


def family(processes: Sequence[int]) -> list[int]:
    """These processes and their children."""
    lists = [Path(f"/proc/{pid}/task/{pid}/children").read_text().split() for pid in processes]
    return [*processes, *(int(child) for children in lists for child in children)]


def cpu_us(processes: Sequence[int]) -> float:
    """CPU time of processes with all their threads so far, in µs (proc(5), schedstat: exact, not sampled)."""
    total = 0
    for pid in processes:
        for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            total += int(task.read_text().split()[0])
    return total / 1000


def rss_mib(processes: Sequence[int]) -> float:
    """Resident memory of processes, in MiB."""
    total = 0
    for pid in processes:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    return total / 1024


def claimed(seed: int) -> str:
    """The client that load/client.c claims in its header for this serial number."""
    number = 1 + seed % 1024
    return f"198.18.{number // 256}.{number % 256}:{1024 + seed // 1024 % 64512}"
