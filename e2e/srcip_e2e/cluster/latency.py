"""What an admission costs: Pods created as a dry run, with srcip and without it, in turns on the same API server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from srcip_e2e.cluster.api import Json
from srcip_e2e.cluster.load import Load, percentile
from srcip_e2e.cluster.release import Release

METRIC = "apiserver_admission_webhook_admission_duration_seconds"
OURS = ('name="inject.srcip.io"', 'operation="CREATE"')
KINDS: dict[str, dict[str, str] | None] = {"with": None, "without": {}}
"""Annotations of the Pods; None asks for srcip."""
ROUNDS = 4
PODS = 250
"""Of each kind in each round."""


@dataclass(frozen=True)
class Histogram:
    """A Prometheus histogram; durations in seconds."""

    buckets: Counter[float]
    """By upper bound: how many were not longer."""
    total: float
    """The sum of all."""

    @classmethod
    def read(cls, page: str, metric: str, labels: Sequence[str]) -> Histogram:
        """The sum of all series of `metric` that have every one of `labels`, such as name="x"."""
        buckets: Counter[float] = Counter()
        total = 0.0
        for line in page.splitlines():
            if not line.startswith(metric) or not all(label in line for label in labels):
                continue
            value = float(line.rpartition(" ")[2])
            if line.startswith(f"{metric}_bucket"):
                buckets[float(line.partition('le="')[2].partition('"')[0])] += int(value)
            elif line.startswith(f"{metric}_sum"):
                total += value
        return cls(buckets, total)

    def since(self, earlier: Histogram) -> Json:
        """What came after `earlier`: number, mean, and the bounds that 50 and 99 % do not exceed, in milliseconds."""
        came = Counter({bound: count - earlier.buckets[bound] for bound, count in self.buckets.items()})
        count = came[float("inf")]
        bounds = {p: next((le for le in sorted(came) if came[le] >= count * p / 100), 0.0) for p in (50, 99)}
        mean = (self.total - earlier.total) / count if count else 0.0
        return {
            "calls": count,
            "mean_ms": round(mean * 1000, 2),
            **{f"p{p}_at_most_ms": bound * 1000 for p, bound in bounds.items()},
        }


def measure(release: Release, namespace: str, *, threads: int = 1) -> Json:
    """Milliseconds of the whole request as its client sees it, and of the webhook as the API server sees it."""
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    before = _seen(release)
    for _ in range(ROUNDS):
        for kind, asked in KINDS.items():
            with Load(release.plane, namespace, threads=threads, annotations=asked) as load:
                load.wait(PODS)
            times[kind] += [each.took_ms for each in load.done]
    client = {kind: {f"p{p}_ms": round(percentile(some, p), 2) for p in (50, 90, 99)} for kind, some in times.items()}
    return {"threads": threads, **client, "webhook": _seen(release).since(before)}


def _seen(release: Release) -> Histogram:
    return Histogram.read(release.api.text("/metrics"), METRIC, OURS)
