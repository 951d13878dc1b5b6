"""Writes docs/values.md from the comments of charts/srcip/values.yaml: `python tests/chart/values_reference.py`.

A comment that begins with `# --` belongs to the value below it, together with the comment lines that follow.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "charts" / "srcip"
PAGE = Path(__file__).parents[2] / "docs" / "values.md"
_INTRO = """<!-- Written by `python tests/chart/values_reference.py`. Don't edit. -->
# Values of the chart

Set them with `--set webhook.replicas=3` or, better, in a file of your own with `--values`. Only `trustedCIDRs` must be
set. A value that is not known or not allowed stops helm before anything is changed; so does one with which the webhook
or srcip-certs would not start. `charts/srcip/values.schema.json` and `charts/srcip/files/limits.yaml`
say what is allowed. A changed value that the webhook reads replaces its Pods one by one, and no admission fails.
"""
_KEY = re.compile(r"(?P<indent> *)(?P<key>[A-Za-z0-9]+):(?P<rest>.*)")


@dataclass(frozen=True)
class Value:
    """One value: its name with dots, its default, what its comment says."""

    name: str
    default: Any
    doc: str


def values(text: str) -> Iterator[Value]:
    """Every value of a values.yaml that is not a mere branch, in its order."""
    defaults = yaml.safe_load(text)
    path: list[str] = []
    doc: list[str] = []
    for line in text.splitlines():
        if found := _KEY.fullmatch(line):
            path = [*path[: len(found["indent"]) // 2], found["key"]]
            if found["rest"].strip():
                yield Value(".".join(path), _at(defaults, path), " ".join(doc))
            doc = []
        else:
            doc = _comment(line.strip(), doc)


def _comment(line: str, before: list[str]) -> list[str]:
    """The comment so far, with one more line."""
    if line.startswith("# -- "):
        return [line.removeprefix("# -- ")]
    return [*before, line.removeprefix("# ")] if before and line.startswith("# ") else []


def _at(defaults: Any, path: list[str]) -> Any:
    for key in path:
        defaults = defaults[key]
    return defaults


def page(text: str) -> str:
    """The whole page."""
    rows = [f"| `{each.name}` | `{json.dumps(each.default)}` | {each.doc} |" for each in values(text)]
    return "\n".join([_INTRO, "| value | default | meaning |", "| --- | --- | --- |", *rows]) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page((CHART / "values.yaml").read_text()))
