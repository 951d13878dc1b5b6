"""What is outside the cluster: a real HAProxy that sends the PROXY protocol to Pods or nodes, and its clients."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from srcip_e2e.cluster import apps
from srcip_e2e.cluster.node_network import BALANCER
from srcip_e2e.cluster.workloads import WEB_PORTS
from srcip_lab import image
from srcip_lab.errors import LabError
from srcip_lab.namespace import Host
from srcip_lab.state import wait_until

SLOTS = 6
"""Servers that one service of the balancer can have at the same time."""
ALONE = ("setpriv", "--pdeathsig=KILL", "--", "unshare", "--mount", "--propagation=private", "--")
"""How HAProxy is started: with mounts of its own, and not to outlive who started it."""
IN_MAINTENANCE = 1
"""Bit of a server's administrative state (HAProxy management guide, "show servers state")."""


@dataclass(frozen=True)
class Service:
    """One port of the balancer, and what it does for it."""

    name: str
    port: int
    options: str = "send-proxy-v2"
    """Of each server line; "" sends no PROXY header."""
    check: bool = False
    """Whether servers are asked for their health, every 200 ms."""
    http: bool = False
    """Whether the balancer looks into HTTP, and can send each request elsewhere."""
    bind: str = ""
    """More words of its bind lines, such as those that make it end TLS."""
    lines: tuple[str, ...] = ()
    """More lines of its section."""


class Balancer:
    """A running HAProxy of the edge. Its servers are set by its own runtime interface, as controllers do."""

    def __init__(self, host: Host, *services: Service, files: Mapping[str, bytes] | None = None) -> None:
        """`files` are there for the configuration as /mnt/NAME."""
        self.host = host
        self.files = files or {}
        self.services = {service.name: service for service in services}
        self._directory = Path(tempfile.mkdtemp(prefix="srcip-edge-"))
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Balancer:
        for name, content in self.files.items():
            (self._directory / name).write_bytes(content)
        (self._directory / "haproxy.cfg").write_text(configuration(self.services.values()))
        script = 'mount --bind "$1" "$2/mnt" && exec chroot "$2" /usr/sbin/haproxy -db -f /mnt/haproxy.cfg'
        args = ["sh", "-c", script, "sh", str(self._directory), str(image.base_rootfs())]
        with (self._directory / "haproxy.log").open("w") as log:
            self._process = self.host.popen(
                ["unshare", "--mount", "--propagation=private", *args], stdout=log, stderr=log
            )
        if not wait_until(self._answers, 10):
            raise LabError("HAProxy of the edge does not start", *self.log().splitlines()[-12:])
        return self

    def __exit__(self, *_: object) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._directory)

    def _answers(self) -> bool:
        try:
            return bool(self.tell("show info"))
        except OSError:
            return False

    def log(self) -> str:
        """Everything it has said."""
        return (self._directory / "haproxy.log").read_text(errors="replace")

    def troubles(self) -> list[str]:
        """Its log lines of connections that did not end as they should (HAProxy configuration manual, 8.5), and of
        servers that came and went."""
        lines = self.log().splitlines()
        return [line for line in lines if "Server " in line or not re.search(r" (--|cD|CD)(--)? ", line)]

    def tell(self, command: str) -> str:
        """One command of its runtime interface (HAProxy management guide, 9.3), and the answer."""
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(5)
            control.connect(str(self._directory / "admin.sock"))
            control.sendall(command.encode() + b"\n")
            return b"".join(iter(lambda: control.recv(65536), b"")).decode()

    def serve(self, name: str, servers: Iterable[tuple[str, int]]) -> None:
        """Exactly these servers serve `name` from now on. New ones come before old ones go, so that there is always
        one; those that go may end what they have begun."""
        wanted = set(servers)
        slots = self._slots(name)
        free = [slot for slot, server in slots.items() if not server]
        missing = sorted(wanted - set(slots.values()))
        if len(missing) > len(free):
            raise LabError(f"balancer, {name}: {len(missing)} more servers, and there is room for {len(free)}")
        for slot, (address, port) in zip(free, missing, strict=False):
            self._set(name, slot, f"addr {address} port {port}")
            self._set(name, slot, "state ready")
        for slot, server in slots.items():
            if server and server not in wanted:
                self._set(name, slot, "state maint")

    def connect(self, name: str, *, client: tuple[str, int] | None = None, family: int = 4) -> socket.socket:
        """A connection of a client to the service `name`, from address and port `client` if given."""
        to = BALANCER[0 if family == 4 else 1]
        return self.host.connect(to, self.services[name].port, source=client)

    def up(self, name: str) -> int:
        """How many servers of `name` it takes for healthy."""
        rows = [row.split(",") for row in self.tell("show stat").splitlines()]
        return sum(row[0] == name and row[1].startswith("s") and row[17].startswith(("UP", "no check")) for row in rows)

    def _slots(self, name: str) -> dict[str, tuple[str, int] | None]:
        """Who is in each slot; None in those that are not in use."""
        rows = [line.split() for line in self.tell(f"show servers state {name}").splitlines()]
        rows = [row for row in rows if len(row) > 18 and row[0] != "#"]
        return {row[3]: None if int(row[6]) & IN_MAINTENANCE else (row[4], int(row[18])) for row in rows}

    def _set(self, name: str, slot: str, what: str) -> None:
        answer = self.tell(f"set server {name}/{slot} {what}").strip()
        if answer and "IP changed" not in answer and "port changed" not in answer and "no need" not in answer:
            raise LabError(f"balancer, {name}/{slot} {what}: {answer}")


@contextmanager
def origin(host: Host) -> Iterator[None]:
    """The servers of app_image/web.sh run on this host: whom Pods reach outside of the cluster."""
    script = (
        'mount --bind "$1" "$2/mnt" && mount -t tmpfs tmpfs "$2/tmp" && mount -t proc proc "$2/proc" && '
        'exec chroot "$2" sh /mnt/web.sh'
    )
    apart = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child"]
    with tempfile.TemporaryFile("w+") as log:
        args = [*apart, "sh", "-c", script, "sh", str(apps.FILES), str(apps.rootfs())]
        process = host.popen(args, stdout=log, stderr=log)
        try:
            if not wait_until(lambda: all(_listens(host, port) for port in WEB_PORTS.values()), 20):
                log.seek(0)
                raise LabError("the servers of the edge do not start", *log.read().splitlines()[-12:])
            yield
        finally:
            process.kill()
            process.wait()


def _listens(host: Host, port: int) -> bool:
    try:
        host.connect(host.ipv4, port).close()
    except OSError:
        return False
    return True


def configuration(services: Iterable[Service]) -> str:
    """The balancer's configuration: what a user would write, with room for servers that come and go. Pure."""
    parts = [
        "global\n  maxconn 2000\n  stats socket /mnt/admin.sock level admin\n  log stdout format raw local0 info\n",
        "defaults\n  log global\n  timeout connect 2s\n  timeout client 1h\n  timeout server 1h\n  retries 3\n"
        "  option redispatch 1\n",
    ]
    for service in services:
        mode = "http\n  option httplog\n  timeout http-request 10s" if service.http else "tcp\n  option tcplog"
        check = " check inter 200ms fall 2 rise 1" if service.check else ""
        binds = (
            f"  bind {BALANCER[0]}:{service.port} {service.bind}\n  bind [::]:{service.port} v6only {service.bind}\n"
        )
        more = "".join(f"  {line}\n" for line in service.lines)
        template = f"  server-template s 1-{SLOTS} 192.0.2.1:1 {service.options}{check} disabled\n"
        parts.append(f"listen {service.name}\n  mode {mode}\n{binds}{more}{template}")
    return "\n".join(parts)


@contextmanager
def repeated(action: Callable[[], object], every_s: float) -> Iterator[None]:
    """`action` runs again and again in a thread of its own for as long as the block lasts."""
    over = threading.Event()

    def loop() -> None:
        while not over.wait(every_s):
            action()

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
