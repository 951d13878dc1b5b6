"""One row of the table of annotations, and how rows are made."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from srcip_proxy.plan import LIMITS, Plan
from srcip_webhook.quantities import Quantity
from srcip_webhook.values import Duration, Kind, Number, duration_text

PREFIX = "srcip.io/"

_PLAN_DEFAULTS: dict[str, Any] = {f.name: f.default for f in fields(Plan)}


@dataclass(frozen=True)
class Annotation:
    """One row: the name after the prefix, the Intent's field, how it is read, what holds without it, and why."""

    name: str
    field: str
    kind: Kind
    default: Any
    default_text: str
    doc: str

    @property
    def key(self) -> str:
        return PREFIX + self.name


def planned(name: str, field: str, kind: Kind, doc: str) -> Annotation:
    """A row that becomes the Plan's field of the same name, with the Plan's default."""
    default = _PLAN_DEFAULTS[field]
    text = (",".join(map(str, default)) if isinstance(default, tuple) else str(default)) or "none"
    if isinstance(kind, Duration):
        text = duration_text(default * kind.unit_ms)
    return Annotation(name, field, kind, default, text, doc)


def number(name: str, field: str, unit: str, doc: str) -> Annotation:
    """A row that holds a whole number within the Plan's limits."""
    return planned(name, field, Number(*LIMITS[field], unit), doc)


def quantity(name: str, kind: Quantity, doc: str) -> Annotation:
    """A row about a resource of the sidecar; without it the webhook's setting holds."""
    return Annotation(name, name.replace("-", "_"), kind, None, "the webhook's setting", doc)
