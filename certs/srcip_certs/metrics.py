"""Counters of one replica, written in the Prometheus text format. Every label value comes from a fixed set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

VERBS = ("get", "create", "update", "patch", "watch")
CERTIFICATES = ("ca", "leaf")


@dataclass
class Metrics:
    """What happened since the process started, and what is in force."""

    not_after: dict[str, float] = field(default_factory=lambda: dict.fromkeys(CERTIFICATES, 0.0))
    renewals: Counter[str] = field(default_factory=Counter)
    api_failures: Counter[str] = field(default_factory=Counter)
    conflicts: int = 0
    repairs: int = 0
    secret_faults: int = 0
    in_force: bool = False
    skew_s: float = 0.0

    def text(self) -> str:
        """All series, in the text exposition format 0.0.4."""
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        name = "srcip_certs_not_after_seconds"
        yield from _head(name, "gauge", "When the certificate in use expires, in Unix seconds; 0 without one.")
        yield from (f'{name}{{certificate="{each}"}} {self.not_after[each]:.0f}' for each in CERTIFICATES)
        name = "srcip_certs_renewals_total"
        yield from _head(name, "counter", "Certificates that this replica issued.")
        yield from (f'{name}{{certificate="{each}"}} {self.renewals[each]}' for each in CERTIFICATES)
        name = "srcip_certs_api_failures_total"
        yield from _head(name, "counter", "Calls of the Kubernetes API that failed, by verb.")
        yield from (f'{name}{{verb="{each}"}} {self.api_failures[each]}' for each in VERBS)
        for name, kind, doc, value in self._plain():
            yield from _head(name, kind, doc)
            yield f"{name} {value}"

    def _plain(self) -> tuple[tuple[str, str, str, str], ...]:
        return (
            (
                "srcip_certs_api_conflicts_total",
                "counter",
                "Writes refused because of another writer's change.",
                f"{self.conflicts}",
            ),
            (
                "srcip_certs_ca_bundle_repairs_total",
                "counter",
                "Repairs of a caBundle from which certificates were removed.",
                f"{self.repairs}",
            ),
            (
                "srcip_certs_secret_faults_total",
                "counter",
                "How often the Secret became unusable.",
                f"{self.secret_faults}",
            ),
            ("srcip_certs_ca_bundle_in_force", "gauge", "1 if each caBundle is complete.", f"{self.in_force:d}"),
            (
                "srcip_certs_clock_skew_seconds",
                "gauge",
                "How far this machine's clock is ahead of the API server's.",
                f"{self.skew_s:.3f}",
            ),
        )


def _head(name: str, kind: str, doc: str) -> tuple[str, str]:
    return f"# HELP {name} {doc}", f"# TYPE {name} {kind}"
