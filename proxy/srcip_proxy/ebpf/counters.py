"""The counters of ebpf mode, read by getpeername(): this needs no capability and no mounted file system.

The peer of a UDP socket that is connected to an address which only this module uses is a counter: the getpeername hook
returns 48 bits of it as address and port. Nothing is sent.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping

ADDRESS = "127.83.73.80"
FINGERPRINT_PORT = 9999
COUNTERS = (
    ("accepted", "proxy"),
    ("accepted", "local"),
    ("accepted", "none"),
    ("accepted", "toa"),
    ("fallback", "family"),
    ("refused", "checksum"),
    ("refused", "empty"),
    ("refused", "family"),
    ("refused", "header_closed"),
    ("refused", "header_timeout"),
    ("refused", "malformed"),
    ("refused", "no_header"),
    ("refused", "no_option"),
    ("refused", "no_room"),
    ("refused", "simultaneous_open"),
    ("refused", "too_long"),
    ("refused", "unusable_address"),
    ("refused", "version"),
    ("dropped", "fragment"),
    ("dropped", "early"),
    ("dropped", "checksum"),
    ("dropped", "timestamp"),
    ("fallback", "reset"),
)
"""In the order of enum counter in proxy/bpf/state.h.

A new one comes last: a Pod keeps the programs of its first day, and the exporter of a newer version reads them.
"""
Counters = Mapping[tuple[str, str], int]
SERIES = {
    "accepted": ("srcip_accepted_connections_total", "header", "Connections that were delivered to the application"),
    "fallback": (
        "srcip_fallback_connections_total",
        "reason",
        "Connections whose application sees the balancer's address instead of the client's",
    ),
    "refused": ("srcip_refused_connections_total", "reason", "Connections that were refused, by reason"),
    "dropped": ("srcip_dropped_packets_total", "reason", "Packets that were dropped; TCP retransmits them"),
}


def fingerprint() -> int | None:
    """Of the configuration that is attached to the cgroup of this process; None when there is none."""
    return _query(FINGERPRINT_PORT)


def read() -> dict[tuple[str, str], int] | None:
    """Every counter by series and label; None when nothing is attached to the cgroup of this process."""
    values = {name: _query(port) for port, name in enumerate(COUNTERS, 1)}
    found = {name: value for name, value in values.items() if value is not None}
    return found if len(found) == len(values) else None


def text(values: Counters) -> str:
    """The counters as Prometheus reads them."""
    return page([({}, values)])


def page(pods: Iterable[tuple[Mapping[str, str], Counters]]) -> str:
    """The same of many Pods, each with labels of its own. Pure."""
    lines: dict[str, list[str]] = {series: [] for series in SERIES}
    for labels, values in pods:
        common = "".join(f'{name}="{_escaped(value)}",' for name, value in labels.items())
        for (series, name), value in values.items():
            metric, label, _ = SERIES[series]
            lines[series].append(f'{metric}{{{common}{label}="{name}"}} {value}')
    return "\n".join(line for series, rows in lines.items() for line in [*_head(series), *rows]) + "\n"


def _head(series: str) -> list[str]:
    metric, _, doc = SERIES[series]
    return [f"# HELP {metric} {doc}.", f"# TYPE {metric} counter"]


def _escaped(value: str) -> str:
    """A label's value in Prometheus' text form."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _query(port: int) -> int | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((ADDRESS, port))
        host, high = sock.getpeername()
    return None if (host, high) == (ADDRESS, port) else high << 32 | int.from_bytes(socket.inet_aton(host), "big")
