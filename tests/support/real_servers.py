"""Real HTTP servers behind redirect mode, lenient and strict: how each is started, and what its requests showed."""

import json
import re
import shlex
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from srcip_lab.namespace import Host
from srcip_proxy.haproxy.http_headers import CLAIMS
from support.applications import go, java, node, words_or_skip
from support.rig import Rig, RigFactory
from support.web import redirect

FORGER = "6.6.6.6"
"""The address that all forged headers name."""
MANY_APPS, WSGI_APP = (Path(__file__).with_name(name) for name in ("many_apps.py", "wsgi_app.py"))
PYTHON = ("wsgiref", "werkzeug", "cheroot", "gevent", "eventlet")
COMMANDS = {
    **{name: partial(list, (sys.executable, str(WSGI_APP), name)) for name in PYTHON},
    "java": partial(java, "Web", ("Web.java",)),
    "go": partial(go, "web"),
    "node": partial(node, "web"),
}
"""What starts each server; its port comes behind it."""
PORTS = {name: 7000 + number for number, name in enumerate(COMMANDS)}
LENIENT = (*PYTHON, "java")
NAMES = frozenset(("x-forwarded-for", "x-real-ip", "forwarded", *CLAIMS))
"""Of headers that an application reads a client from."""
ANSWER = re.compile(rb"saw (\{[^\n]*\})\n")
ORDINARY = b"GET /second HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\nX_Real_IP: 6.6.6.6\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\nForwarded: for=6.6.6.6\r\nClient-IP: 6.6.6.6\r\n\r\n"
"""What follows on the same connection, so that it ends."""
AT_ONCE = 16
"""Connections of one test at the same time."""


def servers(rigs: RigFactory, **changes: object) -> Rig:
    """A Pod with each of these servers on an HTTP port of its own."""
    pairs = ((str(PORTS[name]), shlex.join(words_or_skip(words))) for name, words in COMMANDS.items())
    return rigs(redirect(**changes), app=tuple(word for pair in pairs for word in pair), program=MANY_APPS)


@dataclass(frozen=True)
class Saw:
    """What a server answered with: the variables of one request."""

    path: str
    claims: tuple[tuple[str, str], ...]
    """The headers that an application may take a client from."""

    @property
    def forged(self) -> bool:
        return any(FORGER in value for _, value in self.claims)


def plain(name: str) -> str:
    """A header's name, however the server writes it."""
    return re.sub("[^a-z0-9]", "-", name.lower().removeprefix("http_"))


def saw(answers: bytes) -> list[Saw]:
    """Every request that was answered."""
    shown = map(json.loads, ANSWER.findall(answers))
    return [Saw(s["PATH_INFO"], tuple((n, str(v)) for n, v in s.items() if plain(n) in NAMES)) for s in shown]


def talk(rig: Rig, port: int, pieces: Iterable[bytes], host: Host | None = None) -> bytes:
    """All that is answered to these pieces until the end of the connection, or until nothing comes for a second."""
    with rig.connect(port, host=host) as client, suppress(OSError):
        for piece in pieces:
            client.send(piece)
            time.sleep(0.02)
        client.sock.settimeout(1)
        while data := client.sock.recv(65536):
            client.got += data
    return client.got


def all_of(rig: Rig, port: int, cases: dict[str, list[bytes]], host: Host | None = None) -> dict[str, list[Saw]]:
    """What a server saw in each case."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = pool.map(lambda pieces: saw(talk(rig, port, pieces, host)), cases.values())
        return dict(zip(cases, answers, strict=True))
