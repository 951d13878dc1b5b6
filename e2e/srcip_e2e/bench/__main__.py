"""`python -m srcip_e2e.bench [--quick]`: run the benchmark, print its tables, write JSON and SVG."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from srcip_e2e.bench import http, kernel, plot, record, relays, report
from srcip_e2e.bench.figures import Run, table, verdicts
from srcip_e2e.bench.rig import SETTINGS, BenchError, Rig, cpus

PARTS = ("relays", "http", "webhook")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m srcip_e2e.bench", description="Benchmark of srcip; needs root.")
    parser.add_argument("--quick", action="store_true", help="about two minutes instead of ten")
    parser.add_argument("--json", type=Path, default=Path("docs/bench.json"), help="where the numbers go")
    parser.add_argument("--svg", type=Path, default=Path("docs/bench.svg"), help="where the picture goes")
    parser.add_argument("--only", choices=PARTS, help="one part of the benchmark")
    return parser.parse_args()


@contextmanager
def rig_of_its_own() -> Iterator[Rig]:
    """Namespaces and processes, gone at the end."""
    with tempfile.TemporaryDirectory(prefix="srcip-bench-") as name, Rig(Path(name)) as rig:
        Path(name).chmod(0o755)
        yield rig


def data_plane(effort: relays.Effort, notes: list[str]) -> tuple[list[Run], dict[str, Any]]:
    """Runs of the data plane, and its memory and start-up numbers."""
    memory: dict[str, dict[str, float]] = {}
    with rig_of_its_own() as rig:
        rows = relays.set_up(rig, effort, notes)
        relays.memory(rig, rows, "idle", memory)
        start = relays.start_ms(rig) | kernel.start_ms(rig)
        runs = list(relays.measure(rig, rows, effort))
        relays.memory(rig, rows, "after", memory)
        relays.memory_open(rig, rows, memory)
        notes += relays.engines(rows)
    return runs, {"memory_mib": {"": memory}, **start, "rss_idle_mib": memory["srcip"]["idle"]}


def headers(effort: relays.Effort, notes: list[str]) -> tuple[list[Run], dict[str, Any]]:
    """Runs of HTTP, and its memory numbers."""
    with rig_of_its_own() as rig:
        return http.measure(rig, effort, notes)


def machine() -> str:
    """Where this ran, in one line."""
    pods, client = cpus()
    where = f"Pods on CPU {pods}, load generator on CPU {client}"
    return f"Linux {platform.release()}, {os.cpu_count()} CPUs; {where}; {congestion()}; relays with 1 thread"


def congestion() -> str:
    """The congestion control of the namespaces: the one of SETTINGS where the kernel allows it, else the machine's."""
    allowed, own = (
        Path("/proc/sys/net/ipv4", name).read_text().split()
        for name in ("tcp_allowed_congestion_control", "tcp_congestion_control")
    )
    wanted = SETTINGS["net.ipv4.tcp_congestion_control"]
    return wanted if wanted in allowed else own[0]


def main() -> int:
    """Run what was asked for. Exit code 0 even when a target is missed: it is a measurement, not a test."""
    options = arguments()
    if os.geteuid() != 0:
        print("bench: needs root, for network namespaces and nftables", file=sys.stderr)
        return 2
    notes, runs = [machine()], list[Run]()
    numbers: dict[str, Any] = {"memory_mib": {}}
    parts = (options.only,) if options.only else PARTS
    try:
        for part, run_part in (("relays", data_plane), ("http", headers)):
            if part in parts:
                more, found = run_part(relays.QUICK if options.quick else relays.FULL, notes)
                runs += more
                memory = numbers["memory_mib"] | found["memory_mib"]
                numbers |= found | {"memory_mib": memory}
        if "webhook" in parts:
            from srcip_e2e.bench import webhook  # noqa: PLC0415 - needs the packages of the webhook

            numbers |= webhook.measure(quick=options.quick)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    write(options, runs, numbers, notes)
    return 0


def write(options: argparse.Namespace, runs: list[Run], numbers: dict[str, Any], notes: list[str]) -> None:
    """Tables to stdout, numbers to JSON, the picture to SVG."""
    cells, judged = table(runs), verdicts(runs, numbers)
    print(report.whole(cells, numbers["memory_mib"], judged, [*report.number_lines(numbers), *notes]))
    for path, text in (
        (options.json, record.text(notes, cells, numbers, judged, runs)),
        (options.svg, plot.svg(cells, f"dashed: a direct connection; {notes[0]}")),
    ):
        if path is options.json or runs:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


if __name__ == "__main__":
    sys.exit(main())
