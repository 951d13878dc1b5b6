"""The kinds of values that annotations and settings hold: each reads its text or says what is allowed.

A kind is one frozen object with `allowed` (for messages and the reference page), `schema` (a JSON schema of the text)
and `parse`. `parse` raises BadValue with every fault of the text; it never guesses.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol, TypeVar

from srcip_proxy.plan import UID, codec
from srcip_webhook.pods import printable

T = TypeVar("T")

MAX_NETWORKS = 1024
"""Longest accepted list of networks: SRCIP_PLAN must stay far below the kernel's 128 KiB for one environment string."""
MAX_TEXT = 64 * 1024
"""Longest accepted value, in characters."""
MAX_FAULTS = 10
"""Faults of one value that are told; the rest is counted."""
MAX_USERS = 32
"""Longest accepted list of users."""


class BadValue(ValueError):
    """A text that is not a value of its kind; `faults` are sentences without a subject's name."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(self.faults))


class Kind(Protocol):
    """How one value is read."""

    @property
    def allowed(self) -> str: ...
    @property
    def schema(self) -> dict[str, Any]: ...
    def parse(self, text: str) -> Any: ...


@dataclass(frozen=True)
class Word:
    """One of some words; those in `later` are known but not there yet."""

    words: tuple[str, ...]
    later: tuple[str, ...] = ()

    @property
    def allowed(self) -> str:
        return ", ".join(self.words) + (f" ({', '.join(self.later)}: not yet)" if self.later else "")

    @property
    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.words)}

    def parse(self, text: str) -> str:
        if text in self.later:
            raise BadValue([f"{printable(text)} is not there yet"])
        if text not in self.words:
            raise BadValue([f"{printable(text)} is not known"])
        return text


@dataclass(frozen=True)
class Flag:
    """`true` or `false`, as text."""

    allowed: str = "true, false"

    @property
    def schema(self) -> dict[str, Any]:
        return {"enum": ["true", "false"]}

    def parse(self, text: str) -> bool:
        if text not in ("true", "false"):
            raise BadValue([f"{printable(text)} is neither true nor false"])
        return text == "true"


@dataclass(frozen=True)
class Number:
    """A whole number from `low` to `high`, in decimal digits only."""

    low: int
    high: int
    unit: str = ""

    @property
    def allowed(self) -> str:
        return f"a whole number from {self.low} to {self.high}{' ' + self.unit if self.unit else ''}"

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": "^[0-9]{1,9}$"}

    def parse(self, text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= 9):
            raise BadValue([f"{printable(text)} is not a whole number"])
        if not self.low <= int(text) <= self.high:
            raise BadValue([f"{printable(text)} is out of range"])
        return int(text)


_UNITS = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_PIECE = r"[0-9]{1,9}(?:\.[0-9]{1,9})?(?:ms|s|m|h)"


@dataclass(frozen=True)
class Duration:
    """A duration such as 500ms, 5s or 1m30s, read as a whole number of `unit_ms` milliseconds."""

    low: int
    high: int
    unit_ms: int = 1

    @property
    def allowed(self) -> str:
        whole = "" if self.unit_ms == 1 else ", in whole seconds"
        return f"a duration from {self._text(self.low)} to {self._text(self.high)}{whole}, such as 5s or 1m30s"

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^({_PIECE}){{1,4}}$"}

    def parse(self, text: str) -> int:
        if len(text) > 80 or not re.fullmatch(f"(?:{_PIECE}){{1,4}}", text, re.ASCII):
            raise BadValue([f"{printable(text)} is not a duration with a unit"])
        pieces = re.findall(r"([0-9.]+)(ms|s|m|h)", text)
        value = sum((Fraction(number) * _UNITS[unit] for number, unit in pieces), Fraction()) / self.unit_ms
        if value.denominator != 1:
            raise BadValue([f"{printable(text)} is too fine"])
        if not self.low <= value <= self.high:
            raise BadValue([f"{printable(text)} is out of range"])
        return int(value)

    def _text(self, value: int) -> str:
        return duration_text(value * self.unit_ms)


def duration_text(milliseconds: int) -> str:
    """The shortest exact text of a duration: 5s, not 5000ms."""
    for unit, size in _UNITS.items():
        if milliseconds and milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return "0s"


@dataclass(frozen=True)
class NetworkList:
    """Networks of both families with commas between, read as canonical, disjoint texts: IPv4 first, in order."""

    allowed: str = "networks such as 192.0.2.0/24 or 2001:db8::/32, with commas between"

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": 1, "maxLength": MAX_TEXT, "pattern": "^[0-9a-fA-F.:/, \\t\\r\\n]+$"}

    def parse(self, text: str) -> tuple[str, ...]:
        return disjoint(each(text, _network, MAX_NETWORKS))


Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


def _network(item: str) -> Network:
    if len(item) > 49 or not re.fullmatch(r"[0-9a-fA-F.:]+(/[0-9]{1,3})?", item, re.ASCII):
        raise BadValue([f"{printable(item)} is not a network"])
    try:
        network = ipaddress.ip_network(item, strict=False)
    except ValueError:
        raise BadValue([f"{printable(item)} is not a network"]) from None
    if network.network_address != ipaddress.ip_interface(item).ip:
        raise BadValue([f"{printable(item)} has host bits set; the network is {network}"])
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        raise BadValue([f"{printable(item)} is an IPv4 network in IPv6 form; write it as IPv4"])
    return network


def disjoint(networks: Iterable[Network]) -> tuple[str, ...]:
    """The same addresses in as few networks as possible, as texts."""
    four: list[ipaddress.IPv4Network] = []
    six: list[ipaddress.IPv6Network] = []
    for network in networks:
        if isinstance(network, ipaddress.IPv4Network):
            four.append(network)
        else:
            six.append(network)
    return (*map(str, ipaddress.collapse_addresses(four)), *map(str, ipaddress.collapse_addresses(six)))


def everyone(cidrs: Iterable[str]) -> tuple[str, ...]:
    """Those of these disjoint networks that hold every address of their family, alone or together."""
    networks = [ipaddress.ip_network(cidr) for cidr in cidrs]
    families = ([n for n in networks if n.version == version] for version in (4, 6))
    return tuple(str(n) for family in families for n in ipaddress.collapse_addresses(family) if n.prefixlen == 0)  # type: ignore[type-var]


@dataclass(frozen=True)
class UserList:
    """User IDs with commas between, read as sorted and distinct; neither root's nor srcip's own."""

    allowed: str = (
        f"user IDs from 1 to {codec.Users.high} with commas between, at most {MAX_USERS}, without srcip's own {UID}"
    )

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "string", "maxLength": MAX_TEXT, "pattern": "^[0-9, \\t\\r\\n]+$"}

    def parse(self, text: str) -> tuple[int, ...]:
        return tuple(sorted(set(each(text, self._user, MAX_USERS))))

    @staticmethod
    def _user(item: str) -> int:
        if not re.fullmatch(r"0|[1-9][0-9]{0,9}", item, re.ASCII):
            raise BadValue([f"{printable(item)} is not a user ID"])
        user = int(item)
        if user == UID:
            raise BadValue([f"{item} is srcip's own"])
        if fault := codec.Users().fault((user,)):
            raise BadValue([fault if user else "0 is root's, which any container may have"])
        return user


@dataclass(frozen=True)
class Versions:
    """Versions of the PROXY protocol."""

    allowed: str = '"1", "2" or "1,2"'

    @property
    def schema(self) -> dict[str, Any]:
        return {"enum": ["1", "2", "1,2"]}

    def parse(self, text: str) -> tuple[int, ...]:
        known = {"1": (1,), "2": (2,), "1,2": (1, 2)}
        if text not in known:
            raise BadValue([f"{printable(text)} is not known"])
        return known[text]


def each(text: str, read: Callable[[str], T], most: int) -> list[T]:
    """Each item of a list with commas; white space around items does not matter."""
    items = [item.strip(" \t\r\n") for item in text.split(",")]
    if len(text) > MAX_TEXT or len(items) > most:
        raise BadValue([f"{len(items)} items in {len(text)} characters; at most {most} in {MAX_TEXT} are allowed"])
    if not all(items):
        raise BadValue([f"{printable(text)} has an empty item" if len(items) > 1 else "the list is empty"])
    return collected(items, read)


def collected(items: Iterable[str], read: Callable[[str], T]) -> list[T]:
    """Each item as it is read; BadValue tells the faults of all of them."""
    values: list[T] = []
    faults: list[str] = []
    for item in items:
        try:
            values.append(read(item))
        except BadValue as error:
            faults += error.faults
    if len(faults) > MAX_FAULTS:
        faults[MAX_FAULTS:] = [f"and {len(faults) - MAX_FAULTS} more"]
    if faults:
        raise BadValue(faults)
    return values
