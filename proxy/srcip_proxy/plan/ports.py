"""TCP ports and ranges of them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter


@dataclass(frozen=True, order=True)
class PortRange:
    """TCP ports `first` to `last`, both included."""

    first: int
    last: int

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.last <= 65535:
            raise ValueError(f"port range {self}: allowed is 1 to 65535, first not above last")

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last


@dataclass(frozen=True, order=True)
class ProbeAlias:
    """A port that the kernel redirects to `port`, so that a kubelet probe does not meet the sidecar."""

    alias: int
    port: int


def port_range(text: str) -> PortRange:
    """Read `80` or `8000-8010`. Raises ValueError that says what is allowed."""
    first, dash, last = text.partition("-")
    if not _decimal(first) or (dash and not _decimal(last)):
        raise ValueError(f"{text!r} is not a port or a range of ports (80 or 8000-8010)")
    return PortRange(int(first), int(last) if dash else int(first))


def merge(ranges: Iterable[PortRange]) -> tuple[PortRange, ...]:
    """The same ports, sorted, as few ranges as possible."""
    merged: list[PortRange] = []
    for item in sorted(ranges, key=attrgetter("first", "last")):
        if merged and item.first <= merged[-1].last + 1:
            merged[-1] = PortRange(merged[-1].first, max(merged[-1].last, item.last))
        else:
            merged.append(item)
    return tuple(merged)


def holds(outer: Sequence[PortRange], inner: Iterable[PortRange]) -> bool:
    """Whether each of the `inner` ranges lies within one of the `outer` ones, which are sorted and disjoint."""
    return all(_holds(outer, item) for item in inner)


def _holds(outer: Sequence[PortRange], item: PortRange) -> bool:
    index = bisect_right(outer, item.first, key=lambda r: r.first) - 1
    return index >= 0 and item.last <= outer[index].last


def _decimal(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5
