"""Values that YAML takes for no text, as nobody quoted them: `off` is false there, and `80` a number.

Each is told in the words of its annotation. For everything else the Pod is read as if they were quoted, so that all
other faults are found in the same look.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from srcip_webhook.annotations import row_of
from srcip_webhook.pods import Pod, lookup, printable
from srcip_webhook.reasons import Fault, Reason, about
from srcip_webhook.values import BadValue, Kind

_MEANT: dict[Any, tuple[str, ...]] = {True: ("true", "on", "yes"), False: ("false", "off", "no")}
_SAME = {True: "on, true and yes", False: "off, false and no"}
_MAPS = (("metadata", "annotations"), ("metadata", "labels"), ("spec", "nodeSelector"))


def faults(pod: Any) -> list[Fault]:
    """For each annotation of srcip whose value is no text: what it is, what was meant, what is allowed."""
    said = lookup(pod, "metadata", "annotations")
    rows = ((key, value, row_of(key)) for key, value in said.items()) if isinstance(said, dict) else ()
    return [_fault(key, value, row.kind) for key, value, row in rows if row and not isinstance(value, str)]


def _fault(key: str, value: Any, kind: Kind) -> Fault:
    alike = f" (without quotes, YAML reads {_SAME[value]} alike)" if isinstance(value, bool) else ""
    good = next((f", as in {key}: {printable(text)}" for text in _texts(value) if _is_good(text, kind)), "")
    text = f"{printable(value)} is not a string{alike}: quote it{good}. Allowed: {kind.allowed}"
    return about(key, Reason.INVALID_ANNOTATION, text)


def _texts(value: Any) -> tuple[str, ...]:
    """The texts that somebody may have meant, the usual one first."""
    if isinstance(value, bool):
        return _MEANT[value]
    if isinstance(value, list):
        return (",".join(map(_text, value)),)
    return (str(value),) if isinstance(value, int | float | str) else ()


def _is_good(text: str, kind: Kind) -> bool:
    try:
        kind.parse(text)
    except BadValue:
        return False
    return True


def without(pod: Pod, keys: Container[str]) -> Pod:
    """The Pod without these annotations."""
    kept = {key: value for key, value in pod["metadata"]["annotations"].items() if key not in keys}
    return {**pod, "metadata": {**pod["metadata"], "annotations": kept}}


def quoted(pod: Pod) -> Pod:
    """The Pod with a text for each value that is none in its maps of texts; an empty one where nothing can be meant."""
    for parent, name in _MAPS:
        found = lookup(pod, parent, name)
        if isinstance(found, dict):
            texts = {key: value if isinstance(value, str) else _text(value) for key, value in found.items()}
            pod = {**pod, parent: {**pod[parent], name: texts}}
    return pod


def _text(value: Any) -> str:
    return next(iter(_texts(value)), "")
