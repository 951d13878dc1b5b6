"""The kinds of values that are lists of ports: see values.py."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from srcip_proxy.plan import MOST_REDIRECTED, RESERVED_PORTS, PortRange, merge, port_range
from srcip_webhook.pods import printable
from srcip_webhook.values import MAX_TEXT, BadValue, each

MAX_PORTS = 256
"""Longest accepted list of ports."""
_NAME = re.compile(r"(?=.*[a-z])[a-z0-9](?:-?[a-z0-9])*", re.ASCII)


@dataclass(frozen=True)
class PortList:
    """Numbers, ranges and container port names, with commas between; names stay text until the Pod is known."""

    allowed: str = "port numbers from 1 to 65535, ranges (8000-8010) and names of container ports, with commas between"

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": 1, "maxLength": MAX_TEXT}

    def parse(self, text: str) -> tuple[PortRange | str, ...]:
        return tuple(each(text, _port_item, MAX_PORTS))


@dataclass(frozen=True)
class InboundPorts(PortList):
    """A list of ports, or `none`: no port at all."""

    allowed: str = f"none, or {PortList.allowed}"

    def parse(self, text: str) -> tuple[PortRange | str, ...]:
        if text == "none":
            return ()
        ports = super().parse(text)
        if "none" in ports:
            raise BadValue([f"{printable(text)} combines none with other ports"])
        return ports


@dataclass(frozen=True)
class PortNumbers:
    """Numbers and ranges with commas between, read as sorted, disjoint ranges; none is the sidecar's own."""

    allowed: str = (
        f"port numbers from 1 to 65535 and ranges (8000-8010), with commas between, at most {MOST_REDIRECTED} ports, "
        f"without the sidecar's own {', '.join(map(str, sorted(RESERVED_PORTS)))}"
    )

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "string", "maxLength": MAX_TEXT, "pattern": "^[0-9, \\t\\r\\n-]+$"}

    def parse(self, text: str) -> tuple[PortRange, ...]:
        ports = merge(each(text, self._range, MAX_PORTS))
        if (count := sum(r.last - r.first + 1 for r in ports)) > MOST_REDIRECTED:
            raise BadValue([f"{printable(text)} has {count} ports"])
        return ports

    @staticmethod
    def _range(item: str) -> PortRange:
        try:
            ports = port_range(item)
        except ValueError:
            raise BadValue([f"{printable(item)} is neither a port nor a range"]) from None
        if own := [str(port) for port in sorted(RESERVED_PORTS) if port in ports]:
            raise BadValue([f"{printable(item)} holds the sidecar's own {', '.join(own)}"])
        return ports


def _port_item(item: str) -> PortRange | str:
    if len(item) <= 15 and _NAME.fullmatch(item):
        return item
    try:
        return port_range(item)
    except ValueError:
        raise BadValue([f"{printable(item)} is neither a port, a range nor a port's name"]) from None
