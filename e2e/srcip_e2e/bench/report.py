"""The benchmark's result as text. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest

from srcip_e2e.bench.figures import EVERY, Cell, Figure, Verdict

MARK = {True: "reached", False: "NOT reached", None: "not measured"}


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines with aligned columns: the first to the left, all others to the right."""
    widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) if n else cell.ljust(width) for n, (cell, width) in enumerate(zip(row, widths))]  # noqa: B905 - a short row ends early
        lines.append("  ".join(cells).rstrip())
    return lines


def amount(value: float) -> str:
    """A number with three or four digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def figure_lines(figure: Figure, cells: Mapping[str, Cell]) -> list[str]:
    """One figure: a line for each variant."""
    head = (figure.title, figure.unit, "/ direct", "lowest", "highest", "p50 µs", "p99 µs", "relay µs", "app µs")
    rows: list[Sequence[str]] = [head]
    for variant, cell in cells.items():
        measured = (cell.value, cell.ratio, cell.lowest, cell.highest, cell.p50_us, cell.p99_us)
        rows.append((f"  {variant}", *map(amount, (*measured, cell.relay_us, cell.app_us))))
    lines = columns(rows)
    lines += [f"  {name}: {cell.errors} failed connections" for name, cell in cells.items() if cell.errors]
    return [*lines, f"  (CPU µs per {figure.per}; the kernel's work for a process counts as its own)", ""]


def verdict_lines(verdicts: Iterable[Verdict]) -> list[str]:
    """One line for each target."""
    rows = [("target", "wanted", "measured", "")]
    for verdict in verdicts:
        target = verdict.target
        sign = "≥" if target.at_least else "≤"
        value = "" if verdict.value is None else f"{verdict.value:.3g} {target.unit}".strip()
        if verdict.value is not None and verdict.value >= 1000:
            value = f"{amount(verdict.value)} {target.unit}"
        rows.append((target.text, f"{sign} {target.limit:g} {target.unit}".strip(), value, MARK[verdict.reached]))
    return columns(rows)


def memory_lines(title: str, memory: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Resident memory of each relay, MiB."""
    rows: list[Sequence[str]] = [(f"{title}memory of the relay, MiB RSS", "idle", "after load", "5,000 open")]
    rows += [
        (f"  {name}", *(amount(found[key]) if key in found else "" for key in ("idle", "after", "open")))
        for name, found in memory.items()
    ]
    return [*columns(rows), ""]


def whole(
    cells: Mapping[str, Mapping[str, Cell]],
    memory: Mapping[str, Mapping[str, Mapping[str, float]]],
    verdicts: Iterable[Verdict],
    notes: Iterable[str],
) -> str:
    """The whole report; `memory` by what stands before the table's title."""
    lines = [line for figure in EVERY if figure.name in cells for line in figure_lines(figure, cells[figure.name])]
    lines += [line for title, found in memory.items() for line in memory_lines(title, found)]
    lines += verdict_lines(verdicts)
    return "\n".join([*lines, "", *notes]) + "\n"


def number_lines(numbers: Mapping[str, object]) -> list[str]:
    """The single numbers that no table holds."""
    return [f"{name}: {value:.2f}" for name, value in numbers.items() if isinstance(value, float)]
