"""Why ebpf mode cannot be set up here, in plain words."""

from __future__ import annotations

import fcntl
import platform
import re
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

from srcip_proxy import capabilities

OLDEST = (5, 17)
"""The first Linux with bpf_loop, by which the header is read."""
_HARDWARE_ADDRESS = 0x8927  # SIOCGIFHWADDR
_ETHERNET = 1  # ARPHRD_ETHER


def findings(interfaces: Sequence[str], cgroup: Path, objects: Sequence[Path]) -> list[str]:
    """What is missing, each with what to do; empty when nothing is."""
    return [*obstacles(platform.release()), *places(interfaces, cgroup, objects)]


def obstacles(release: str) -> list[str]:
    """What is missing in the kernel and in this process."""
    return [*kernel(release), *capabilities.missing("BPF", "NET_ADMIN", files="python3")]


def kernel(release: str) -> list[str]:
    """What is missing in the kernel."""
    found = re.match(r"(\d+)\.(\d+)", release)
    if found and (int(found[1]), int(found[2])) >= OLDEST:
        return []
    oldest = ".".join(map(str, OLDEST))
    return [f"the node's Linux is {release}, and ebpf mode needs {oldest}: choose another node, or mode tproxy"]


def places(interfaces: Sequence[str], cgroup: Path, objects: Sequence[Path]) -> list[str]:
    """What cannot be attached, or attached to."""
    found = []
    if not (cgroup / "cgroup.controllers").exists():
        found.append(
            f"{cgroup} is not a directory of cgroup v2: mount /sys/fs/cgroup of a node with cgroup v2, read-only"
        )
    found += [
        (f"{program} is missing: use the image of srcip-proxy unchanged") for program in objects if not program.exists()
    ]
    return [*found, *(text for name in interfaces for text in _interface(name))]


def ethernets() -> list[str]:
    """The Pod's interfaces whose packets the programs can read, those of further networks among them."""
    return [name for _, name in socket.if_nameindex() if _kind(name) == _ETHERNET]


def _interface(name: str) -> list[str]:
    try:
        kind = _kind(name)
    except OSError as error:
        return [f"interface {name}: {error.strerror}"]
    return [] if kind == _ETHERNET else [f"interface {name} is not Ethernet (type {kind}): use mode tproxy"]


def _kind(name: str) -> int:
    """What its hardware addresses are (ARPHRD_* of linux/if_arp.h). Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        answer = fcntl.ioctl(sock, _HARDWARE_ADDRESS, struct.pack("16s24x", name.encode()[:15]))
    return int(struct.unpack_from("=H", answer, 16)[0])
