"""The kinds of values that a plan's fields hold: how each is read from JSON, in exactly its type or not at all, judged
and written. A field of a plan names its kind in its metadata."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

from srcip_proxy.plan.headers import Pairs
from srcip_proxy.plan.ports import PortRange, ProbeAlias, merge, port_range


class Kind:
    """How the values of one field are read, judged and written."""

    def read(self, value: object) -> Any:
        """The value that JSON has as this one. Raises TypeError, ValueError."""
        raise NotImplementedError

    def fault(self, value: Any) -> str | None:
        """What is wrong with a value, or None. By default the plan as a whole judges it."""
        return None

    def plain(self, value: Any) -> object:
        """The value as JSON has it."""
        return value


def of(kind: Kind, default: Any) -> Any:
    """A field of this kind. One without a default is a `field(metadata={"kind": kind})`."""
    return field(default=default, metadata={"kind": kind})


def kinds(plan: type) -> dict[str, Kind]:
    """The kind of each field, by its name."""
    return {item.name: item.metadata["kind"] for item in fields(plan)}


def _int(value: object) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is not an integer")
    return value


def _str(value: object) -> str:
    if type(value) is not str:
        raise TypeError(f"{value!r} is not a string")
    return value


def _list(value: object) -> list[object]:
    if type(value) is not list:
        raise TypeError(f"{value!r} is not a list")
    return value


@dataclass(frozen=True)
class Number(Kind):
    """A whole number from `low` to `high`. Its unit is `ms` or `s` for a time, else a word for people."""

    low: int
    high: int
    unit: str = ""

    def read(self, value: object) -> int:
        return _int(value)

    def fault(self, value: int) -> str | None:
        return None if self.low <= value <= self.high else f"{value} is not between {self.low} and {self.high}"


@dataclass(frozen=True)
class Users(Kind):
    """User IDs but root's, which any container may have: sorted, distinct."""

    low: int = 1
    high: int = (1 << 32) - 2
    """One more means none (chown(2))."""

    def read(self, value: object) -> tuple[int, ...]:
        return tuple(_int(item) for item in _list(value))

    def fault(self, value: tuple[int, ...]) -> str | None:
        for each in value:
            if fault := Number(self.low, self.high).fault(each):
                return fault
        return None if tuple(sorted(set(value))) == value else "not sorted and distinct"


@dataclass(frozen=True)
class Flag(Kind):
    """True or false."""

    def read(self, value: object) -> bool:
        if type(value) is not bool:
            raise TypeError(f"{value!r} is neither true nor false")
        return value


@dataclass(frozen=True)
class Choice(Kind):
    """One of these words."""

    words: tuple[str, ...]

    def read(self, value: object) -> str:
        return _str(value)

    def fault(self, value: str) -> str | None:
        return None if value in self.words else f"{value!r} is not one of {', '.join(self.words)}"


@dataclass(frozen=True)
class Text(Kind):
    """A text."""

    def read(self, value: object) -> str:
        return _str(value)


@dataclass(frozen=True)
class Texts(Kind):
    """Several texts."""

    def read(self, value: object) -> tuple[str, ...]:
        return tuple(_str(item) for item in _list(value))


@dataclass(frozen=True)
class TextPairs(Kind):
    """Several pairs of texts."""

    def read(self, value: object) -> Pairs:
        pairs = [Texts().read(item) for item in _list(value)]
        if any(len(pair) != 2 for pair in pairs):
            raise TypeError(f"{value!r} is not a list of pairs")
        return tuple((name, text) for name, text in pairs)


@dataclass(frozen=True)
class Versions(Kind):
    """Versions of the PROXY protocol."""

    def read(self, value: object) -> tuple[int, ...]:
        return tuple(_int(item) for item in _list(value))

    def fault(self, value: tuple[int, ...]) -> str | None:
        return None if value in ((1,), (2,), (1, 2)) else f"{value} is not 1, 2 or both"


@dataclass(frozen=True)
class Ports(Kind):
    """Ranges of TCP ports, sorted and disjoint."""

    def read(self, value: object) -> tuple[PortRange, ...]:
        return tuple(port_range(_str(item)) for item in _list(value))

    def fault(self, value: Iterable[PortRange]) -> str | None:
        return None if merge(value) == value else "not sorted and disjoint"

    def plain(self, value: Iterable[PortRange]) -> list[str]:
        return [str(item) for item in value]


@dataclass(frozen=True)
class Aliases(Kind):
    """Ports for kubelet's probes, sorted and distinct."""

    def read(self, value: object) -> tuple[ProbeAlias, ...]:
        if type(value) is not dict:
            raise TypeError(f"{value!r} is not an object of alias: port")
        return tuple(sorted(ProbeAlias(int(alias), _int(port)) for alias, port in value.items()))

    def fault(self, value: tuple[ProbeAlias, ...]) -> str | None:
        for each in value:
            if not (1 <= each.alias <= 65535 and 1 <= each.port <= 65535):
                return f"{each} is not a pair of ports"
        pairs = [(each.alias, each.port) for each in value]
        return None if sorted(set(pairs)) == pairs else "not sorted and distinct"

    def plain(self, value: tuple[ProbeAlias, ...]) -> dict[str, int]:
        return {str(each.alias): each.port for each in value}
