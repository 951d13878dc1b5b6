"""The network of a control plane: one namespace for the API server, with a bridge that the Pods are plugged into.

    this machine  10.246.128.1 ── 10.246.128.2  API server 10.246.0.1 (bridge) ── Pods 10.246.0.2 ...

Several can be up at once: each has a slot, with a link of its own to this machine (10.246.128+SLOT). Who holds the lock
of a slot is alive; whatever is found of a slot that nobody holds was left behind by a crash, and is removed.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from srcip_lab.errors import LabError
from srcip_lab.namespace import RUN_NETNS, Host
from srcip_lab.state import Process
from srcip_lab.tools import run

PREFIX = "srcip-cp-"
"""Every namespace and link of a control plane is named so."""
SLOTS = 16
LOCKS = Path("/run/srcip-cp")
POD_CIDR = "10.246.0.0/18"
SERVICE_CIDR = "10.246.192.0/18"
API_IP = "10.246.0.1"
"""The API server, as Pods see it."""
BRIDGE_MAC = "02:0a:f6:00:00:01"
"""Without one of its own a bridge takes a port's, and another one when that Pod goes: packets of the rest get lost."""
FIRST_POD = 2


@dataclass(frozen=True)
class Site:
    """The namespaces and addresses of one control plane."""

    slot: int

    @property
    def api(self) -> Host:
        """Where etcd, the API server and the controllers run; its address is the one that this machine reaches."""
        return Host("api", f"{self.prefix}api", (f"10.246.{128 + self.slot}.2", API_IP))

    @property
    def prefix(self) -> str:
        """How the names of its namespaces begin."""
        return f"{PREFIX}{self.slot}-"

    @property
    def link(self) -> str:
        """The interface of this machine that leads to it."""
        return f"{PREFIX}{self.slot}"

    def pod(self, number: int) -> Host:
        """The namespace of the Pod with this number, from 0."""
        high, low = divmod(FIRST_POD + number, 256)
        if high >= 64:
            raise LabError(f"Pod number {number}: {POD_CIDR} has no address for it")
        return Host("pod", f"{self.prefix}pod{number}", (f"10.246.{high}.{low}",))

    def create(self) -> None:
        """Make the namespace of the API server, its bridge and the link to this machine."""
        run("ip", "netns", "add", self.api.netns)
        lines = [
            "link set lo up",
            f"link add pods address {BRIDGE_MAC} type bridge",
            f"address add {API_IP}/18 dev pods",
            "link set pods up",
        ]
        _batch(self.api, lines)
        run("ip", "link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.api.netns)
        run("ip", "address", "add", f"10.246.{128 + self.slot}.1/30", "dev", self.link)
        run("ip", "link", "set", self.link, "up")
        _batch(self.api, [f"address add {self.api.ipv4}/30 dev eth0", "link set eth0 up"])

    def plug(self, pod: Host) -> None:
        """Make the namespace of a Pod and connect it to the bridge."""
        run("ip", "netns", "add", pod.netns)
        port = pod.netns.removeprefix(self.prefix)
        _batch(
            self.api, [f"link add {port} type veth peer name eth0 netns {pod.netns}", f"link set {port} master pods up"]
        )
        _batch(pod, ["link set lo up", f"address add {pod.ipv4}/18 dev eth0", "link set eth0 up"])

    def clear(self) -> None:
        """End every process that is in one of its namespaces, and remove them all; what is gone is no error."""
        for path in sorted(RUN_NETNS.glob(f"{self.prefix}*")):
            remove(path.name)
        if Path("/sys/class/net", self.link).exists():
            run("ip", "link", "delete", self.link)


def remove(netns: str) -> None:
    """End the processes in a namespace and remove it."""
    for pid in run("ip", "netns", "pids", netns).split():
        if process := Process.of(int(pid)):
            process.signal(signal.SIGKILL)
            process.wait(5)
    run("ip", "netns", "delete", netns)


@contextmanager
def site() -> Iterator[Site]:
    """A site that nobody else has, for as long as the block lasts; leftovers of crashed runs are removed first."""
    LOCKS.mkdir(exist_ok=True)
    held = [slot for slot in map(_take, range(SLOTS)) if slot]
    if not held:
        raise LabError(f"all {SLOTS} slots for control planes are taken (see ip netns, {PREFIX}*)")
    for mine, _ in held:
        mine.clear()
    for _, handle in held[1:]:
        os.close(handle)
    mine, handle = held[0]
    try:
        mine.create()
        yield mine
    finally:
        mine.clear()
        os.close(handle)


def _take(slot: int) -> tuple[Site, int] | None:
    handle = os.open(LOCKS / str(slot), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return Site(slot), handle


def _batch(host: Host, lines: list[str]) -> None:
    run("ip", "-n", host.netns, "-batch", "-", stdin="\n".join(lines) + "\n")
