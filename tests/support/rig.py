"""Ring 2: the real data plane in a lab's network namespaces, and a client that says what it saw."""

import ipaddress
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from srcip_lab import image, plan_pod
from srcip_lab.lab import Lab
from srcip_lab.namespace import Host
from srcip_lab.state import wait_until
from srcip_proxy.plan import OUTBOUND_WAIT_MS, Plan, PortRange
from support.waiting import DEADLINE_S, until

PORT = 7000
"""Where the test application listens on all addresses."""
CLOSED_PORT = 7099
"""Intercepted, but nobody listens."""
LB_NETWORKS = ("10.77.1.0/24", "fd77:0:0:1::/64")
ALL_PORTS = ("::", "7000", "::", "7001", "::", "7002")
"""Every behaviour of the test application, on all addresses."""
LB4, OTHER4, POD4, NODE4 = "10.77.1.2", "10.77.2.2", "10.77.3.2", "10.77.0.1"
LB6, OTHER6, POD6 = "fd77:0:0:1::2", "fd77:0:0:2::2", "fd77:0:0:3::2"
POD_ENV = {"POD_IP": POD4, "POD_IP6": POD6}
CLIENT4, CLIENT6 = ("203.0.113.7", 54321), ("2001:db8::7", 54321)
HEADER_TIMEOUT_MS = 60_000
"""In the plans of these tests: the longest that there is, so that no busy machine makes a header late."""
SHORT = {"header_timeout_ms": 600}
"""For tests of what happens when it is over."""
APP = Path(__file__).with_name("peer_app.py")
HTTP_APP = Path(__file__).with_name("http_app.py")
H2_APP = Path(__file__).with_name("h2_app.py")
TLS_APP = Path(__file__).with_name("tls_app.py")
TIME_WAIT = "06"
"""TCP_TIME_WAIT of the kernel, as proc(5) writes it."""


def plan(**changes: object) -> Plan:
    """The plan of most tests: one range of ports, the lab's load balancer trusted."""
    base = {
        "inbound_ports": (PortRange(7000, 7099),),
        "trusted_cidrs": LB_NETWORKS,
        "header_timeout_ms": HEADER_TIMEOUT_MS,
        "drain_timeout_s": 2,
    }
    return Plan(**{**base, **changes})  # type: ignore[arg-type]


def v1(client: tuple[str, int] = CLIENT4, to: tuple[str, int] = ("192.0.2.1", 25)) -> bytes:
    """A version 1 header."""
    family = "TCP6" if ":" in client[0] else "TCP4"
    to = ("2001:db8::1", to[1]) if family == "TCP6" and ":" not in to[0] else to
    return f"PROXY {family} {client[0]} {to[0]} {client[1]} {to[1]}\r\n".encode()


def v2(client: tuple[str, int] = CLIENT4, *, tlvs: bytes = b"") -> bytes:
    """A version 2 header."""
    packed = ipaddress.ip_address(client[0]).packed
    body = packed + packed + struct.pack(">HH", client[1], 25) + tlvs
    family = 0x11 if len(packed) == 4 else 0x21
    return b"\r\n\r\n\0\r\nQUIT\n" + struct.pack(">BBH", 0x21, family, len(body)) + body


LOCAL = b"\r\n\r\n\0\r\nQUIT\n" + bytes([0x20, 0, 0, 0])


@dataclass
class Rig:
    """A running Pod, seen from outside."""

    lab: Lab

    @property
    def pod_ip(self) -> str:
        return self.lab.pod.ipv4

    def connect(
        self, port: int = PORT, *, host: Host | None = None, to: str | None = None, **options: object
    ) -> "Client":
        options = {"timeout_s": DEADLINE_S, **options}
        sock = (host or self.lab.lb).connect(to or self.pod_ip, port, **options)  # type: ignore[arg-type]
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Client(sock, self.lab.pod)

    def seen(self, data: bytes, port: int = PORT, **options: object) -> "Seen":
        """What becomes of one connection that begins with `data`."""
        with self.connect(port, **options) as client:  # type: ignore[arg-type]
            client.send(data)
            return client.seen()

    def at_once(self, data: bytes, port: int = PORT, **options: object) -> "Client":
        """A connection whose first bytes come to the sidecar together with it, so that they are never late."""
        with self.paused():
            client = self.connect(port, **options)  # type: ignore[arg-type]
            client.send(data)
        return client

    def log(self) -> str:
        return self.lab.log("srcip-proxy")

    def waited(self, text: str) -> str:
        """The first line of the sidecar's log with `text`, once it is there."""
        until(lambda: text in self.log(), self.log)
        return next(line for line in self.log().splitlines() if text in line)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The sidecar stands still: what a client does meanwhile comes to it at once, however slow the client is."""
        process = self.lab.container("srcip-proxy").process
        assert process
        self.lab.signal("srcip-proxy", signal.SIGSTOP)
        try:
            until(lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
            yield
        finally:
            self.lab.signal("srcip-proxy", signal.SIGCONT)

    def accepted(self) -> int:
        """How many connections the application has accepted so far."""
        return self.lab.log("app").count("accepted")

    def metric(self, name: str) -> float:
        """The value of one series of the sidecar's metrics page."""
        for line in self.get("/metrics")[1].splitlines():
            if line.startswith(name + " "):
                return float(line.split()[-1])
        raise AssertionError(f"{name} is not in the metrics")

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of the sidecar's health port, asked from the node."""
        with self.lab.node.connect(self.pod_ip, 15320, timeout_s=DEADLINE_S) as sock:
            sock.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), body.decode()


@dataclass(frozen=True)
class Seen:
    """What the client got. `end` is open, end (FIN) or reset."""

    peer: tuple[str, int] | None
    """The address that the application saw, or None when it did not answer."""
    rest: bytes
    end: str

    @property
    def refused(self) -> bool:
        return self.peer is None and self.end == "reset"


class Client:
    """One connection of a load balancer; in `pod`, if given."""

    def __init__(self, sock: socket.socket, pod: Host | None = None) -> None:
        self.sock = sock
        self.got = b""
        self.peer: tuple[str, int] | None = None
        """What the application saw."""
        self._pod = pod

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        """End at once, and wait until the sidecar has ended its side: the next test may claim the same client."""
        self.reset()
        if self._pod and self.peer:
            wait_until(lambda: not _connected(self._pod, self.peer), DEADLINE_S)

    def send(self, data: bytes, *, bytewise: bool = False) -> None:
        for piece in (data[i : i + 1] for i in range(len(data))) if bytewise else [data]:
            self.sock.sendall(piece)
            if bytewise:
                time.sleep(0.0005)

    def finish(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def end(self, *, rest: int = 0) -> Seen:
        """Read until the connection ends, which it has to."""
        return self.seen(rest=rest, quiet=DEADLINE_S)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def seen(self, *, rest: int = 0, timeout: float = DEADLINE_S, quiet: float = 0.15) -> Seen:
        """Read the greeting and `rest` bytes, or until the connection ends; then what comes within `quiet` seconds."""
        end = "open"
        deadline = time.monotonic() + timeout
        while True:
            whole = b"\n" in self.got and len(self.got.partition(b"\n")[2]) >= rest
            self.sock.settimeout(quiet if whole else max(deadline - time.monotonic(), 0.001))
            try:
                data = self.sock.recv(65536)
            except TimeoutError:
                break
            except ConnectionResetError:
                end = "reset"
                break
            if not data:
                end = "end"
                break
            self.got += data
        greeting, newline, after = self.got.partition(b"\n")
        words = greeting.decode().split() if newline else None
        peer = (words[0], int(words[1])) if words else None
        self.peer = None if peer and "/" in peer[0] else peer  # a line of HTTP names nobody
        return Seen(peer, after, end)


def has_ended(clients: list[Client]) -> int:
    """How many of these connections are reset or at their end, as far as this side's kernel knows."""
    ends = select.poll()
    for client in clients:
        ends.register(client.sock, select.POLLRDHUP)
    return len(ends.poll(0))


def _connected(pod: Host, peer: tuple[str, int]) -> bool:
    """Whether the Pod has a connection from or to this address and port that has not ended (proc(5), net/tcp)."""
    packed = ipaddress.ip_address(peer[0]).packed
    words = (packed[i : i + 4][::-1].hex() for i in range(0, len(packed), 4))
    end = f"{''.join(words)}:{peer[1]:04x}".upper()
    text = pod.call(lambda: "".join(Path(f"/proc/thread-self/net/{name}").read_text() for name in ("tcp", "tcp6")))
    return any(end in line and line.split()[3] != TIME_WAIT for line in text.splitlines())


OWN_TIMES = {"timeout connect 5s": "timeout connect 60s", f"delay {OUTBOUND_WAIT_MS}ms": "delay 60s"}
"""What is no setting: the sidecar's own times, and those that most tests give it instead."""
PATIENT = f"""
from srcip_proxy.__main__ import main
from srcip_proxy.haproxy import config

own = config.render

def render(plan, pod):
    text = own(plan, pod)
    for short, long in {OWN_TIMES!r}.items():
        text = text.replace(short, long)
    return text

config.render = render
main()
"""
"""`srcip-proxy`, with these times."""


RigFactory = Callable[..., Rig]


def start(
    wanted: Plan, app: tuple[str, ...], *, ipv6: bool = True, program: Path = APP, own_times: bool = False
) -> Lab:
    """A lab whose application listens at `app` (pairs of address and port). With `own_times` the sidecar has those of
    OWN_TIMES, for tests of what happens when they are over."""
    if not ipv6:
        app = tuple("0.0.0.0" if word == "::" else word for word in app)
    pod = plan_pod.pod(wanted, [sys.executable, str(program), *app], env=POD_ENV)
    for container in [] if own_times else pod["spec"]["initContainers"]:
        if container.get("command") == ["srcip-proxy", "init"]:
            container["command"] = ["python3", "-I", "-c", PATIENT, "init"]
    lab = Lab.up_pod(pod, ipv6=ipv6)
    until(lambda: "listening" in lab.log("app"), lambda: lab.log("app"))
    return lab


def in_image(lab: Lab, command: str, env: dict[str, str], files: str = "") -> subprocess.CompletedProcess[str]:
    """Run a shell command in the image's root file system; `files` is what /run/srcip/input holds."""
    root = image.proxy_rootfs()
    script = (
        f"mount -t tmpfs tmpfs {root}/run && mkdir {root}/run/srcip && mount -t proc proc {root}/proc && "
        f"cat > {root}/run/srcip/input && exec chroot {root} {command}"
    )
    words = ["unshare", "--mount", "sh", "-c", script]
    return lab.pod.run(words, env={"PATH": os.environ["PATH"], **env}, input=files, capture_output=True)


def needs_root() -> None:
    """Skip with the reason where network namespaces cannot be made; in CI that is a failure."""
    if os.geteuid() == 0:
        return
    reason = "ring 2 needs root: it makes network namespaces (sudo make test)"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
