"""One row of the table of annotations, and how rows are made."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Flag as Flags
from enum import auto
from typing import Any

from srcip_proxy.plan import Options, codec
from srcip_webhook.intent import DEFAULTS
from srcip_webhook.quantities import Quantity
from srcip_webhook.values import Duration, Flag, Kind, Number, Word, duration_text

PREFIX = "srcip.io/"
OPTIONS = codec.kinds(Options)
"""The kind of each field that goes into the Plan as its annotation says."""
_MILLISECONDS = {"ms": 1, "s": 1000}


class Scope(Flags):
    """What must be there for an annotation to have an effect; several are needed together."""

    ALWAYS = 0
    INBOUND = auto()
    """A port that is intercepted."""
    SIDECAR = auto()
    """A sidecar, which ebpf mode has not."""
    REDIRECT = auto()
    """Redirect mode; in the other modes the Plan keeps its default."""
    HTTP = auto()
    """Redirect mode, or tproxy mode with a client that an HTTP header states."""
    HEADER = auto()
    """A client that is stated by a PROXY header, not by a TCP option."""
    OUTBOUND = auto()
    """Headers for what the Pod sends."""


@dataclass(frozen=True)
class Annotation:
    """One row: the name after the prefix, the Intent's field, how it is read, what holds without it, why, and where."""

    name: str
    field: str
    kind: Kind
    default_text: str
    doc: str
    scope: Scope = Scope.ALWAYS

    @property
    def key(self) -> str:
        return PREFIX + self.name

    @property
    def default(self) -> Any:
        """What the Intent holds without the annotation."""
        return DEFAULTS[self.field]

    @property
    def is_planned(self) -> bool:
        """Whether the value goes into the Plan's field of the same name; all others are the webhook's to decide by."""
        return self.field in OPTIONS


def planned(name: str, field: str, scope: Scope, doc: str, kind: Kind | None = None) -> Annotation:
    """A row that becomes the Plan's field of the same name, with its default. Words, numbers, times and flags are read
    within the Plan's own limits; all else needs a kind. Raises KeyError for a field that is not one of Options."""
    kind = kind or _kind(OPTIONS[field])
    return Annotation(name, field, kind, _text(DEFAULTS[field], kind), doc, scope)


def quantity(name: str, kind: Quantity, doc: str) -> Annotation:
    """A row about a resource of the sidecar; without it the webhook's setting holds."""
    return Annotation(name, name.replace("-", "_"), kind, "the webhook's setting", doc)


def _kind(kind: codec.Kind) -> Kind:
    """How an annotation says what the Plan holds."""
    if isinstance(kind, codec.Choice):
        return Word(kind.words)
    if isinstance(kind, codec.Flag):
        return Flag()
    if isinstance(kind, codec.Number) and kind.unit in _MILLISECONDS:
        return Duration(kind.low, kind.high, _MILLISECONDS[kind.unit])
    if isinstance(kind, codec.Number):
        return Number(kind.low, kind.high, kind.unit)
    raise TypeError(f"{kind} has no form in an annotation of its own")


def _text(default: Any, kind: Kind) -> str:
    """The default as one would write it."""
    if isinstance(kind, Duration):
        return duration_text(default * kind.unit_ms)
    if isinstance(default, bool):
        return str(default).lower()
    return (",".join(map(str, default)) if isinstance(default, tuple) else str(default)) or "none"
