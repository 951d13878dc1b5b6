"""PROXY protocol headers as a load balancer sends them, versions 1 and 2. Pure.

Specification: https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, sections 2.1 and 2.2.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
VERSION_2_PROXY = 0x21
TCP_OVER = {4: 0x11, 6: 0x21}


@dataclass(frozen=True)
class Endpoint:
    """An IP address with a TCP port."""

    ip: ipaddress.IPv4Address | ipaddress.IPv6Address
    port: int

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if self.ip.version == 6 else f"{self.ip}:{self.port}"


def endpoint(text: str, default_port: int) -> Endpoint:
    """Read `203.0.113.7:54321`, `[2001:db8::7]:54321` or an address alone. Raises ValueError with what is allowed."""
    host, port = text, ""
    if text.startswith("["):
        host, closed, port = text[1:].partition("]")
        if not closed or (port and not port.startswith(":")):
            raise ValueError(f"{text!r} is not [IPv6]:PORT")
        port = port[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(f"{text!r} is not IP, IPv4:PORT or [IPv6]:PORT") from None
    if port and not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ValueError(f"{text!r}: the port is not a number from 0 to 65535")
    return Endpoint(ip, int(port) if port else default_port)


def v1(client: Endpoint, server: Endpoint) -> bytes:
    """The line of version 1. Raises ValueError when the two are not of one family."""
    family = _family(client, server)
    return f"PROXY TCP{family} {client.ip} {server.ip} {client.port} {server.port}\r\n".encode()


def v2(client: Endpoint, server: Endpoint, tlvs: tuple[tuple[int, bytes], ...] = ()) -> bytes:
    """The binary header of version 2 with `tlvs` as (type, value). Raises ValueError as `v1` does."""
    family = _family(client, server)
    addresses = client.ip.packed + server.ip.packed + struct.pack("!HH", client.port, server.port)
    rest = addresses + b"".join(struct.pack("!BH", kind, len(value)) + value for kind, value in tlvs)
    return SIGNATURE + struct.pack("!BBH", VERSION_2_PROXY, TCP_OVER[family], len(rest)) + rest


def _family(client: Endpoint, server: Endpoint) -> int:
    if client.ip.version != server.ip.version:
        raise ValueError(f"a header names one family: {client} and {server} are of two")
    return client.ip.version
