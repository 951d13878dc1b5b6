"""What the process is told: read once from the environment, checked, then immutable.

Every fault is told at once (SettingsError). A command needs only some of the names; the others may be missing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

PREFIX = "SRCIP_CERTS_"
NAMES = ("namespace", "secret", "webhook_configuration", "service")
"""Settings that have no default."""
DAY_S = 86_400.0


class SettingsError(ValueError):
    """The environment holds settings that are missing or wrong; `faults` names every one."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(faults))


class Kind(Protocol):
    """How one value is read; `parse` raises ValueError without the subject's name."""

    @property
    def allowed(self) -> str: ...
    def parse(self, text: str) -> Any: ...


@dataclass(frozen=True)
class Text:
    """A text that matches a pattern."""

    allowed: str
    pattern: str
    longest: int

    def parse(self, text: str) -> str:
        if len(text) > self.longest or not re.fullmatch(self.pattern, text, re.ASCII):
            raise ValueError(f"{text[:100]!r} is not allowed")
        return text


@dataclass(frozen=True)
class Number:
    """A whole number from `low` to `high`."""

    low: int
    high: int

    @property
    def allowed(self) -> str:
        return f"a whole number from {self.low} to {self.high}"

    def parse(self, text: str) -> int:
        if not re.fullmatch("[0-9]{1,9}", text, re.ASCII):
            raise ValueError(f"{text[:100]!r} is not a whole number")
        if not self.low <= int(text) <= self.high:
            raise ValueError(f"{text} is out of range")
        return int(text)


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY_S}
_PIECE = r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)"


@dataclass(frozen=True)
class Duration:
    """A duration such as 500ms, 24h or 1h30m, read as seconds."""

    low: str
    high: str

    @property
    def allowed(self) -> str:
        return f"a duration from {self.low} to {self.high}, such as 500ms, 24h or 365d"

    def parse(self, text: str) -> float:
        value = _seconds(text)
        if not _seconds(self.low) <= value <= _seconds(self.high):
            raise ValueError(f"{text} is out of range")
        return value


def _seconds(text: str) -> float:
    if len(text) > 80 or not re.fullmatch(f"(?:{_PIECE}){{1,5}}", text, re.ASCII):
        raise ValueError(f"{text[:100]!r} is not a duration with a unit")
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(_PIECE, text, re.ASCII))


@dataclass(frozen=True)
class Word:
    """One of some words."""

    words: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return ", ".join(self.words)

    def parse(self, text: str) -> str:
        if text not in self.words:
            raise ValueError(f"{text[:100]!r} is not known")
        return text


_LABEL = Text("a DNS label of at most 63 characters", "[a-z0-9](?:[a-z0-9-]*[a-z0-9])?", 63)
_NAME = Text("the name of a Kubernetes object", "[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?", 253)
_PATH = Text("an absolute path", r"/[^\x00\n]*", 4096)


def _setting(kind: Kind, default: Any, doc: str) -> Any:
    return field(default=default, metadata={"kind": kind, "doc": doc})


@dataclass(frozen=True)
class Settings:
    """The settings; `variable` names the environment variable of each. Durations are in seconds."""

    namespace: str = _setting(_LABEL, "", "Namespace of the Secret, the Service and the Deployment.")
    secret: str = _setting(_NAME, "", "Secret that holds the certificate authorities; created if missing.")
    webhook_configuration: str = _setting(_NAME, "", "MutatingWebhookConfiguration whose caBundle is written.")
    service: str = _setting(_LABEL, "", "Service that the API server calls: the certificate's name.")
    owner: str = _setting(
        _NAME, "", ("Deployment that owns the Secret, so that both are deleted together; none if empty.")
    )
    directory: str = _setting(_PATH, "/etc/srcip/tls", "Where tls.crt, tls.key and ca.crt are written.")
    ca_lifetime_s: float = _setting(Duration("10s", "7300d"), 365 * DAY_S, "Life of a certificate authority.")
    leaf_lifetime_s: float = _setting(Duration("3s", "365d"), DAY_S, "Life of a replica's certificate.")
    settle_s: float = _setting(
        Duration("100ms", "1h"), 60.0, "How long a bundle must have been in force before a new authority signs."
    )
    check_interval_s: float = _setting(
        Duration("50ms", "10m"), 10.0, ("How often the Secret and the webhook configuration are read.")
    )
    listen_port: int = _setting(Number(0, 65535), 9443, "Port of /healthz, /metrics and /status; 0 takes a free one.")
    log_level: str = _setting(Word(("debug", "info", "warning", "error")), "info", "Least severe log line.")

    def __post_init__(self) -> None:
        if faults := _faults(self):
            raise SettingsError(faults)

    @property
    def dns_names(self) -> tuple[str, ...]:
        """How the API server may call the Service."""
        name = f"{self.service}.{self.namespace}"
        return (f"{name}.svc", f"{name}.svc.cluster.local", name)

    @property
    def request_timeout_s(self) -> float:
        """For each call of the API: short enough to renew in time when the API server hangs."""
        return min(5.0, max(0.25, self.leaf_lifetime_s / 12))


def variable(name: str) -> str:
    """The environment variable of a field; a duration brings its own unit."""
    return PREFIX + name.upper().removesuffix("_S")


def from_environ(environ: Mapping[str, str], needed: Collection[str] = NAMES) -> Settings:
    """The settings in these variables; empty ones count as absent. Raises SettingsError with every fault."""
    values: dict[str, Any] = {}
    faults = []
    for item in fields(Settings):
        kind: Kind = item.metadata["kind"]
        text = environ.get(variable(item.name), "")
        if not text and item.name in needed:
            faults.append(f"{variable(item.name)}: missing. Allowed: {kind.allowed}")
        if text:
            try:
                values[item.name] = kind.parse(text)
            except ValueError as error:
                faults.append(f"{variable(item.name)}: {error}. Allowed: {kind.allowed}")
    try:
        settings = Settings(**values)
    except SettingsError as error:
        faults += error.faults
    if faults:
        raise SettingsError(faults)
    return settings


PARTS = (
    ("leaf_lifetime_s", 2, "ca_lifetime_s"),
    ("settle_s", 2, "leaf_lifetime_s"),
    ("check_interval_s", 6, "leaf_lifetime_s"),
)
"""A longer one must leave time for a shorter one: the first is at most such a part of the last."""


def _faults(settings: Settings) -> list[str]:
    """What no single value can tell."""
    return [
        f"{variable(short)}: {getattr(settings, short):g}s is more than 1/{part} of {variable(long)}, "
        f"{getattr(settings, long):g}s"
        for short, part, long in PARTS
        if getattr(settings, short) * part > getattr(settings, long)
    ]
