"""Admissions without a pause: threads that create Pods (dry run) through the API server, and what came of each.

Each thread keeps its connection. A Pod that is created but not injected counts too: to leave it out silently is as bad
as to refuse it.
"""

from __future__ import annotations

import http.client
import math
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from srcip_e2e.cluster.api import Answer, Api, Json
from srcip_e2e.cluster.controlplane import ControlPlane

PAUSE_S = 0.005
SIDECAR = "srcip-proxy"
TRUSTED = "192.0.2.0/24"


def pod(name: str = "load-", *, annotations: dict[str, str] | None = None, **meta: Any) -> Json:
    """A Pod that asks for srcip, or with an empty dict of annotations does not; a name that ends in - is a prefix."""
    asks = {"srcip.io/mode": "tproxy"} if annotations is None else annotations
    named = {"generateName" if name.endswith("-") else "name": name}
    container = {"name": "app", "image": "app", "ports": [{"containerPort": 8080}]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**named, "annotations": asks, **meta},
        "spec": {"containers": [container]},
    }


def injected(answer: Json) -> bool:
    """Whether the Pod in an answer has the sidecar."""
    return any(each["name"] == SIDECAR for each in answer.get("spec", {}).get("initContainers") or [])


@dataclass(frozen=True)
class Admission:
    """One Pod that was sent to the API server."""

    begin: float
    """When, on the monotonic clock, in seconds."""
    took_ms: float
    outcome: str
    """injected, untouched, refused (the API server said no) or failed (it could not be asked)."""
    message: str


@dataclass(frozen=True)
class Tally:
    """What came of the admissions of some time."""

    admissions: tuple[Admission, ...]

    def count(self, outcome: str) -> int:
        return sum(each.outcome == outcome for each in self.admissions)

    @property
    def bad(self) -> int:
        """How many were not injected, for whatever reason."""
        return len(self.admissions) - self.count("injected")

    @property
    def messages(self) -> dict[str, int]:
        """Each reason of a bad one, and how often it came."""
        return dict(Counter(each.message[:300] for each in self.admissions if each.outcome != "injected"))

    @property
    def window_ms(self) -> float:
        """From the begin of the first bad one to the end of the last, in milliseconds."""
        bad = [each for each in self.admissions if each.outcome != "injected"]
        return (bad[-1].begin - bad[0].begin) * 1000 + bad[-1].took_ms if bad else 0

    def facts(self) -> Json:
        """All of it for a report."""
        kinds = ("injected", "untouched", "refused", "failed")
        times = [each.took_ms for each in self.admissions]
        return {
            "admissions": len(self.admissions),
            **{kind: self.count(kind) for kind in kinds},
            **{f"p{percent}_ms": round(percentile(times, percent), 2) for percent in (50, 99)},
            "messages": self.messages,
        }


def percentile(values: Iterable[float], percent: float) -> float:
    """The smallest value that at least `percent` of all do not exceed; 0 without any."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else 0.0


class Load:
    """The load while the `with` block lasts."""

    def __init__(
        self, plane: ControlPlane, namespace: str, *, threads: int = 4, annotations: dict[str, str] | None = None
    ) -> None:
        self.api = plane.api("load")
        self.path = f"/api/v1/namespaces/{namespace}/pods?dryRun=All"
        self.body = pod(annotations=annotations)
        self.done: list[Admission] = []
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._work, name=f"load {n}", daemon=True) for n in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def tally(self, begin: float = 0, end: float = float("inf")) -> Tally:
        """What was sent between two moments of the monotonic clock, in this order."""
        some = [each for each in list(self.done) if begin <= each.begin < end]
        return Tally(tuple(sorted(some, key=lambda each: each.begin)))

    def wait(self, more: int, timeout_s: float = 60) -> None:
        """Wait until as many `more` admissions are done. Raises TimeoutError."""
        goal, end = len(self.done) + more, time.monotonic() + timeout_s
        while len(self.done) < goal:
            if time.monotonic() > end:
                raise TimeoutError(
                    f"{goal - len(self.done)} of {more} admissions are still missing after {timeout_s} s"
                )
            time.sleep(0.02)

    def _work(self) -> None:
        while not self._stopping.is_set():
            begin = time.monotonic()
            outcome, message = self._admit(self.api)
            self.done.append(Admission(begin, (time.monotonic() - begin) * 1000, outcome, message))
            time.sleep(PAUSE_S)

    def _admit(self, api: Api) -> tuple[str, str]:
        try:
            return _outcome(api.ask("POST", self.path, self.body))
        except (OSError, http.client.HTTPException) as error:
            return "failed", repr(error)


def _outcome(answer: Answer) -> tuple[str, str]:
    if answer.code >= 300:
        return "refused", answer.message
    return ("injected", "") if injected(answer.body) else ("untouched", "created without the sidecar")
