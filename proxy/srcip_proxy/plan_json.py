"""How each field of a plan is read from JSON: in exactly its type, or not at all."""

from __future__ import annotations

from collections.abc import Callable

from srcip_proxy.headers import Pairs
from srcip_proxy.portranges import ProbeAlias, port_range


def _int(value: object) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is not an integer")
    return value


def _bool(value: object) -> bool:
    if type(value) is not bool:
        raise TypeError(f"{value!r} is not a boolean")
    return value


def _str(value: object) -> str:
    if type(value) is not str:
        raise TypeError(f"{value!r} is not a string")
    return value


def _list(value: object) -> list[object]:
    if type(value) is not list:
        raise TypeError(f"{value!r} is not a list")
    return value


def _aliases(value: object) -> tuple[ProbeAlias, ...]:
    if type(value) is not dict:
        raise TypeError(f"{value!r} is not an object of alias: port")
    return tuple(sorted(ProbeAlias(int(alias), _int(port)) for alias, port in value.items()))


def _texts(value: object) -> tuple[str, ...]:
    return tuple(_str(item) for item in _list(value))


def _pairs(value: object) -> Pairs:
    pairs = [_texts(item) for item in _list(value)]
    if any(len(pair) != 2 for pair in pairs):
        raise TypeError(f"{value!r} is not a list of pairs")
    return tuple((name, text) for name, text in pairs)


PORTS = ("inbound_ports", "http_ports", "outbound_ports")
READ: dict[str, Callable[[object], object]] = {
    "proxy_protocol_versions": lambda v: tuple(_int(item) for item in _list(v)),
    "probe_aliases": _aliases,
    "mesh": _bool,
    **dict.fromkeys(PORTS, lambda v: tuple(port_range(_str(item)) for item in _list(v))),
    **dict.fromkeys(("trusted_cidrs", "http_headers", "remove_headers"), _texts),
    **dict.fromkeys(("tlv_headers", "outbound_headers"), _pairs),
    **dict.fromkeys(("proxy_protocol", "node_proxy_protocol", "deliver_to", "client_address", "mode"), _str),
    **dict.fromkeys(
        ("forwarded_for", "forwarded_for_header", "http_other", "emit_proxy_protocol", "client_from"), _str
    ),
    **dict.fromkeys(("outbound_forwarded_for", "outbound_client_hostname"), _str),
    **dict.fromkeys(("header_timeout_ms", "max_header_bytes", "max_connections", "max_connections_per_client"), _int),
    **dict.fromkeys(("drain_timeout_s", "threads", "version", "request_timeout_ms", "keep_alive_timeout_s"), _int),
}
"""The reader of each field, by its name. Raises TypeError or ValueError."""
