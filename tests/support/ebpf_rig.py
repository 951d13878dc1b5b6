"""Ring 2 of ebpf mode: a balancer, a stranger and a Pod in network namespaces, the Pod with a cgroup of its own."""

import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from srcip_lab import bpf, network
from srcip_lab.namespace import Host
from srcip_lab.network import Network
from srcip_proxy.ebpf.counters import COUNTERS
from srcip_proxy.plan import Plan
from support import rig
from support.rig import APP, POD_ENV, Client, Seen, plan
from support.waiting import DEADLINE_S, until

ONLY_BPF_AND_NET_ADMIN = ("setpriv", "--inh-caps=-all,+bpf,+net_admin", "--bounding-set=-all,+bpf,+net_admin")
LB4_ADDRESS = "10.77.1.2"
_NUMBERS = itertools.count()
ALL_PORTS = ("::", "7000", "::", "7001", "::", "7002")


def needs_root() -> None:
    """Skip with the reason where the programs cannot be compiled and attached; in CI that is a failure."""
    rig.needs_root()
    missing = [name for name in ("clang", "setpriv", "nsenter", "bpftool", "ethtool", "tc") if not shutil.which(name)]
    reason = f"missing on this machine: {', '.join(missing)} (e2e/setup.sh test)" if missing else ""
    if not cgroup_root():
        reason = "cgroup v2 is not mounted"
    if reason and os.environ.get("CI"):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


def cgroup_root() -> Path | None:
    """Where cgroup v2 is mounted."""
    rows = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    return next((Path(row[1]) for row in rows if row[2] == "cgroup2"), None)


def objects() -> list[Path]:
    """The compiled programs, those that work on newer kernels first."""
    return [bpf.compiled(source) for source in bpf.BOTH]


def object_options(objects: Iterable[Path]) -> list[str]:
    return [word for path in objects for word in ("--object", str(path))]


@dataclass
class Pod:
    """A running Pod with the programs attached, seen from outside."""

    net: Network
    cgroup: Path
    wanted: Plan
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    log: Path = Path(os.devnull)
    """What the test application said."""

    def inside(self, words: list[str], **options: object) -> subprocess.Popen[str]:
        """Start a program in the Pod's network and cgroup, as a container's."""
        script = f'echo $$ > {self.cgroup}/cgroup.procs && exec "$@"'
        return self.net.pod.popen(["sh", "-c", script, "sh", *words], **options)

    def run(self, words: list[str], **env: str) -> subprocess.CompletedProcess[str]:
        """Run a program in the Pod to its end."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": {**os.environ, **env}}
        process = self.inside(words, **pipes)
        out, err = process.communicate(timeout=DEADLINE_S)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def proxy(self, *words: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """`srcip-proxy` with the Pod's plan."""
        command = [*prefix, sys.executable, "-m", "srcip_proxy", *words]
        return self.run(command, SRCIP_PLAN=self.wanted.to_env(), HOST_IP="10.77.0.1")

    def attach(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Attach the programs, with no other capabilities than in a Pod."""
        words = ("ebpf", "attach", "--cgroup", str(self.cgroup), *object_options(objects()))
        return self.proxy(*words, *options, prefix=ONLY_BPF_AND_NET_ADMIN)

    def start(self, words: list[str]) -> Path:
        """Start an application and wait until it listens; its output is in the file returned."""
        log = Path(tempfile.gettempdir()) / f"{self.cgroup.name}-{len(self.processes)}.log"
        with log.open("w") as output:
            self.processes.append(
                self.inside(words, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **POD_ENV})
            )
        until(lambda: "listening" in log.read_text(), log.read_text)
        return log

    def stats(self) -> dict[str, int]:
        """The counters that are not zero, as `refused malformed`."""
        said = self.proxy("ebpf", "stats")
        assert said.returncode == 0, said.stderr
        rows = re.findall(r'^srcip_(\w+?)_\w+_total\{\w+="(\w+)"\} (\d+)$', said.stdout, re.MULTILINE)
        assert sorted(row[:2] for row in rows) == sorted(COUNTERS)
        return {f"{series} {name}": int(value) for series, name, value in rows if value != "0"}

    def connect(
        self, port: int = 7000, *, host: Host | None = None, to: str | None = None, **options: object
    ) -> Client:
        client = Client((host or self.net.lb).connect(to or self.net.pod.ipv4, port, **options))  # type: ignore[arg-type]
        client.sock.setsockopt(6, 1, 1)  # TCP_NODELAY
        return client

    def seen(self, data: bytes, port: int = 7000, **options: object) -> Seen:
        """What becomes of one connection that begins with `data`."""
        with self.connect(port, **options) as client:  # type: ignore[arg-type]
            client.send(data)
            return client.seen()

    def programs(self) -> list[str]:
        """Which programs are on the Pod's interface and its cgroup, by the kernel's numbers."""
        return programs(self.net.pod, self.cgroup)

    def accepted(self) -> int:
        """How many connections the application has accepted so far."""
        return self.log.read_text().count("accepted")

    def sh(self, host: str, script: str) -> str:
        """Run a shell script in the network of one host."""
        done = self.net.part(host).run(["sh", "-c", script], capture_output=True)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    def half_open(self) -> int:
        """Half-open connections in the Pod."""
        return len(self.sh("pod", "ss -Htn state syn-recv").splitlines())

    def stop(self) -> None:
        for number, process in enumerate(self.processes):
            process.kill()
            process.wait()
            (Path(tempfile.gettempdir()) / f"{self.cgroup.name}-{number}.log").unlink(missing_ok=True)


Pods = Callable[..., Pod]


@contextmanager
def running(app: tuple[str, ...] = ALL_PORTS, *, attached: bool = True, **changes: object) -> Iterator[Pod]:
    """A Pod with the test application. Where there can be none, the test is skipped (see needs_root)."""
    needs_root()
    name = f"e{os.getpid()}x{next(_NUMBERS)}"
    net = network.network(name)
    root = cgroup_root()
    assert root
    cgroup = root / f"srcip-{name}"
    network.create(net)
    cgroup.mkdir()
    pod = Pod(net, cgroup, plan(**changes))
    try:
        if attached:
            said = pod.attach()
            assert said.returncode == 0, said.stderr
        pod.log = pod.start([sys.executable, str(APP), *app])
        yield pod
    finally:
        pod.stop()
        network.delete(network.existing(net))
        remove(cgroup)


def remove(cgroup: Path) -> None:
    """A cgroup, if it is there, goes when its last process has been collected."""
    with suppress(FileNotFoundError):
        until(lambda: _removed(cgroup))


def _removed(cgroup: Path) -> bool:
    try:
        cgroup.rmdir()
    except FileNotFoundError:
        raise
    except OSError:
        return False
    return True


def programs(host: Host, cgroup: Path) -> list[str]:
    """The numbers of those on the interface of `host`, by tcx or clsact, and on the cgroup."""
    script = f"""
        {sys.executable} {Path(__file__).parent / "tcx.py"} eth0
        tc filter show dev eth0 ingress; tc filter show dev eth0 egress
        bpftool cgroup show {cgroup} effective | awk '/ (srcip|cni)_/ {{print " id " $1}}'"""
    done = host.run(["sh", "-c", script], capture_output=True)
    assert done.returncode == 0, done.stderr
    return re.findall(r" id (\d+)", str(done.stdout))


def still_echoes(client: Client, text: bytes) -> bool:
    """Whether an echo still comes back on a connection that was greeted before."""
    client.got = b"\n"
    client.send(text)
    return client.seen(rest=len(text), quiet=0.02).rest == text
