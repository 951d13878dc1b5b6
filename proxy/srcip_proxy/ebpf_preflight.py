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


def findings(interface: str, cgroup: Path, objects: Sequence[Path]) -> list[str]:
    """What is missing, each with what to do; empty when nothing is."""
    return [*obstacles(platform.release()), *places(interface, cgroup, objects)]


def obstacles(release: str) -> list[str]:
    """What is missing in the kernel and in this process."""
    return [*_kernel(release), *capabilities.missing("BPF", "NET_ADMIN", files="python3")]


def _kernel(release: str) -> list[str]:
    version = re.match(r"(\d+)\.(\d+)", release)
    if version and (int(version[1]), int(version[2])) >= OLDEST:
        return []
    wanted = ".".join(map(str, OLDEST))
    return [f"the node's Linux is {release}, and ebpf mode needs {wanted}: choose another node, or mode tproxy"]


def places(interface: str, cgroup: Path, objects: Sequence[Path]) -> list[str]:
    """What cannot be attached, or attached to."""
    found = []
    if not (cgroup / "cgroup.controllers").exists():
        found.append(f"{cgroup} is no directory of cgroup v2: mount /sys/fs/cgroup of a node that has it, read-only")
    found += [f"{program} is missing: it is part of the image" for program in objects if not program.exists()]
    return [*found, *_interface(interface)]


def _interface(name: str) -> list[str]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            answer = fcntl.ioctl(asking, _HARDWARE_ADDRESS, struct.pack("16s24x", name.encode()[:15]))
        except OSError as error:
            return [f"interface {name}: {error.strerror}"]
    (kind,) = struct.unpack_from("=H", answer, 16)
    return [] if kind == _ETHERNET else [f"interface {name} is no Ethernet (type {kind}): use tproxy"]
