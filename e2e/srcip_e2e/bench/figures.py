"""What the numbers of a benchmark mean: medians, ratios within a round, targets. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

BASELINE = "direct"


@dataclass(frozen=True)
class Figure:
    """One thing that is measured of every variant."""

    name: str
    title: str
    unit: str
    mode: str
    """Mode of the load generator."""
    connections: int
    per: str
    """What CPU time is told per."""
    http: bool = False
    """Whether both ends speak HTTP."""


FIGURES = (
    Figure("connect", "new connections, 32 at once", "/s", "connect", 32, "connection"),
    Figure("connect1", "new connections, one at a time", "/s", "connect", 1, "connection"),
    Figure("request", "requests on 32 open connections", "/s", "request", 32, "request"),
    Figure("up", "bulk to the application, 4 connections", "MB/s", "up", 4, "MB"),
    Figure("down", "bulk from the application, 4 connections", "MB/s", "down", 4, "MB"),
)
INBOUND = (
    Figure("http-request", "inbound HTTP, requests on 32 open connections", "/s", "request", 32, "request", True),
    Figure("http-connect", "inbound HTTP, new connections, 32 at once", "/s", "connect", 32, "connection", True),
)
OUTBOUND = (
    Figure("out-request", "outbound HTTP, requests on 32 open connections", "/s", "request", 32, "request", True),
    Figure("out-connect", "outbound HTTP, new connections, 32 at once", "/s", "connect", 32, "connection", True),
)
EVERY = (*FIGURES, *INBOUND, *OUTBOUND)


@dataclass(frozen=True)
class Run:
    """One run of the load generator against one variant."""

    figure: str
    variant: str
    round: int
    value: float
    """Per second, in the figure's unit."""
    p50_us: float = 0.0
    p99_us: float = 0.0
    relay_us: float = 0.0
    """CPU time of the relay for one connection, request or MB, kernel work on its behalf included."""
    app_us: float = 0.0
    errors: int = 0


@dataclass(frozen=True)
class Cell:
    """All runs of one figure of one variant: medians, and the ratio to the baseline of the same round."""

    value: float
    ratio: float
    lowest: float
    highest: float
    """Smallest and largest ratio of a round."""
    p50_us: float
    p99_us: float
    relay_us: float
    app_us: float
    errors: int
    rounds: int


def ratios(runs: Iterable[Run], figure: str, variant: str, against: str, of: str = "value") -> list[float]:
    """`variant` over `against`, one number for each round that has both; `of` is what they are compared in."""
    values = {(r.variant, r.round): float(getattr(r, of)) for r in runs if r.figure == figure}
    rounds = sorted(number for name, number in values if name == variant)
    pairs = [(values[variant, n], values.get((against, n), 0.0)) for n in rounds]
    return [mine / other for mine, other in pairs if other > 0]


def ratio(runs: Iterable[Run], figure: str, variant: str, against: str, of: str = "value") -> float | None:
    """The median of `ratios`, or None without a round that has both."""
    found = ratios(runs, figure, variant, against, of)
    return median(found) if found else None


def table(runs: Sequence[Run]) -> dict[str, dict[str, Cell]]:
    """Cells by figure and variant, in the order of their first run."""
    keys = dict.fromkeys((run.figure, run.variant) for run in runs)
    cells: dict[str, dict[str, Cell]] = {}
    for figure, variant in keys:
        cells.setdefault(figure, {})[variant] = _cell(runs, figure, variant)
    return cells


def _cell(runs: Sequence[Run], figure: str, variant: str) -> Cell:
    mine = [run for run in runs if (run.figure, run.variant) == (figure, variant)]
    found = ratios(runs, figure, variant, BASELINE) or [0.0]
    return Cell(
        value=median(run.value for run in mine),
        ratio=median(found),
        lowest=min(found),
        highest=max(found),
        p50_us=median(run.p50_us for run in mine),
        p99_us=median(run.p99_us for run in mine),
        relay_us=median(run.relay_us for run in mine),
        app_us=median(run.app_us for run in mine),
        errors=sum(run.errors for run in mine),
        rounds=len(mine),
    )


@dataclass(frozen=True)
class Target:
    """A number that the project wants to reach. It is told, never enforced: a machine may be busy."""

    key: str
    text: str
    limit: float
    at_least: bool = True
    unit: str = ""

    def reached(self, value: float) -> bool:
        """Does `value` meet the target?"""
        return value >= self.limit if self.at_least else value <= self.limit


RATIO_TARGETS = (
    ("connect", "srcip", "plain HAProxy", 1.0),
    ("connect", "srcip", "nginx stream", 1.0),
    ("connect", "srcip", "Envoy", 1.0),
    ("request", "srcip", "plain HAProxy", 1.05),
    ("up", "srcip", "plain HAProxy", 1.3),
    ("down", "srcip", "plain HAProxy", 1.3),
    ("connect", "untrusted past srcip", "direct", 0.97),
    ("request", "untrusted past srcip", "direct", 0.97),
    ("up", "untrusted past srcip", "direct", 0.97),
    ("down", "untrusted past srcip", "direct", 0.97),
    ("http-request", "srcip", "nginx", 1.0),
    ("out-request", "srcip", "nginx", 1.0),
    ("connect", "srcip, ebpf mode", "direct", 0.95),
    ("connect1", "srcip, ebpf mode", "direct", 0.9),
    ("request", "srcip, ebpf mode", "direct", 0.97),
    ("up", "srcip, ebpf mode", "direct", 0.97),
    ("down", "srcip, ebpf mode", "direct", 0.97),
)
"""Figure, variant, what it is compared with, and the smallest ratio."""

P99_TARGETS = (
    ("http-request", "srcip", "nginx", 1.0),
    ("out-request", "srcip", "nginx", 1.0),
    ("connect", "srcip, ebpf mode", "direct", 1.1),
    ("request", "srcip, ebpf mode", "direct", 1.1),
)
"""The same for the 99th percentile of latency, and the largest ratio."""

TARGETS = (
    Target("rss_idle_mib", "sidecar RSS, idle", 20, at_least=False, unit="MiB"),
    Target("start_ms", "Pod start: init + sidecar listening", 150, at_least=False, unit="ms"),
    Target("ebpf_init_ms", "Pod start in ebpf mode: init", 300, at_least=False, unit="ms"),
    Target("inbound_rss", "inbound HTTP, RSS after load: srcip / nginx", 1.0, at_least=False),
    Target("outbound_rss", "outbound HTTP, RSS after load: srcip / nginx", 1.0, at_least=False),
    Target("reviews_per_second", "webhook, reviews on one core", 1500, unit="/s"),
    Target("webhook_p99_ms", "webhook, p99 at 300 reviews/s", 10, at_least=False, unit="ms"),
    Target("webhook_rss_mib", "webhook RSS", 64, at_least=False, unit="MiB"),
)


@dataclass(frozen=True)
class Verdict:
    """One target and what was measured; `value` is None when it was not."""

    target: Target
    value: float | None

    @property
    def reached(self) -> bool | None:
        return None if self.value is None else self.target.reached(self.value)


def verdicts(runs: Sequence[Run], numbers: Mapping[str, float]) -> list[Verdict]:
    """Every target with its number: the ratios of `runs`, then those of `numbers` by key."""
    titles = {figure.name: figure.title for figure in EVERY}
    judged = []
    for of, what, at_least, targets in (("value", "", True, RATIO_TARGETS), ("p99_us", " p99", False, P99_TARGETS)):
        for figure, variant, against, limit in targets:
            text = f"{titles[figure]}{what}: {variant} / {against}"
            target = Target(f"{figure}{what}:{variant}/{against}", text, limit, at_least)
            judged.append(Verdict(target, ratio(runs, figure, variant, against, of)))
    return judged + [Verdict(target, numbers.get(target.key)) for target in TARGETS]
