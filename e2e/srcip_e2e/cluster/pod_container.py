"""One container of a Pod of `cluster.podrunner`: kept running, and probed."""

from __future__ import annotations

import subprocess
import time
from typing import Protocol

from srcip_e2e.cluster.api import Json
from srcip_lab.kubelet import BACK_OFF_S, STABLE_S

FIRST_TRIES_S = 0.2


class Node(Protocol):
    """What a container needs of the Pod that it is part of."""

    def ask(self, probe: Json, container: Json) -> bool:
        """Whether one try of a probe succeeds."""

    def spawn(self, spec: Json) -> subprocess.Popen[str]:
        """Start a process of the container `spec`."""


class Check:
    """One probe of a running container."""

    def __init__(self, probe: Json | None, *, eager: bool) -> None:
        self.probe = probe or {}
        self.eager = eager
        self.passed = probe is None
        self.failures = 0
        self.due = time.monotonic() + self.probe.get("initialDelaySeconds", 0)

    @property
    def failed(self) -> bool:
        """Whether it has failed as often in a row as it may."""
        return self.failures >= int(self.probe.get("failureThreshold", 3))

    def tick(self, running: Node, container: Json) -> None:
        """Ask if it is time to."""
        if not self.probe or time.monotonic() < self.due:
            return
        good = running.ask(self.probe, container)
        self.failures = 0 if good else self.failures + 1
        eager = self.eager and not good and not self.passed
        self.passed = good or (self.passed and not self.failed)
        self.due = time.monotonic() + (FIRST_TRIES_S if eager else self.probe.get("periodSeconds", 10))


class Container:
    """One container of a Pod, and the process that it is at the moment."""

    def __init__(self, spec: Json, running: Node) -> None:
        self.spec, self.running = spec, running
        self.process: subprocess.Popen[str] | None = None
        self.exit_code: int | None = None
        self.restarts = 0
        self.step = 0
        self.start_again = 0.0
        self.checks: dict[str, Check] = {}

    @property
    def ready(self) -> bool:
        return self.process is not None and self.checks["startup"].passed and self.checks["readiness"].passed

    def start(self) -> None:
        self.process, self.exit_code, self.begin = self.running.spawn(self.spec), None, time.monotonic()
        for kind in ("startup", "readiness", "liveness"):
            self.checks[kind] = Check(self.spec.get(f"{kind}Probe"), eager=kind != "liveness")

    def tick(self, policy: str) -> None:
        """Notice its end, start it again, probe it."""
        if self.process is None:
            if self._restarts(policy) and time.monotonic() >= self.start_again:
                self.restarts += 1
                self.start()
        elif self.process.poll() is not None:
            self._ended(self.process.returncode)
        elif not self.checks["startup"].passed:
            self.checks["startup"].tick(self.running, self.spec)
        else:
            self.checks["readiness"].tick(self.running, self.spec)
            self.checks["liveness"].tick(self.running, self.spec)
            if self.checks["liveness"].failed:
                self.process.kill()

    def over(self, policy: str) -> bool:
        """Whether it has ended and will not come again."""
        return self.process is None and not self._restarts(policy)

    def status(self) -> Json:
        terminated = {"exitCode": self.exit_code, "reason": "Error" if self.exit_code else "Completed"}
        state = {"running": {}} if self.process else {"terminated": terminated}
        fixed = {"name": self.spec["name"], "image": self.spec["image"], "imageID": "", "started": bool(self.process)}
        return {**fixed, "state": state, "ready": self.ready, "restartCount": self.restarts}

    def _restarts(self, policy: str) -> bool:
        return policy == "Always" or (policy == "OnFailure" and bool(self.exit_code))

    def _ended(self, code: int) -> None:
        self.process, self.exit_code = None, code if code >= 0 else 128 - code
        self.step = 0 if time.monotonic() - self.begin > STABLE_S else self.step
        self.start_again = time.monotonic() + BACK_OFF_S[min(self.step, len(BACK_OFF_S) - 1)]
        self.step += 1
