"""What a benchmark leaves behind as JSON: one line for each run and each cell, four significant digits. Pure.

A run is noise beyond its fourth digit, and a diff of two benchmarks is read line by line.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from srcip_e2e.bench.figures import Cell, Run, Verdict

DIGITS = 4
COLUMNS = tuple(field.name for field in dataclasses.fields(Run))


def text(
    notes: Sequence[str],
    cells: Mapping[str, Mapping[str, Cell]],
    numbers: Mapping[str, Any],
    judged: Iterable[Verdict],
    runs: Iterable[Run],
) -> str:
    """The whole file."""
    targets = [
        {"target": each.target.text, "limit": each.target.limit, "measured": each.value, "reached": each.reached}
        for each in judged
    ]
    figures = {
        name: {variant: dataclasses.asdict(cell) for variant, cell in row.items()} for name, row in cells.items()
    }
    rows = [[getattr(run, column) for column in COLUMNS] for run in runs]
    parts = {
        "notes": _lines(notes, 1),
        "figures": _object(
            {name: _object({v: _line(c) for v, c in row.items()}, 2) for name, row in figures.items()}, 1
        ),
        "numbers": _object({name: _line(value) for name, value in numbers.items()}, 1),
        "targets": _lines(targets, 1),
        "runs": _object({"columns": _line(COLUMNS), "rows": _lines(rows, 2)}, 1),
    }
    return _object(parts, 0) + "\n"


def runs_of(record: Mapping[str, Any]) -> list[Run]:
    """The runs of such a file, as JSON gives it back."""
    columns = record["runs"]["columns"]
    return [Run(**dict(zip(columns, row, strict=True))) for row in record["runs"]["rows"]]


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value


def _line(value: Any) -> str:
    return json.dumps(_rounded(value))


def _lines(values: Iterable[Any], depth: int) -> str:
    return _block("[", [_line(value) for value in values], "]", depth)


def _object(items: Mapping[str, str], depth: int) -> str:
    return _block("{", [f"{json.dumps(key)}: {value}" for key, value in items.items()], "}", depth)


def _block(begin: str, lines: Sequence[str], end: str, depth: int) -> str:
    if not lines:
        return begin + end
    pad = " " * (depth + 1)
    return f"{begin}\n{pad}" + f",\n{pad}".join(lines) + f"\n{' ' * depth}{end}"
