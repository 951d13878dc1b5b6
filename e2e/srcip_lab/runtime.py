"""Running containers with runc: start, signal, look, delete."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srcip_lab.errors import LabError
from srcip_lab.state import Directory
from srcip_lab.tools import machine_path, run

TAIL_LINES = 12


@dataclass(frozen=True)
class Runtime:
    """The containers of one lab."""

    directory: Directory

    def identity(self, container: str) -> str:
        """The container's name for runc: it also names its cgroup, so the lab's name is part of it."""
        return f"srcip-{self.directory.name}-{container}"

    def prepare(self, container: str, config: Mapping[str, Any]) -> None:
        """Write the bundle of `container`."""
        bundle = self.directory.bundle(container)
        bundle.mkdir(parents=True, exist_ok=True)
        (bundle / "config.json").write_text(json.dumps(config))
        self.directory.log(container).parent.mkdir(exist_ok=True)

    def start(self, container: str) -> int:
        """Start the prepared `container`; its process number. It becomes a child of this process, or of its subreaper.

        Raises LabError with the end of its log when it does not start.
        """
        bundle = self.directory.bundle(container)
        pid_file = bundle / "pid"
        with self.directory.log(container).open("ab") as log:
            done = subprocess.run(
                [
                    *self._runc(),
                    "run",
                    "--detach",
                    f"--pid-file={pid_file}",
                    f"--bundle={bundle}",
                    self.identity(container),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
                check=False,
            )
        if done.returncode:
            raise LabError(f"container {container}: it does not start", *tail(self.directory.log(container)))
        return int(pid_file.read_text())

    def delete(self, identity: str) -> None:
        """Kill what is left of a container, and forget it. None of that name is no error."""
        run(*self._runc(), "delete", "--force", identity)

    def identities(self) -> list[str]:
        """The containers that runc knows, running or ended."""
        return sorted(path.name for path in self.directory.runc.glob("srcip-*")) if self.directory.runc.exists() else []

    def exec(
        self, container: str, args: Sequence[str], *, check: bool = False, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside the running `container`, as its user and with its capabilities."""
        command = [*self._runc(), "exec", self.identity(container), *args]
        return subprocess.run(command, check=check, **{"text": True, "env": _environment(), **options})

    def _runc(self) -> tuple[str, ...]:
        return "runc", f"--root={self.directory.runc}"


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": machine_path()}


def tail(log: Path, lines: int = TAIL_LINES) -> list[str]:
    """The last lines of a log, indented; none if there is no such log."""
    if not log.exists():
        return []
    return [f"  {line}" for line in log.read_text(errors="replace").splitlines()[-lines:]]
