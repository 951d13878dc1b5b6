"""Measuring the data plane: every variant up at once, figures in rounds, memory, and the start of a Pod."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from srcip_e2e.bench import kernel, variants
from srcip_e2e.bench.figures import BASELINE, FIGURES, Figure, Run
from srcip_e2e.bench.rig import BenchError, Rig, Variant, cpu_us, family, rss_mib
from srcip_proxy.plan import HEALTH_PORT

OPEN = 5000
"""Idle connections that are held open while memory is measured."""
UNTRUSTED = "untrusted past srcip"
STARTS = 5


@dataclass(frozen=True)
class Effort:
    """How long the benchmark may take."""

    rounds: int
    run_ms: int
    names: tuple[str, ...]
    """Variants beside the direct one."""


MAKERS = {**variants.MAKERS, kernel.NAME: kernel.ebpf}
QUICK = Effort(
    rounds=3, run_ms=400, names=("srcip", "plain HAProxy", "nginx stream", "Envoy", "go-mmproxy", kernel.NAME)
)
FULL = Effort(rounds=8, run_ms=900, names=tuple(MAKERS))


def set_up(rig: Rig, effort: Effort, notes: list[str]) -> list[Variant]:
    """Every variant that can run here, proved to show the client to the application. Skips go to `notes`."""
    made = [Variant(BASELINE, rig.pod(), proxy=False)]
    for name in effort.names:
        try:
            made.append(MAKERS[name](rig))
        except (variants.Skipped, BenchError) as reason:
            if name == "srcip":
                raise
            notes.append(f"skipped: {name}: {str(reason).splitlines()[0]}")
        if name == "srcip":
            made.append(Variant(UNTRUSTED, made[-1].pod, proxy=False, stranger=True))
    for variant in made:
        variants.prove(rig, variant)
    return made


def measure(rig: Rig, rows: Sequence[Variant], effort: Effort, figures: Sequence[Figure] = FIGURES) -> Iterator[Run]:
    """All figures in rounds: A B C, B C A, ... so that neither drift nor the order favours anybody."""
    for number in range(effort.rounds):
        print(f"round {number + 1} of {effort.rounds}", file=sys.stderr)
        turned = [*rows[number % len(rows) :], *rows[: number % len(rows)]]
        for figure, variant in itertools.product(figures, turned):
            yield one(rig, variant, figure, number, effort.run_ms)


def one(rig: Rig, variant: Variant, figure: Figure, number: int, run_ms: int) -> Run:
    """One run of one figure of one variant."""
    relays, server = family(variant.pod.relays), [variant.pod.server]
    relay_before, app_before = cpu_us(relays), cpu_us(server)
    said = rig.measure(variant, figure.mode, n=figure.connections, ms=run_ms, http=int(figure.http))
    units = said["done"] or said["mb_per_second"] * said["seconds"] or 1
    app_us = said["cpu_s"] * 1e6 if variant.outbound else cpu_us(server) - app_before
    return Run(
        figure=figure.name,
        variant=variant.name,
        round=number,
        value=said["per_second"] or said["mb_per_second"],
        p50_us=said["p50_us"],
        p99_us=said["p99_us"],
        relay_us=(cpu_us(relays) - relay_before) / units,
        app_us=app_us / units,
        errors=said["errors"],
    )


def memory(rig: Rig, rows: Sequence[Variant], key: str, found: dict[str, dict[str, float]]) -> None:
    """Resident memory of every relay now, under `key`."""
    for variant in rows:
        if variant.pod.relays and not variant.stranger:
            found.setdefault(variant.name, {})[key] = rss_mib(family(variant.pod.relays))


def memory_open(rig: Rig, rows: Sequence[Variant], found: dict[str, dict[str, float]], *, http: bool = False) -> None:
    """The same with OPEN idle connections, one variant after the other."""
    for variant in rows:
        if variant.pod.relays and not variant.stranger:
            process = rig.client(variant, "idle", n=OPEN, http=int(http))
            line = process.stdout.readline() if process.stdout else ""
            if '"opened":true' in line:
                memory(rig, [variant], "open", found)
            process.communicate()


def start_ms(rig: Rig) -> dict[str, float]:
    """What a Pod's start costs: init, then the sidecar until it listens; medians in ms of wall-clock time.

    The container runtime's own work is not in it.
    """
    samples = [_start_once(rig) for _ in range(STARTS)]
    init, sidecar = (median(column) for column in zip(*samples, strict=True))
    return {"init_ms": init, "listening_ms": sidecar, "start_ms": init + sidecar}


def _start_once(rig: Rig) -> tuple[float, float]:
    rootfs, pod = variants.rootfs_of_srcip(), rig.pod()
    files = variants.files_of(rig, pod)
    begin = time.monotonic()
    rig.inside(pod, *variants.init_command(rootfs, files, pod, variants.plan(pod)))
    ready = time.monotonic()
    process = rig.start(pod, variants.contained(rootfs, files, variants.HAPROXY, "+net_raw", {}))
    rig.wait(lambda: rig.listens(pod, HEALTH_PORT), "the sidecar", every_s=0)
    end = time.monotonic()
    process.terminate()
    process.wait(5)
    return (ready - begin) * 1000, (end - ready) * 1000


def engines(rows: Sequence[Variant]) -> list[str]:
    """What ran, in one line each."""
    asked = {
        "srcip": ["chroot", str(variants.rootfs_of_srcip()), "haproxy", "-v"],
        "nginx stream": ["chroot", str(variants.rootfs_of_nginx()), "nginx", "-v"],
        "Envoy": [variants.find("envoy") or "envoy", "--version"],
    }
    lines = [
        "srcip and plain HAProxy are reached by tproxy, nginx and Envoy by nat redirect, go-mmproxy at its own port"
    ]
    for variant in rows:
        if variant.name in asked:
            done = subprocess.run(asked[variant.name], capture_output=True, text=True, check=False)
            said = [line for line in (done.stdout or done.stderr).splitlines() if "version" in line][:1]
            lines += [f"{variant.name}: {line.partition('version')[2].strip(' :')}" for line in said]
    return lines
