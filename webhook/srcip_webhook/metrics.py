"""Counters of the webhook, written in the Prometheus text format.

Every label value comes from a fixed set of words, so the number of series is bounded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator

BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25, 1.0)
"""Upper bounds of the duration histogram, in seconds."""


class Metrics:
    """What happened since the process started."""

    def __init__(self) -> None:
        self.decisions: Counter[tuple[str, str]] = Counter()
        """By decision and reason."""
        self.rejected: Counter[int] = Counter()
        """Requests that were no AdmissionReview, by HTTP status."""
        self.reloads: Counter[str] = Counter()
        """Changes of the certificate files, by result."""
        self.closed: Counter[str] = Counter()
        """Connections that were closed to make room for others, by reason: `silent` ones, ones of which the TLS
        `handshake` failed or took too long, ones with an `unfinished` request or an unread answer, and `idle` ones."""
        self.certificate_not_after = 0.0
        """When the served certificate ends, in Unix seconds; 0 while there is none."""
        self._durations = [0] * (len(BUCKETS) + 1)
        self._duration_sum = 0.0

    def observe(self, decision: str, reason: str, seconds: float) -> None:
        """Count one decision and the time it took."""
        self.decisions[decision, reason] += 1
        self._durations[bisect_left(BUCKETS, seconds)] += 1
        self._duration_sum += seconds

    def text(self) -> str:
        """All series, in the text exposition format 0.0.4."""
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        yield from _head("srcip_webhook_decisions_total", "counter", "Reviews answered, by decision and reason.")
        for (decision, reason), count in sorted(self.decisions.items()):
            yield f'srcip_webhook_decisions_total{{decision="{decision}",reason="{reason}"}} {count}'
        yield from _head(
            "srcip_webhook_rejected_requests_total", "counter", "Requests that were not a review, by status."
        )
        for status, count in sorted(self.rejected.items()):
            yield f'srcip_webhook_rejected_requests_total{{code="{status}"}} {count}'
        yield from self._histogram()
        yield from _head("srcip_webhook_certificate_reloads_total", "counter", "Changed certificate files, by result.")
        for result, count in sorted(self.reloads.items()):
            yield f'srcip_webhook_certificate_reloads_total{{result="{result}"}} {count}'
        name = "srcip_webhook_closed_connections_total"
        yield from _head(name, "counter", "Connections that the webhook closed, by reason.")
        for reason, count in sorted(self.closed.items()):
            yield f'{name}{{reason="{reason}"}} {count}'
        name = "srcip_webhook_certificate_not_after_seconds"
        yield from _head(name, "gauge", "When the served certificate expires, in Unix seconds; 0 without one.")
        yield f"{name} {self.certificate_not_after:.0f}"

    def _histogram(self) -> Iterator[str]:
        name = "srcip_webhook_review_seconds"
        yield from _head(name, "histogram", "Time from a complete request to its response.")
        total = 0
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self._durations, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self._duration_sum:.6f}"
        yield f"{name}_count {total}"


def _head(name: str, kind: str, doc: str) -> tuple[str, str]:
    return f"# HELP {name} {doc}", f"# TYPE {name} {kind}"
