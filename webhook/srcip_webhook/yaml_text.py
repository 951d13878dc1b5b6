"""The text of what is put into a document: some lines, or a piece of one line."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import yaml

from srcip_webhook.yaml_reader import Dumper

_WIDE = 2**31
"""No line is broken."""
_ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
"""What JSON may hold as it is, and YAML may not, or takes for a line break."""


class _Indented(Dumper):
    """Writes the items of a sequence deeper than its key."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


@dataclass(frozen=True)
class Entry:
    """One of a mapping."""

    name: str
    value: Any

    def lines(self, is_indented: bool) -> list[str]:
        """In block style, from the first column on."""
        return _lines({self.name: self.value}, is_indented)

    def inline(self, is_json: bool, margin: str | None) -> str:
        """To be put between braces; on lines of its own behind `margin`, if there is one."""
        if is_json:
            return f"{json_inline(self.name)}: {json_inline(self.value, margin)}"
        return inline({self.name: self.value})[1:-1]


@dataclass(frozen=True)
class Item:
    """One of a sequence."""

    value: Any

    def lines(self, is_indented: bool) -> list[str]:
        """In block style, with its dash in the first column."""
        return _lines([self.value], is_indented)

    def inline(self, is_json: bool, margin: str | None) -> str:
        """To be put between brackets."""
        return json_inline(self.value, margin) if is_json else inline(self.value)


Added = Entry | Item


def _lines(value: Any, is_indented: bool) -> list[str]:
    dumper = _Indented if is_indented else Dumper
    text = yaml.dump(value, Dumper=dumper, sort_keys=False, allow_unicode=True, width=_WIDE)
    return text.removesuffix("\n").split("\n")


def inline(value: Any) -> str:
    """On one line, wherever a value may stand."""
    text = yaml.dump([value], Dumper=Dumper, sort_keys=False, allow_unicode=True, width=_WIDE, default_flow_style=True)
    return json_inline(value) if "\n" in text[:-1] else text[1:-2]


def json_inline(value: Any, margin: str | None = None) -> str:
    """As JSON that YAML reads alike; on several lines if `margin` says what stands before each."""
    indent = None if margin is None else ("\t" if "\t" in margin else 2)
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    text = _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return text if margin is None else text.replace("\n", "\n" + margin)
