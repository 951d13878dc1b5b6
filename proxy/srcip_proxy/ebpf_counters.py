"""The counters of ebpf mode, asked of the programs themselves: this needs no capability and no mounted file system.

The hook that gives an application its client's address is asked for the peer of a UDP socket that is connected to an
address which only this module uses; it answers with a counter, 48 bits as address and port. Nothing is sent.
"""

from __future__ import annotations

import socket

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
)
"""In the order of enum counter in proxy/bpf/state.h."""
SERIES = {
    "accepted": ("srcip_accepted_connections_total", "header", "Connections that were handed to the application"),
    "fallback": ("srcip_fallback_connections_total", "reason", "Connections whose application saw the balancer"),
    "refused": ("srcip_refused_connections_total", "reason", "Connections that were refused, by reason"),
    "dropped": ("srcip_dropped_packets_total", "reason", "Packets that were dropped; TCP sends them again"),
}


def fingerprint() -> int | None:
    """Of the configuration that is attached to the cgroup of this process; None when there is none."""
    return _ask(FINGERPRINT_PORT)


def read() -> dict[tuple[str, str], int] | None:
    """Every counter by series and label; None when nothing is attached to the cgroup of this process."""
    values = {name: _ask(port) for port, name in enumerate(COUNTERS, 1)}
    found = {name: value for name, value in values.items() if value is not None}
    return found if len(found) == len(values) else None


def text(values: dict[tuple[str, str], int]) -> str:
    """The counters as Prometheus reads them."""
    lines = []
    for series, (metric, label, doc) in SERIES.items():
        lines += [f"# HELP {metric} {doc}.", f"# TYPE {metric} counter"]
        lines += [f'{metric}{{{label}="{name}"}} {value}' for (kind, name), value in values.items() if kind == series]
    return "\n".join(lines) + "\n"


def _ask(port: int) -> int | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect((ADDRESS, port))
        host, high = asking.getpeername()
    return None if (host, high) == (ADDRESS, port) else high << 32 | int.from_bytes(socket.inet_aton(host), "big")
