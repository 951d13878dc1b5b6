"""Why ebpf mode cannot be set up here, in plain words."""

from __future__ import annotations

import fcntl
import platform
import re
import socket
import struct
from pathlib import Path

OLDEST = (5, 17)
"""The first Linux with bpf_loop, by which the header is read."""
CAPABILITIES = {"NET_ADMIN": 12, "BPF": 39}  # linux/capability.h
_HARDWARE_ADDRESS = 0x8927  # SIOCGIFHWADDR
_ETHERNET = 1  # ARPHRD_ETHER


def findings(interface: str, cgroup: Path, program: Path) -> list[str]:
    """What is missing, each with what to do; empty when nothing is."""
    found = [*_kernel(platform.release()), *_capabilities(Path("/proc/self/status").read_text())]
    if not (cgroup / "cgroup.controllers").exists():
        found.append(f"{cgroup} is no directory of cgroup v2: mount /sys/fs/cgroup of a node that has it, read-only")
    if not program.exists():
        found.append(f"{program} is missing: it is part of the image")
    return [*found, *_interface(interface)]


def _kernel(release: str) -> list[str]:
    match = re.match(r"(\d+)\.(\d+)", release)
    if match and (int(match[1]), int(match[2])) >= OLDEST:
        return []
    return [f"the node runs Linux {release}; ebpf mode needs {OLDEST[0]}.{OLDEST[1]} or newer: use tproxy"]


def _capabilities(status: str) -> list[str]:
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    held = int(fields["CapEff"], 16)
    missing = [name for name, bit in CAPABILITIES.items() if not held >> bit & 1]
    return [f"CAP_{name} is missing: the container's securityContext does not add it" for name in missing]


def _interface(name: str) -> list[str]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            answer = fcntl.ioctl(asking, _HARDWARE_ADDRESS, struct.pack("16s24x", name.encode()[:15]))
        except OSError as error:
            return [f"interface {name}: {error.strerror}"]
    (kind,) = struct.unpack_from("=H", answer, 16)
    return [] if kind == _ETHERNET else [f"interface {name} is no Ethernet (type {kind}): use tproxy"]
