"""One host of the lab: a network namespace, and what can be done inside it."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from srcip_lab.errors import LabError
from srcip_lab.tools import machine_path

T = TypeVar("T")
CLONE_NEWNET = 0x40000000
RUN_NETNS = Path("/run/netns")
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Host:
    """A network namespace with its addresses. It is only a name: the namespace may be gone by now."""

    name: str
    """Its part in the lab: lb, other, pod or node."""
    netns: str
    """Name of the namespace under /run/netns."""
    ips: tuple[str, ...]
    """Its addresses, IPv4 first."""

    @property
    def path(self) -> Path:
        """The file that holds the namespace open."""
        return RUN_NETNS / self.netns

    @property
    def ipv4(self) -> str:
        """Its IPv4 address."""
        return next(ip for ip in self.ips if ":" not in ip)

    @property
    def ipv6(self) -> str | None:
        """Its IPv6 address, or None in a lab without IPv6."""
        return next((ip for ip in self.ips if ":" in ip), None)

    def facts(self) -> dict[str, Any]:
        """What `--json` tells about it."""
        return {"netns": self.netns, "ips": list(self.ips)}

    def call(self, function: Callable[[], T]) -> T:
        """Run `function` in a thread that is inside the namespace; sockets it opens belong there for good."""
        outcome: list[T] = []
        failure: list[BaseException] = []

        def enter_and_call() -> None:
            try:
                self._enter()
                outcome.append(function())
            except BaseException as error:  # noqa: BLE001 (it is raised again in the caller's thread)
                failure.append(error)

        thread = threading.Thread(target=enter_and_call, name=f"in {self.netns}")
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return outcome[0]

    def open_socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A new socket that lives in the namespace."""
        return self.call(lambda: socket.socket(family, kind))

    def connect(
        self, address: str, port: int, *, source: tuple[str, int] | None = None, timeout_s: float = 60
    ) -> socket.socket:
        """A TCP connection from this host, from the address and port `source` if given. Raises OSError."""
        connection = self.open_socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        try:
            connection.settimeout(timeout_s)
            if source:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                connection.bind(source)
            connection.connect((address, port))
        except BaseException:
            connection.close()
            raise
        return connection

    def listen(self, port: int = 0, address: str | None = None) -> socket.socket:
        """A listening TCP socket of this host, on its IPv4 address and a free port if not told otherwise.

        The address "::" stands for both families.
        """
        where = self.ipv4 if address is None else address
        family = socket.AF_INET6 if ":" in where else socket.AF_INET
        dual = where == "::"
        return self.call(lambda: socket.create_server((where, port), family=family, dualstack_ipv6=dual))

    def command(self, args: Sequence[str]) -> list[str]:
        """`args` as a command line that runs inside the namespace."""
        return ["nsenter", f"--net={self.path}", "--", *args]

    def run(self, args: Sequence[str], *, check: bool = False, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a program of this machine inside the namespace; options as of subprocess.run, text by default."""
        return subprocess.run(self.command(args), check=check, **{"text": True, "env": _environment(), **options})

    def popen(self, args: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """Start a program of this machine inside the namespace; options as of subprocess.Popen."""
        return subprocess.Popen(self.command(args), **{"text": True, "env": _environment(), **options})

    def _enter(self) -> None:
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise LabError(f"network namespace {self.netns}: it does not exist (any more)") from None
        try:
            if _libc.setns(handle, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"setns {self.path}")
        finally:
            os.close(handle)


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": machine_path()}
