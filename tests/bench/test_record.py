"""The file of a benchmark: short, and docs/bench.json is such a file."""

import json
from pathlib import Path

import pytest

from srcip_e2e.bench import record
from srcip_e2e.bench.figures import Run, table, verdicts

DOCS = Path(__file__).parents[2] / "docs" / "bench.json"
RUNS = [Run("connect", "direct", 0, 26950.7, p50_us=1146.9), Run("connect", "srcip", 0, 7322.551, errors=1)]


def test_what_is_written_is_read_back_with_four_digits() -> None:
    """Runs keep their order; each is one line."""
    text = record.text(
        ["a note"], table(RUNS), {"memory_mib": {"": {"srcip": {"idle": 1.23456}}}}, verdicts(RUNS, {}), RUNS
    )
    read = json.loads(text)
    assert [run.value for run in record.runs_of(read)] == [26950, 7323]
    assert [run.errors for run in record.runs_of(read)] == [0, 1]
    assert read["numbers"]["memory_mib"][""]["srcip"]["idle"] == 1.235
    assert read["notes"] == ["a note"]
    assert [line.count("connect") for line in text.splitlines() if '"srcip", 0' in line] == [1]


def test_the_benchmark_of_the_docs_follows_from_its_runs() -> None:
    """Each median in docs/bench.json is that of the runs in it, but for the rounding of both."""
    read = json.loads(DOCS.read_text())
    cells = table(record.runs_of(read))
    assert {name: list(row) for name, row in cells.items()} == {n: list(row) for n, row in read["figures"].items()}
    for name, row in cells.items():
        for variant, cell in row.items():
            written = read["figures"][name][variant]
            assert (cell.value, cell.ratio) == pytest.approx((written["value"], written["ratio"]), rel=2e-3)
            assert (cell.errors, cell.rounds) == (written["errors"], written["rounds"])
