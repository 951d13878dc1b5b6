"""Reads the annotations of a Pod by the table of them (annotation_table.py).

What is read is an Intent: what the Pod's owner asked for, before the Pod itself is looked at.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from srcip_proxy.plan import WRITTEN_MODES
from srcip_webhook.annotation_table import PREFIX, TABLE, Annotation, Intent
from srcip_webhook.pods import printable
from srcip_webhook.reasons import Fault, Reason, about
from srcip_webhook.values import BadValue

__all__ = ["PREFIX", "TABLE", "Annotation", "Intent", "Reading", "read", "row_of", "schema"]

MODE = PREFIX + "mode"
INJECT = PREFIX + "inject"
STATUS = PREFIX + "status"
LABEL = PREFIX + "injection"
"""Label of namespaces; only Pods of those where it is `enabled` reach the webhook."""
INJECTED = PREFIX + "injected"
"""Label of Pods that got the sidecar, which has metrics to be read."""
AGENT = PREFIX + "agent"
"""Label of Pods for which the agent on their node does the privileged work; its value is the mode."""


_BY_KEY = {row.key: row for row in TABLE}
_OWN = {STATUS}
_SHORT = 2048
"""Longest set of annotations that is remembered, in characters: the memory stays below a few MiB."""

Said = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Reading:
    """What the annotations of a Pod say."""

    intent: Intent
    """A row with a fault has its default here."""
    faults: tuple[Fault, ...]
    """One for each value that is not allowed."""
    warnings: tuple[str, ...]
    """A sentence for each annotation with our prefix that TABLE does not know; most are typing errors."""


def row_of(key: str) -> Annotation | None:
    """The row of TABLE about this annotation."""
    return _BY_KEY.get(key)


def read(annotations: Mapping[str, str]) -> Reading:
    """Read everything at once. Pods of one owner say the same, so short texts are remembered."""
    said = tuple((key, text) for key, text in annotations.items() if key.startswith(PREFIX) and key not in _OWN)
    short = sum(len(key) + len(text) for key, text in said) <= _SHORT
    return _remembered(said) if short else _read(said)


def _read(said: Said) -> Reading:
    values: dict[str, Any] = {}
    stated, faults = set(), []
    for key, text in said:
        if row := _BY_KEY.get(key):
            stated.add(row.field)
            try:
                values[row.field] = row.kind.parse(text)
            except BadValue as error:
                why = f"{'; '.join(error.faults)}. Allowed: {row.kind.allowed}"
                faults.append(about(key, Reason.INVALID_ANNOTATION, why))
    if "mode" in values:
        values["mode"], values["fallback"] = WRITTEN_MODES[values["mode"]]
    unknown = sorted(key for key, _ in said if key not in _BY_KEY)[:10]
    warnings = (f"{printable(key, 80)} is not an annotation of srcip{_suggestion(key)}" for key in unknown)
    return Reading(
        Intent(**values, stated=frozenset(stated)),
        tuple(sorted(faults, key=lambda fault: fault.message)),
        tuple(warnings),
    )


_remembered = lru_cache(maxsize=512)(_read)


_MEANT = {
    LABEL: f"; it is a label of the Namespace; in a Pod set {MODE}",
    PREFIX + "ports": f"; did you mean {PREFIX}inbound-ports?",
}
"""What other names stand for that are near the wrong one."""


def _suggestion(key: str) -> str:
    if key in _MEANT:
        return _MEANT[key]
    close = difflib.get_close_matches(key[:80], _BY_KEY, n=1, cutoff=0.8)
    return f"; did you mean {close[0]}?" if close else ""


def schema() -> dict[str, Any]:
    """A JSON schema of the annotations as a whole; values that only the Pod can judge pass it."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Annotations of srcip",
        "type": "object",
        "properties": {
            row.key: {"description": f"{row.doc} Allowed: {row.kind.allowed}.", **row.kind.schema} for row in TABLE
        },
    }
