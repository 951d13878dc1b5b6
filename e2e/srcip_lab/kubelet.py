"""The lab's kubelet: one process per lab that starts the Pod's containers in order and keeps them running.

It lives in a mount namespace of its own: the Memory volumes and the second view of this machine's file system are seen
by it and its containers only, and vanish with them, however they end.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from srcip_lab import agent, bundles, probes, volumes
from srcip_lab.errors import LabError
from srcip_lab.network import Network, network
from srcip_lab.rootless import holder
from srcip_lab.runtime import Runtime, tail
from srcip_lab.state import ContainerStatus, Directory, Process, read_json, wait_until, write_json
from srcip_lab.tools import run

GRACE_S = 1.0
"""How long a container may take to end after its stop signal."""
CLONE_NEWNS = 0x20000
PR_SET_CHILD_SUBREAPER = 36
IMAGE_STOP_SIGNAL = signal.SIGUSR1
"""STOPSIGNAL of the proxy image: HAProxy's soft stop."""
SIDECAR_TIMEOUT_S = 60.0
READY_TIMEOUT_S = 5.0
"""How long `up` waits for an application to listen or to answer its readinessProbe; it goes on with a warning then."""
BACK_OFF_S = (0.0, 1.0, 2.0, 4.0, 8.0, 10.0)
"""Wait before each restart in a row; kubelet's own steps are ten times as long."""
STABLE_S = 10.0
"""A container that ran this long starts again at the first step."""
_libc = ctypes.CDLL(None, use_errno=True)


class Kubelet:
    """The containers of one Pod, and the report of what became of them."""

    def __init__(self, directory: Directory) -> None:
        order = read_json(directory.lab)
        self.directory = directory
        self.runtime = Runtime(directory)
        self.pod: dict[str, Any] = order["pod"]
        self.images: dict[str, str] = order["images"]
        self.grace_s = GRACE_S
        self.network: Network = network(directory.name, ipv6=order["ipv6"])
        self.told_to_stop = threading.Event()
        self.stopping = threading.Event()
        self.lock = threading.RLock()
        self.threads: dict[str, threading.Thread] = {}
        self.phase = "starting"
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.made: list[str] = []
        self.statuses = {
            name: ContainerStatus(name, str(directory.log(name))) for name in map(_name, self._inits() + self._apps())
        }

    def _inits(self) -> list[dict[str, Any]]:
        return self.pod["spec"].get("initContainers") or []

    def _apps(self) -> list[dict[str, Any]]:
        return list(self.pod["spec"]["containers"])

    def run(self) -> None:
        """Start everything, stay until SIGTERM, stop everything."""
        self.report()
        try:
            self._prepare()
            self._start_all()
            self.phase = "running"
        except LabError as error:
            self.phase, self.errors = "failed", list(error.errors)
        if self.phase == "running":
            self.report()
            self.told_to_stop.wait()
        self._stop_all()
        self.report()

    def stop(self, grace_s: float) -> None:
        """Stop every container, each after `grace_s` at the latest; an init container at once."""
        self.grace_s = grace_s
        self.told_to_stop.set()
        for name, status in self.statuses.items():
            if name not in self.threads and status.process:
                status.process.signal(signal.SIGKILL)

    def report(self) -> None:
        """Write down what is known now."""
        with self.lock:
            facts = {
                "kubelet": asdict(own) if (own := Process.of(os.getpid())) else None,
                "phase": self.phase,
                "errors": self.errors,
                "warnings": self.warnings,
                "mount_points": self.made,
                "containers": [asdict(status) for status in self.statuses.values()],
            }
            write_json(self.directory.status, facts)

    def _prepare(self) -> None:
        self.directory.machine.mkdir()
        run("mount", "--rbind", "/", str(self.directory.machine))
        here = [container for container in self._inits() + self._apps() if container.get("image") not in self.images]
        for container in here:
            self.made += volumes.make_mount_points(container)
        self.report()
        self.warnings += bundles.write(self.pod, self.runtime, self.network, self.images)

    # starting

    def _start_all(self) -> None:
        if agent.serves(self.pod):
            agent.start(self.pod, self.directory.log("srcip-agent"))
        for container in self._inits():
            if self.told_to_stop.is_set():
                raise LabError("stopped before every container had started")
            if container.get("restartPolicy") == "Always":
                self._start_sidecar(container)
            else:
                self._run_to_end(container)
        for container in self._apps():
            self._start_supervised(container)
        for container in self._apps():
            self._await_ready(container)

    def _run_to_end(self, container: Mapping[str, Any]) -> None:
        begin = time.monotonic()
        status = self._start(container)
        code = self._wait(status)
        status.ready_ms = _since(begin)
        if code:
            raise LabError(f"init container {status.name}: exit code {code}", *tail(Path(status.log)))

    def _start_sidecar(self, container: Mapping[str, Any]) -> None:
        begin = time.monotonic()
        status = self._start_supervised(container)
        over = lambda: status.started or status.restarts > 1 or self.told_to_stop.is_set()  # noqa: E731
        wait_until(over, SIDECAR_TIMEOUT_S)
        if not status.started:
            why = (
                f"exit code {status.exit_code}" if status.restarts else f"not started within {SIDECAR_TIMEOUT_S:.0f} s"
            )
            raise LabError(f"sidecar {status.name}: {why}", *tail(Path(status.log)))
        status.ready_ms = _since(begin)

    def _start(self, container: Mapping[str, Any]) -> ContainerStatus:
        status = self.statuses[container["name"]]
        begin = time.monotonic()
        pid = self.runtime.start(status.name)
        status.process = Process.of(pid) or Process(pid, 0)
        status.state, status.start_ms, status.started = "running", _since(begin), False
        self.report()
        return status

    def _start_supervised(self, container: Mapping[str, Any]) -> ContainerStatus:
        """Start it and watch it from a thread that starts it again when it ends."""
        status = self._start(container)
        thread = threading.Thread(target=self._supervise, args=(container, status), name=status.name, daemon=True)
        self._watch_startup(container, status)
        thread.start()
        self.threads[status.name] = thread
        return status

    def _watch_startup(self, container: Mapping[str, Any], status: ContainerStatus) -> None:
        probe, process = container.get("startupProbe"), status.process
        if not probe:
            status.started = True
            self.report()
            return

        def watch() -> None:
            while not self.stopping.is_set() and status.process == process:
                if self._ask(probe, container):
                    status.started = True
                    self.report()
                    return
                time.sleep(0.005)

        threading.Thread(target=watch, name=f"{status.name} startup", daemon=True).start()

    def _ask(self, probe: Mapping[str, Any], container: Mapping[str, Any]) -> bool:
        return probes.ask(probe, container, self.network.node, self.network.pod.ipv4, self.runtime)

    def _await_ready(self, container: Mapping[str, Any]) -> None:
        """Wait for an application to listen, so that who sends right after `up` is not too early."""
        status = self.statuses[container["name"]]
        probe, ports = container.get("readinessProbe"), probes.tcp_ports(container)

        def ready() -> bool:
            listens = ports <= probes.listening(self.network.pod)
            return status.started and (self._ask(probe, container) if probe else listens)

        status.ready = wait_until(lambda: status.state != "running" or ready(), READY_TIMEOUT_S) and ready()
        if not status.ready:
            what = "its readinessProbe fails" if probe else f"nothing listens on {sorted(ports)}"
            ended = f"it ended with exit code {status.exit_code}" if status.state == "terminated" else what
            self.warnings += [f"container {status.name}: not ready: {ended}", *tail(Path(status.log), 4)]

    # keeping

    def _supervise(self, container: Mapping[str, Any], status: ContainerStatus) -> None:
        step = 0
        while True:
            begin = time.monotonic()
            code = self._wait(status)
            if not self._restarts(container, code):
                return
            step = 0 if time.monotonic() - begin > STABLE_S else step
            self.stopping.wait(BACK_OFF_S[min(step, len(BACK_OFF_S) - 1)])
            step += 1
            if not self._start_again(container, status):
                return

    def _restarts(self, container: Mapping[str, Any], code: int) -> bool:
        policy = container.get("restartPolicy") or self.pod["spec"].get("restartPolicy") or "Always"
        return not self.stopping.is_set() and (policy == "Always" or (policy == "OnFailure" and code != 0))

    def _start_again(self, container: Mapping[str, Any], status: ContainerStatus) -> bool:
        hold = self.directory.hold(status.name)
        wait_until(lambda: self.stopping.is_set() or not hold.exists(), float("inf"))
        with self.lock:
            if self.stopping.is_set():
                return False
            status.restarts += 1
            try:
                self._start(container)
            except LabError as error:
                self.warnings += error.errors
                self.report()
                return False
        self._watch_startup(container, status)
        return True

    def _wait(self, status: ContainerStatus) -> int:
        """Wait for the container's end, and report it."""
        assert status.process
        _, result = os.waitpid(status.process.pid, 0)
        code = os.waitstatus_to_exitcode(result)
        with self.lock:
            status.exit_code = code if code >= 0 else 128 - code
            status.state, status.process, status.started, status.ready = "terminated", None, False, False
            self.runtime.delete(self.runtime.identity(status.name))
            self.report()
        return status.exit_code

    # stopping

    def _stop_all(self) -> None:
        """Applications first, then the sidecars, the last started first: as kubelet ends a Pod."""
        with self.lock:
            self.stopping.set()
        self._stop(dict.fromkeys(map(_name, self._apps()), signal.SIGTERM))
        for container in reversed(self._inits()):
            in_image = container.get("image") in self.images
            self._stop({container["name"]: IMAGE_STOP_SIGNAL if in_image else signal.SIGTERM})
        self.phase = self.phase if self.phase == "failed" else "stopped"

    def _stop(self, names: Mapping[str, signal.Signals]) -> None:
        running = {name: self.threads[name] for name in names if name in self.threads}
        for name in running:
            self._signal(name, names[name])
        end = time.monotonic() + self.grace_s
        for name, thread in running.items():
            thread.join(max(0, end - time.monotonic()))
            if thread.is_alive():
                self._signal(name, signal.SIGKILL)
                thread.join()

    def _signal(self, name: str, number: signal.Signals) -> None:
        process = self.statuses[name].process
        if process:
            process.signal(number)


def _name(container: Mapping[str, Any]) -> str:
    return str(container["name"])


def _since(begin: float) -> float:
    return round((time.monotonic() - begin) * 1000, 1)


def main() -> None:
    """`python -m srcip_lab.kubelet DIRECTORY`: run the Pod of that lab."""
    if _libc.unshare(CLONE_NEWNS) or _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNS)")
    run("mount", "--make-rprivate", "/")
    kubelet = Kubelet(Directory(Path(sys.argv[1])))
    signal.signal(signal.SIGTERM, lambda *_: kubelet.stop(GRACE_S))
    signal.signal(signal.SIGINT, lambda *_: kubelet.stop(0))
    if outer := holder():
        threading.Thread(target=_end_with, args=(outer, kubelet), name="holder", daemon=True).start()
    kubelet.run()


def _end_with(outer: Process, kubelet: Kubelet) -> None:
    """Without root: nobody could find this lab again when the holder of its namespace is gone."""
    while not outer.wait(3600):
        pass
    kubelet.stop(0)


if __name__ == "__main__":
    main()
