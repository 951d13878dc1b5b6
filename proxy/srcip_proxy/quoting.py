"""The one way a value enters a generated file (nftables, routes, HAProxy)."""

from __future__ import annotations

import re

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./:,=@-]*|::[A-Za-z0-9_./:]*|/[A-Za-z0-9_./-]+")
_LINE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")

BANNER = (
    "# Written by srcip-proxy init, and explained in srcip's docs/dataplane.md and docs/architecture.md.\n"
    "# Changes are lost when the Pod starts again.\n"
)


def word(value: object) -> str:
    """`value` as a single word that no generated language reads as anything else.

    Raises ValueError for all that holds a space, a quote, a brace, a line end or anything not listed here. Every value
    of a plan is a number, an address, a network or a fixed word, so none needs quoting.
    """
    text = str(value)
    if not _WORD.fullmatch(text):
        raise ValueError(f"{text!r} cannot stand in a generated file")
    return text


def quoted(value: str) -> str:
    """`value` as a log-format string of HAProxy that stands for exactly itself, in single quotes.

    Nothing expands in single quotes (configuration manual, section 2.2), and a doubled `%` is a `%` (8.2.6). Raises
    ValueError for control characters, for what is not ASCII, and for blanks at an end or in a row, which HAProxy joins.
    """
    if not _LINE.fullmatch(value) or "  " in value:
        raise ValueError(f"{value!r} cannot stand in a generated file")
    return "'" + value.replace("%", "%%").replace("'", "'\\''") + "'"


def words(values: object, separator: str = ", ") -> str:
    """Many values, each through `word`."""
    return separator.join(word(value) for value in values)  # type: ignore[attr-defined]
