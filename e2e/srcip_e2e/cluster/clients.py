"""Clients of the applications: one request at a time, or many of them while something else happens."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from srcip_e2e.cluster import apps
from srcip_e2e.cluster.kube import Kube
from srcip_lab.errors import LabError
from srcip_lab.namespace import Host

Endpoint = tuple[str, int]
CURL = ("curl", "--silent", "--show-error", "--max-time", "10")
REQUEST = b"GET / HTTP/1.1\r\nHost: e2e\r\nConnection: close\r\n\r\n"


def ask(connection: socket.socket, request: bytes = REQUEST) -> str:
    """Send an HTTP request and return the body of the answer. Raises OSError, LabError if it is no success."""
    with connection:
        connection.sendall(request)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise LabError(f"the answer is not a success: {head[:200]!r}")
    return body.decode().strip()


def line(connection: socket.socket) -> str:
    """The next line that the server sends. Raises OSError, EOFError if it ends the connection."""
    received = b""
    while not received.endswith(b"\n"):
        piece = connection.recv(1)
        if not piece:
            raise EOFError(f"closed after {received!r}")
        received += piece
    return received.decode().strip()


def fields(answer: str) -> dict[str, str]:
    """What an application says of one request (app_image/headers.conf), without what is empty."""
    lines = (line.partition(": ") for line in answer.splitlines())
    return {name: value for name, _, value in lines if value}


def url(host: str, port: int, scheme: str = "http") -> str:
    """Where to find this host, an address of either version of IP."""
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/"


def curl(host: Host, *arguments: str) -> str:
    """What a real curl on this host prints. Raises LabError with what it said."""
    return _program(host, [*CURL, *arguments])


def dial(host: Host, kind: str, address: str, port: int, *messages: str) -> list[str]:
    """The lines of a real WebSocket or gRPC client (app_image/dial.py). Raises LabError with what it said."""
    program = (apps.FILES / "dial.py").read_text()
    return _program(host, ["python3", "-", kind, address, str(port), *messages], program).splitlines()


def inside(kube: Kube, pod: str, *command: str) -> str:
    """What a program prints that the Pod's application runs. Raises LabError with what it said."""
    said = kube.exec(pod, *command)
    if said.code:
        raise LabError(f"{command[0]} in {pod}: {said.err.strip()}")
    return said.out


def _program(host: Host, command: Sequence[str], stdin: str = "") -> str:
    done = host.run(["chroot", str(apps.rootfs()), *command], input=stdin, capture_output=True, timeout=120)
    if done.returncode:
        raise LabError(f"{command[0]} on {host.name}: exit code {done.returncode}", done.stderr.strip())
    return str(done.stdout)


def seen(answer: str) -> Endpoint:
    """The client's address and port in an answer of the test applications, which begins with them."""
    address, port, *_ = answer.split()
    return address, int(port)


@dataclass
class Traffic:
    """Requests without pause, each from another client, as a context manager; the counts are final at its end."""

    request: Callable[[Endpoint], str]
    """Makes one request as the client and returns the answer."""
    network: str = "203.0.113."
    """The clients' addresses begin so."""
    workers: int = 2
    pause_s: float = 0.01
    answers: int = 0
    """Answers that had the client's own address and port in them."""
    errors: Counter[str] = field(default_factory=Counter)
    """Requests without an answer, by what happened."""
    wrong: list[str] = field(default_factory=list)
    """Answers with another address than the client's."""
    last_answer: float = 0.0
    """When the last good answer came (time.monotonic)."""

    def __enter__(self) -> Traffic:
        self._over = threading.Event()
        self._clients = itertools.cycle(
            [(f"{self.network}{n}", p) for p in range(20000, 60000) for n in range(10, 200)]
        )
        self._threads = [threading.Thread(target=self._work) for _ in range(self.workers)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while not self._over.wait(self.pause_s):
            client = next(self._clients)
            try:
                answer = self.request(client)
            except (OSError, LabError) as error:
                self.errors[f"{type(error).__name__}: {error}"] += 1
                continue
            if seen(answer) == client:
                self.answers += 1
                self.last_answer = time.monotonic()
            else:
                self.wrong.append(f"{client}: {answer}")
