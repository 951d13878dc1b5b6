"""What the lab remembers on disk: one directory per lab, and processes known by more than their number."""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from srcip_lab.errors import LabError

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")


@dataclass(frozen=True)
class Process:
    """A process by its number and its start time, so that a reused number is never taken for it."""

    pid: int
    start: int
    """Clock ticks from boot to its start."""
    boot: str = ""
    """The boot it belongs to: after a restart of the machine both numbers can come again."""

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process that has the number now; None if there is none, or only its exit status is left."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]), boot_id())

    @classmethod
    def read(cls, raw: Any) -> Process | None:
        """One that was stored as JSON."""
        return cls(**raw) if raw else None

    def alive(self) -> bool:
        """Whether it still runs."""
        return Process.of(self.pid) == self

    def signal(self, number: int) -> bool:
        """Send it a signal; False if it is gone. Never reaches another process."""
        with self._handle() as handle:
            if handle is not None:
                signal.pidfd_send_signal(handle, number)
        return handle is not None

    def wait(self, timeout_s: float) -> bool:
        """Whether it is gone within `timeout_s` seconds."""
        with self._handle() as handle:
            if handle is None:
                return True
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            return bool(poll.poll(timeout_s * 1000))

    @contextmanager
    def _handle(self) -> Iterator[int | None]:
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            yield None
            return
        try:
            yield handle if self.alive() else None  # asked after the handle is open: it is the same process then
        finally:
            os.close(handle)


def boot_id() -> str:
    """Which boot of the machine this is."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@dataclass(frozen=True)
class Directory:
    """The files of one lab."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def lab(self) -> Path:
        """What `up` decided: Pod, namespaces, answer of the webhook."""
        return self.path / "lab.json"

    @property
    def status(self) -> Path:
        """What the lab's kubelet reports."""
        return self.path / "status.json"

    @property
    def kubelet_log(self) -> Path:
        return self.path / "kubelet.log"

    @property
    def runc(self) -> Path:
        """State of runc."""
        return self.path / "runc"

    @property
    def machine(self) -> Path:
        """Where the kubelet, and nobody else, sees this machine's file system again."""
        return self.path / "machine"

    def log(self, container: str) -> Path:
        """Standard output and error of a container."""
        return self.path / "logs" / f"{container}.log"

    def hold(self, container: str) -> Path:
        """While this file exists the container is not started again."""
        return self.path / "hold" / container

    def bundle(self, container: str) -> Path:
        return self.path / "bundles" / container

    def volume(self, name: str) -> Path:
        return self.path / "volumes" / name

    @contextmanager
    def locked(self) -> Iterator[bool]:
        """One `up` or `down` of a lab at a time; whether the directory is (still) there when it is our turn."""
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            yield False
            return
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield self.path.exists() and self.path.stat().st_ino == os.fstat(handle).st_ino
        finally:
            os.close(handle)


def root() -> Path:
    """The directory that holds every lab's own."""
    return Path(os.environ.get("SRCIP_LAB_DIR") or "/run/srcip-lab")


def directory(name: str) -> Directory:
    """The files of the lab `name`. Raises LabError for a name that cannot be one."""
    if not NAME.fullmatch(name):
        raise LabError(f"lab name {name!r}: allowed are a-z, 0-9 and -, at most 32, no - at either end")
    return Directory(root() / name)


def write_json(path: Path, value: Any) -> None:
    """Write the whole file or nothing."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(json.dumps(value, indent=1))
    aside.rename(path)


def read_json(path: Path) -> Any:
    """What write_json wrote; None if there is no such file."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


@dataclass
class ContainerStatus:
    """What the kubelet knows about one container."""

    name: str
    log: str
    state: str = "waiting"
    """waiting, running or terminated."""
    process: Process | None = None
    exit_code: int | None = None
    """Of its last end; 128 and the signal's number when a signal ended it."""
    restarts: int = 0
    started: bool = False
    """Its startupProbe has succeeded, or it has none and runs."""
    ready: bool = False
    """At start-up: it answered its readinessProbe, or listened on its declared ports."""
    start_ms: float = 0
    """From the order to start it to its process, in milliseconds."""
    ready_ms: float = 0
    """From the order to start it to started (a sidecar) or to its end (an init container), in milliseconds."""

    @classmethod
    def read(cls, raw: dict[str, Any]) -> ContainerStatus:
        """One that was stored as JSON."""
        return cls(**{**raw, "process": Process.read(raw["process"])})

    def facts(self) -> dict[str, Any]:
        """What `--json` tells about it."""
        hidden = ("name", "process")
        plain = {key: value for key, value in asdict(self).items() if key not in hidden}
        return {"pid": self.process.pid if self.process else None, **plain}


def wait_until(condition: Any, timeout_s: float, *, every_s: float = 0.01) -> bool:
    """Ask `condition` until it is true; False when it was not within `timeout_s` seconds."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(every_s)
    return True
