"""A load balancer that states the client in a TCP option (TOA), for `srcip.io/client-from: toa`.

The kernel writes the option into its own segments: a sockops program of the cgroup in which the connection is opened.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from srcip_lab import bpf, cgroup
from srcip_lab.errors import LabError
from srcip_lab.header import Endpoint
from srcip_proxy.ebpf import libbpf

PROGRAM = Path(__file__).with_name("toa.bpf.c")
KIND = 254
ON_ACK, ON_DATA, EVERYWHERE = 1, 2, 3
"""Which segments have the option: the ACK that ends the handshake, those with data."""
_LONGEST = 20
_SOCK_OPS = 3  # enum bpf_attach_type


def option(client: Endpoint, kind: int = KIND) -> bytes:
    """The TCP option that names `client`."""
    address = client.ip.packed
    return struct.pack(">BBH", kind, 4 + len(address), client.port) + address


@dataclass(frozen=True)
class Sender:
    """A cgroup: connections that are opened in it have an option. The program goes with the cgroup."""

    group: Path
    program: libbpf.Object

    @contextmanager
    def sending(self, data: bytes, places: int = EVERYWHERE) -> Iterator[None]:
        """Connections that this process opens meanwhile have the option `data`."""
        self.program.put("option_map", struct.pack("=I", 0), struct.pack(f"=II{_LONGEST}s", places, len(data), data))
        with cgroup.inside(self.group):
            yield


@contextmanager
def sender(group: Path) -> Iterator[Sender]:
    """Make a sender of a cgroup. Raises BpfError, LabError."""
    program = libbpf.Object(bpf.compiled(PROGRAM))
    try:
        program.load()
        program.attach_cgroup("toa_sender", group, _SOCK_OPS)
        yield Sender(group, program)
    finally:
        program.close()


@contextmanager
def stating(lab: str, client: Endpoint) -> Iterator[None]:
    """Connections that this process opens meanwhile name `client`. Raises LabError."""
    try:
        with cgroup.balancer(lab) as group, sender(group) as balancer, balancer.sending(option(client)):
            yield
    except libbpf.BpfError as error:
        raise LabError(f"--toa needs root and a kernel that writes TCP options: {error}") from error
