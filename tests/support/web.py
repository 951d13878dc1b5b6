"""A browser's side of the HTTP tests: requests as bytes, answers as the application saw them."""

import http.client
import json
from dataclasses import dataclass
from typing import Any

from srcip_proxy.plan import Plan, PortRange
from support.rig import HTTP_APP, Client, Rig, RigFactory, plan, v2
from support.waiting import DEADLINE_S

WEB = (PortRange(7000, 7010),)
"""The HTTP ports of these tests."""
ALL = ("X-Forwarded-For", "X-Real-IP", "X-Forwarded-Port", "X-Forwarded-Proto", "Forwarded")


def redirect(**changes: object) -> Plan:
    """A plan in redirect mode."""
    return plan(**{"mode": "redirect", "http_ports": WEB, "request_timeout_ms": 60_000, **changes})


def web(rigs: RigFactory, **changes: object) -> Rig:
    """A Pod in redirect mode with an HTTP application on two ports."""
    return rigs(redirect(**changes), app=("::", "7000", "::", "7001"), program=HTTP_APP)


def get(path: str = "/", *headers: str, method: str = "GET", body: bytes = b"") -> bytes:
    """A request, with `headers` as lines."""
    if body:
        headers = (*headers, f"Content-Length: {len(body)}")
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: app.example", *headers, "", ""]).encode("latin-1") + body


@dataclass(frozen=True)
class Saw:
    """What the application saw of one request."""

    status: int
    facts: dict[str, Any]

    @property
    def headers(self) -> list[tuple[str, str]]:
        lines = [line.partition(":") for line in self.facts.get("head", [])[1:]]
        return [(name, value.strip()) for name, _, value in lines]

    def all(self, name: str) -> list[str]:
        """Every line of one header, in order."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def written(self) -> dict[str, str]:
        """The headers that srcip writes, each there once."""
        found = {name: self.all(name) for name in ALL}
        assert all(len(lines) <= 1 for lines in found.values()), found
        return {name: lines[0] for name, lines in found.items() if lines}


def read(client: Client, method: str = "GET") -> Saw:
    """The next answer on this connection."""
    answer = http.client.HTTPResponse(client.sock, method=method)
    client.sock.settimeout(DEADLINE_S)
    answer.begin()
    body = answer.read()
    if answer.status != 200 or not body.startswith(b"{"):
        return Saw(answer.status, {"body": body.decode("latin-1")})
    facts = json.loads(body)
    client.peer = tuple(facts["peer"][:2])
    return Saw(answer.status, facts)


def ask(rig: Rig, request: bytes, header: bytes | None = None, port: int = 7000, **options: object) -> Saw:
    """One request on a connection of its own."""
    with rig.connect(port, **options) as client:  # type: ignore[arg-type]
        client.send((v2() if header is None else header) + request)
        return read(client)
