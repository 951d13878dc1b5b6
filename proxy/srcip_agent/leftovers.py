"""Takes away what an attach that was killed has left: programs that were never put to work.

tcx has no names, so that a second attach would come beside the first one's. Nobody else attaches meanwhile (setup.py
has the Pod's lock), and nothing is at work in this network namespace: its programs were asked before.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

from srcip_proxy.ebpf.exporter.kernel import Kernel
from srcip_proxy.ebpf.libbpf import GETPEERNAME4, GETPEERNAME6

PACKETS = ("srcip_ingress", "srcip_egress")
PEERS = ("srcip_peer4", "srcip_peer6")
_TCX = (46, 47)  # BPF_TCX_INGRESS, BPF_TCX_EGRESS of enum bpf_attach_type
_SETTINGS = ("settings_map", 24)
"""struct settings of proxy/bpf/state.h, whose first eight bytes are the network's cookie: 0 until the programs work."""


def remove(kernel: Kernel, interfaces: Sequence[str], cgroup: Path) -> None:
    """Raises OSError."""
    for index in map(socket.if_nametoindex, interfaces):
        for kind in _TCX:
            for number in kernel.on_interface(index, kind):
                if kernel.program(number).name in PACKETS:
                    kernel.detach(number, index, kind)
    directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for kind in (GETPEERNAME4, GETPEERNAME6):
            for number in kernel.attached(cgroup, kind):
                if is_idle(kernel, number):
                    kernel.detach(number, directory, kind)
    finally:
        os.close(directory)


def is_idle(kernel: Kernel, number: int) -> bool:
    """Whether it is a program of ours that was never put to work. Those of a Pod's earlier sandboxes are not: what they
    have counted stays."""
    program = kernel.program(number)
    if program.name not in PEERS:
        return False
    name, size = _SETTINGS
    settings = [found for each in program.maps if (found := _settings(kernel, each, name, size)) is not None]
    return all(struct.unpack_from("=Q", each)[0] == 0 for each in settings)


def _settings(kernel: Kernel, number: int, name: str, size: int) -> bytes | None:
    try:
        return kernel.first(number, name, size)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return None
