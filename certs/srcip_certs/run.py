"""The process: a thread that works, one that watches, one that answers HTTP; the main thread waits for the end."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from srcip_certs import logs, server, status
from srcip_certs.api import kube
from srcip_certs.clock import Clock
from srcip_certs.files import Files
from srcip_certs.replica import Replica
from srcip_certs.settings import Settings
from srcip_certs.watch import watch
from srcip_kube.client import ApiError, Json, Kube

FIRST_RETRY_S = 0.2
LEAST_PAUSE_S = 0.05
"""Between two looks, however often the configuration changes."""
HANGING_S = 30.0
"""Beyond a few intervals and timeouts: the loop does not work any more."""


@dataclass
class Process:
    """What the threads share."""

    settings: Settings
    replica: Replica
    wake: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    failed: bool = False
    finished: float = 0.0
    """When the loop last came round (steady)."""

    def work(self) -> None:
        """Look, do, wait; for ever."""
        tries = 0
        while True:
            self.wake.clear()
            tries = 0 if self.replica.tick() else tries + 1
            self.finished = self.replica.clock.steady()
            self.done.wait(LEAST_PAUSE_S)
            self.wake.wait(pause(self.settings.check_interval_s, tries))

    def follow(self, kube: Kube) -> None:
        """Follow the configuration; for ever."""
        subject, faults, tries = "watching the webhook configuration", self.replica.faults, 0
        watching = watch(kube, self.settings.webhook_configuration, self.put, lambda: faults.end(subject))
        while True:
            try:
                watching.follow()
                tries = 0
            except ApiError as error:
                tries += 1
                self.replica.metrics.api_failures["watch"] += 1
                faults.begin(subject, str(error))
            self.done.wait(pause(self.settings.check_interval_s, max(tries, 1)))

    def put(self, found: Json | None) -> None:
        """Take what the watch brought, and look at everything now."""
        self.replica.seen.put((found, self.replica.clock.steady()))
        self.wake.set()

    def healthz(self) -> server.Answer:
        """Whether the loop has come round lately."""
        age = self.replica.clock.steady() - self.finished
        longest = 3 * self.settings.check_interval_s + 10 * self.settings.request_timeout_s + HANGING_S
        return server.plain(200 if age < longest else 503, f"the loop last ran {age:.1f} s ago\n")

    def metrics(self) -> server.Answer:
        return 200, "text/plain; version=0.0.4; charset=utf-8", self.replica.metrics.text()

    def status(self) -> server.Answer:
        return server.as_json(status.of(self.replica.view_told, self.settings, self.replica.faults))

    def start(self, name: str, work: object) -> None:
        """Run `work` in a thread of that name; the process ends with it."""

        def guarded() -> None:
            try:
                work()  # type: ignore[operator]
            except BaseException:  # noqa: BLE001  a thread's death must not go unseen
                traceback.print_exc(file=sys.stdout)
                self.failed = True
                self.done.set()

        threading.Thread(target=guarded, name=name, daemon=True).start()


def pause(interval_s: float, tries: int) -> float:
    """How long to wait for the next look: short after a first failure, never longer than the interval."""
    backoff = FIRST_RETRY_S * 2 ** min(tries - 1, 16) * random.uniform(0.8, 1.2)  # noqa: S311  spreads load only
    return min(interval_s, backoff) if tries else interval_s


def run(settings: Settings) -> int:
    """Keep certificates in order until SIGTERM or SIGINT; the exit code."""
    logs.setup(settings.log_level, os.environ.get("POD_NAME", ""))
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):  # first: what comes before is lost for the first process of a Pod
        signal.signal(number, lambda _number, _frame: done.set())
    clock = Clock()
    files = Files(Path(settings.directory))
    replica = Replica(settings, kube(settings.request_timeout_s, clock.heard), files, clock)
    process = Process(settings, replica, done=done, finished=clock.steady())
    pages = {"/healthz": process.healthz, "/metrics": process.metrics, "/status": process.status}
    port = server.Server(settings.listen_port, pages).start()
    logs.event("started", port=port, pid=os.getpid(), configuration=settings.webhook_configuration)
    replica.start()
    process.start("work", process.work)
    process.start("watch", lambda: process.follow(kube(settings.request_timeout_s)))
    done.wait()
    with files.lock:  # no pair is left half written
        logs.event("stopped")
        sys.stdout.flush()
        os._exit(int(process.failed))  # threads may hang in a call; nothing else is to be saved
