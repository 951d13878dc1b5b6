"""What is known of the Pods of this node, and the page that Prometheus reads. Pure, but for a lock."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from srcip_agent.channel import NEW, Json
from srcip_agent.orders import REASONS, Order, Refusal

BOUNDS_S = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Buckets of the time from a sandbox's discovery to its programs."""
REFUSALS = (*REASONS, "other_configuration", "no_ethernet", "kernel", "error", "killed")
STATES = ("attached", "waiting", "refused", "failed")
Say = Callable[..., object]
"""Logs an event with its fields."""


@dataclass
class Known:
    """A Pod, what is to become of it, and what has."""

    name: str
    state: str = "waiting"
    reason: str = ""
    text: str = ""


@dataclass
class Ledger:
    """All Pods that asked for something."""

    say: Say
    pods: dict[str, Known] = field(default_factory=dict)
    refusals: Counter[str] = field(default_factory=Counter)
    attached: int = 0
    seconds: float = 0.0
    buckets: Counter[float] = field(default_factory=Counter)
    api_failures: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def expect(self, order: Order) -> bool:
        """A Pod waits; whether that is new."""
        with self.lock:
            if order.uid in self.pods:
                return False
            self.pods[order.uid] = Known(order.name)
            return True

    def refuse(self, refusal: Refusal) -> None:
        """A Pod's object is refused."""
        with self.lock:
            known = self.pods.setdefault(refusal.uid, Known(refusal.name))
            self._note(known, "refused", refusal.reason, refusal.text, refusal.uid)

    def forget(self, uid: str) -> bool:
        """A Pod has gone or is over; whether it was known."""
        with self.lock:
            return self.pods.pop(uid, None) is not None

    def hear(self, message: Json) -> None:
        """What the process with privilege says of a Pod."""
        with self.lock:
            uid = str(message.get("uid"))
            if not (known := self.pods.get(uid)):
                return
            state, text = str(message.get("state")), str(message.get("text") or "")
            if state == "attached" and message.get("reason") == NEW:
                self._count(float(message.get("seconds") or 0.0))
            self._note(known, state, str(message.get("reason") or ""), text, uid)

    def _count(self, seconds: float) -> None:
        self.attached += 1
        self.seconds += seconds
        for bound in BOUNDS_S:
            self.buckets[bound] += seconds <= bound

    def _note(self, known: Known, state: str, reason: str, text: str, uid: str) -> None:
        """Logs what is new."""
        if (known.state, known.reason, known.text) == (state, reason, text) and state != "attached":
            return
        known.state, known.reason, known.text = state, reason, text
        if state in ("refused", "failed"):
            self.refusals[reason] += 1
        said = {"reason": reason, "text": text}
        self.say(state, pod=known.name, uid=uid, **{key: value for key, value in said.items() if value})

    def page(self) -> str:
        """The metrics as Prometheus reads them."""
        with self.lock:
            return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        states = Counter(known.state for known in self.pods.values())
        yield from _head("srcip_agent_pods", "gauge", "Pods of this node that asked for programs, by how far they are")
        yield from (f'srcip_agent_pods{{state="{state}"}} {states[state]}' for state in STATES)
        yield from _head("srcip_agent_refusals_total", "counter", "Pods that were not set up, by reason")
        yield from (f'srcip_agent_refusals_total{{reason="{r}"}} {self.refusals[r]}' for r in REFUSALS)
        yield from _head("srcip_agent_api_failures_total", "counter", "Calls of the API server that failed")
        yield f"srcip_agent_api_failures_total {self.api_failures}"
        name = "srcip_agent_attach_seconds"
        yield from _head(name, "histogram", "From the discovery of a sandbox to its programs at work")
        yield from (f'{name}_bucket{{le="{bound:g}"}} {self.buckets[bound]}' for bound in BOUNDS_S)
        yield f'{name}_bucket{{le="+Inf"}} {self.attached}'
        yield f"{name}_sum {self.seconds:.6f}"
        yield f"{name}_count {self.attached}"


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}.", f"# TYPE {name} {kind}"]
