"""What is done for one Pod, by a process of its own that ends with it: go into the Pod, attach the programs, be gone.

In the Pod means: in its network namespace, and in a cgroup of it. So the kernel answers for this Pod, and the memory
of its maps is the Pod's own. Killed between any two steps, it leaves programs that do nothing; the next try takes them
away.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from srcip_agent import leftovers, sandbox
from srcip_agent.sandbox import Network, Sandbox
from srcip_proxy import notices
from srcip_proxy import pod as pods
from srcip_proxy.ebpf import attach, counters, init, maps, preflight
from srcip_proxy.ebpf.exporter.kernel import Kernel
from srcip_proxy.ebpf.libbpf import BpfError
from srcip_proxy.plan import Plan
from srcip_proxy.pod import Address, Pod

_ADDRESS = 0x8915  # SIOCGIFADDR
_IF_INET6 = Path("/proc/net/if_inet6")
NEWCGROUP, NEWNET = 0x02000000, 0x40000000


class NotYetError(Exception):
    """The Pod is not ready to be set up; try again soon."""


class RefusedError(Exception):
    """This Pod can't be set up: a reason in one word, and a sentence."""

    def __init__(self, reason: str, text: str) -> None:
        self.reason = reason
        super().__init__(text)


@dataclass(frozen=True)
class Node:
    """What is known of the node."""

    namespaces: Path
    """A directory as /proc/PID/ns, of a process that is in the node's own namespaces."""
    addresses: tuple[Address, ...]
    """Where its own traffic comes from, as far as the API says so."""
    objects: tuple[Path, ...]
    """The compiled programs."""

    @property
    def network(self) -> Network:
        """Its own network namespace. Raises OSError."""
        return sandbox.identity(self.namespaces / "net")


@dataclass(frozen=True)
class Done:
    """What is in place, and whether it was not there before."""

    text: str
    is_new: bool


def set_up(plan: Plan, place: Sandbox, node: Node) -> Done:
    """Attach the programs from within the Pod. Raises NotYetError, RefusedError, OSError.

    The process stays in the Pod: it must be one that ends now.
    """
    network = _open(place, node)
    lock = os.open(place.cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(lock, fcntl.LOCK_EX)  # another agent of this node may be at it
    _join_cgroup(place.group, node)
    _enter(network, NEWNET)
    try:
        return _attach(plan, place, node)
    except RefusedError as error:
        notices.send(f"the agent of this node does not attach the programs: {error}")
        raise


def _attach(plan: Plan, place: Sandbox, node: Node) -> Done:
    interfaces = _interfaces()
    try:
        before = counters.fingerprint()
        if before is None:
            leftovers.remove(Kernel(), interfaces, place.cgroup)
        where = attach.Place(interfaces, place.cgroup)
        text = attach.attach(plan, _pod(node), node.objects, where, maps.plan_fingerprint(plan))
        return Done(text, before is None)
    except attach.AlreadyAttachedError as error:
        raise RefusedError("other_configuration", str(error)) from None
    except BpfError as error:
        raise RefusedError("kernel", "; ".join([*init.explained(error), str(error)])) from None


def _open(place: Sandbox, node: Node) -> int:
    """The namespace's file. Its process is in the Pod's cgroup still, so that it is this Pod's: numbers come again."""
    try:
        network = os.open(sandbox.PROC / str(place.process) / "ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotYetError("its process has just ended") from None
    found = os.fstat(network)
    if (found.st_dev, found.st_ino) != place.network or place.process not in sandbox.members(place.group):
        raise NotYetError("its process has just ended")
    if place.network == node.network:
        raise RefusedError("host_network", "it has the node's network, which the agent never touches")
    return network


def _join_cgroup(group: Path, node: Node) -> None:
    """The node's cgroup namespace first: where cgroups are delegated by namespace, nobody moves out of his own."""
    theirs = os.open(node.namespaces / "cgroup", os.O_RDONLY | os.O_CLOEXEC)
    _enter(theirs, NEWCGROUP)
    try:
        (group / "cgroup.procs").write_text("0")
    except FileNotFoundError:
        raise NotYetError("its cgroup has just gone") from None


def _enter(handle: int, kind: int) -> None:
    """setns(2), which Python has from 3.12 on."""
    if ctypes.CDLL(None, use_errno=True).setns(handle, kind):
        raise OSError(ctypes.get_errno(), f"setns: {os.strerror(ctypes.get_errno())}")
    os.close(handle)


def _interfaces() -> tuple[str, ...]:
    """The Pod's Ethernet interfaces, once the runtime has given them an address."""
    names = [name for _, name in socket.if_nameindex() if name != "lo"]
    if not any(map(_has_address, names)):
        raise NotYetError("its network has no address yet")
    if not (found := tuple(preflight.ethernets())):
        raise RefusedError(
            "no_ethernet", f"none of its interfaces ({', '.join(names)}) is an Ethernet: use mode tproxy"
        )
    return found


def _has_address(interface: str) -> bool:
    """One that others may know it by: of IPv4, or of IPv6 and global (proc(5), if_inet6: scope 00)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            fcntl.ioctl(asking, _ADDRESS, struct.pack("16s24x", interface.encode()[:15]))
        except OSError:
            rows = map(str.split, _IF_INET6.read_text().splitlines() if _IF_INET6.exists() else [])
            return any(row[5] == interface and row[3] == "00" for row in rows)
    return True


def _pod(node: Node) -> Pod:
    """What the programs are told of the Pod: who is its node. Its gateways are read here, in its network."""
    return Pod((), tuple(dict.fromkeys([*node.addresses, *pods.gateways()])))
