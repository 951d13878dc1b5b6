"""Outgoing connections: a Pod whose requests get headers, and servers outside that say what they saw."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from srcip_lab.namespace import Host
from srcip_proxy.plan import Plan, PortRange
from support.rig import APP, H2_APP, HTTP_APP, OTHER4, POD_ENV, Client, Rig
from support.waiting import until
from support.web import Saw, read

HTTP, HTTP2, ANY, GREETS, UNLISTED = 8000, 8002, 8003, 8004, 9000
"""Ports of the servers: HTTP/1.1 (and the next one), HTTP/2, what a test starts, one that speaks first, and one whose
requests get nothing."""
OUT = (PortRange(80, 80), PortRange(8000, 8010))
SERVERS = ((HTTP_APP, (80, HTTP, HTTP + 1, UNLISTED)), (H2_APP, (HTTP2,)), (APP, (GREETS,)))
WAIT = 0.25
"""How long the sidecar waits for a client that is silent, in seconds."""


def outbound(**changes: object) -> Plan:
    """A plan that has only outgoing requests."""
    base = {"inbound_ports": (), "trusted_cidrs": (), "mode": "redirect", "outbound_ports": OUT, "drain_timeout_s": 2}
    return Plan(**{**base, "outbound_forwarded_for": "default", **changes})  # type: ignore[arg-type]


@dataclass
class Server:
    """A test application outside the Pod."""

    process: subprocess.Popen[str]
    file: Path

    def log(self) -> str:
        return self.file.read_text()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.file.unlink()


def serve(host: Host, program: Path, ports: Sequence[int], address: str = "::") -> Server:
    """Start a test application outside the Pod; it listens when this returns."""
    pairs = [word for port in ports for word in (address, str(port))]
    handle, name = tempfile.mkstemp(prefix="srcip-server-")
    command = [sys.executable, str(program), *pairs]
    server = Server(host.popen(command, stdout=handle, env={**os.environ, **POD_ENV}), Path(name))
    os.close(handle)
    until(lambda: "listening" in server.log(), server.log)
    return server


@dataclass
class Outward:
    """A running Pod whose application is this process."""

    rig: Rig
    servers: tuple[Server, ...] = ()

    def connect(self, port: int = HTTP, to: str = OTHER4, **options: object) -> Client:
        return self.rig.connect(port, host=self.rig.lab.pod, to=to, **options)  # type: ignore[arg-type]

    def ask(self, request: bytes, port: int = HTTP, to: str = OTHER4) -> Saw:
        """One request on a connection of its own."""
        with self.connect(port, to) as client:
            client.send(request)
            return read(client)

    def tracked(self) -> list[str]:
        """Every TCP connection that the kernel tracks in the Pod."""
        families = ("ipv4", "ipv6")
        texts = [self.rig.lab.pod.run(["conntrack", "-L", "-f", f, "-p", "tcp"], capture_output=True) for f in families]
        return [line for text in texts for line in text.stdout.splitlines()]


def servers(rig: Rig) -> list[Server]:
    """All servers, on both hosts outside."""
    address = "::" if rig.lab.pod.ipv6 else "0.0.0.0"
    return [serve(host, *what, address) for host in (rig.lab.other, rig.lab.lb) for what in SERVERS]


Leave = Callable[..., Outward]
"""A running Pod by what its plan has besides outgoing requests."""
