"""A load balancer that states the client in a TCP option (TOA), for `srcip.io/client-from: toa`.

The kernel writes the option into its own segments: a sockops program of the cgroup in which the connection is opened.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from srcip_lab import bpf, cgroup
from srcip_lab.errors import LabError
from srcip_lab.header import Endpoint
from srcip_proxy import libbpf

PROGRAM = Path(__file__).with_name("toa.bpf.c")
KIND = 254
LONGEST = 20
_SOCK_OPS = 3  # enum bpf_attach_type


def option(client: Endpoint) -> bytes:
    """The TCP option that names `client`."""
    address = client.ip.packed
    return struct.pack(">BBH", KIND, 4 + len(address), client.port) + address


@contextmanager
def stating(lab: str, client: Endpoint) -> Iterator[None]:
    """Connections that this process opens meanwhile have the option in every segment after the SYN. Raises LabError."""
    with cgroup.balancer(lab) as group:
        try:
            _attach(group, option(client))
        except libbpf.BpfError as error:
            raise LabError(f"--toa needs root and a kernel that writes TCP options: {error}") from error
        with cgroup.inside(group):
            yield


def _attach(group: Path, data: bytes) -> None:
    """The program stays with the cgroup, and goes with it."""
    sender = libbpf.Object(bpf.compiled(PROGRAM))
    try:
        sender.load()
        sender.put("option_map", struct.pack("=I", 0), struct.pack(f"=I{LONGEST}s", len(data), data))
        sender.attach_cgroup("lab_toa", group, _SOCK_OPS)
    finally:
        sender.close()
