"""The demonstration: one small application behind a load balancer, without srcip and with it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from srcip_lab import header
from srcip_lab import lab as labs
from srcip_lab.exchange import Outcome, exchange
from srcip_lab.lab import Lab
from srcip_lab.namespace import Host

PORT = 8080
CLIENT = "203.0.113.7:54321"
CLIENT_6 = "[2001:db8::7]:54321"
APP = f"""
import socket
server = socket.create_server(("::", {PORT}), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    connection, peer = server.accept()
    connection.sendall((peer[0].removeprefix("::ffff:") + " " + str(peer[1])).encode())
    connection.close()
"""
APP_4 = APP.replace('"::"', '"0.0.0.0"').replace(", family=socket.AF_INET6, dualstack_ipv6=True", "")


@dataclass(frozen=True)
class Step:
    """One connection, and whether the application saw what srcip promises."""

    name: str
    title: str
    sent: str
    promised: str
    """What the application has to see: an address, or address and port."""
    saw: str
    """What it saw; how the connection ended if it saw nothing."""

    @property
    def good(self) -> bool:
        """The promise was kept."""
        return self.saw == self.promised or self.saw.rpartition(":")[0] == self.promised

    def facts(self) -> dict[str, Any]:
        """What `--json` tells about it."""
        keys = ("name", "sent", "promised", "saw")
        return {**{key: getattr(self, key) for key in keys}, "ok": self.good}

    def text(self, *, color: bool) -> str:
        """It in some lines for a person."""
        mark = "✓" if self.good else f"✗ (promised: {self.promised})"
        if color:
            mark = f"\x1b[{32 if self.good else 31}m{mark}\x1b[0m"
        return f"\n{self.title}\n    sent  {self.sent}\n    the application saw  {self.saw}  {mark}"


def steps() -> Iterator[Step]:
    """Run them one by one. The labs are gone when it ends. Raises LabError."""
    with Lab.up(pod(annotated=False), name=labs.own_name()) as lab:
        yield _step("before", "Without srcip, the application sees its load balancer:", lab, lab.lb, None)
    with Lab.up(pod(annotated=True), name=labs.own_name()) as lab:
        yield _step("after", "With srcip.io/mode: tproxy it sees the client:", lab, lab.lb, CLIENT)
        yield _step(
            "forged", "A forged header from a host that is not trusted changes nothing:", lab, lab.other, CLIENT
        )
        if lab.pod.ipv6:
            yield _step("ipv6", "The same over IPv6:", lab, lab.lb, CLIENT_6)


def pod(*, annotated: bool) -> dict[str, Any]:
    """The demonstration's Pod, with or without the one annotation."""
    container = {"name": "app", "image": "app", "command": [sys.executable, "-c", _app()]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "demo", "annotations": {"srcip.io/mode": "tproxy"} if annotated else {}},
        "spec": {"containers": [{**container, "ports": [{"containerPort": PORT}]}]},
    }


def _app() -> str:
    from srcip_lab.network import network  # noqa: PLC0415

    return APP if network("demo").ipv6 else APP_4


def _step(name: str, title: str, lab: Lab, sender: Host, claim: str | None) -> Step:
    client = header.endpoint(claim, 0) if claim else None
    address = lab.pod.ipv6 if client and client.ip.version == 6 and lab.pod.ipv6 else lab.pod.ipv4
    payload = header.v2(client, header.endpoint(address, PORT)) if client else b""
    own = sender.ipv6 if ":" in address and sender.ipv6 else sender.ipv4
    outcome = exchange(sender, address, PORT, payload)
    what = f"a PROXY header that names {client}" if client else "a connection"
    promised = str(client) if client and sender == lab.lb else own
    return Step(name, title, f"{what}, from {sender.name} ({own})", promised, _seen(outcome))


def _seen(outcome: Outcome) -> str:
    words = outcome.answer.decode(errors="replace").split()
    if len(words) != 2:
        return f"nothing: {outcome.text}"
    return str(header.endpoint(words[0], int(words[1])))
