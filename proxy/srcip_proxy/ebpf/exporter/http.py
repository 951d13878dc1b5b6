"""A small HTTP server in one thread, of the modules that the image has: no connection can hold up another.

Each connection gets one answer and is closed. Whoever takes longer than DEADLINE_S for all of it, or is the oldest of
MOST connections when another one comes, is cut off.
"""

from __future__ import annotations

import re
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

DEADLINE_S = 10.0
MOST = 64
LONGEST_HEAD = 8192
_REQUEST = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e]+) HTTP/1\.[01]")
_CHUNK = 65536
_WORDS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 500: "Internal Server Error"}
_WORDS |= {431: "Request Header Fields Too Large", 503: "Service Unavailable"}


def bound(address: str | None, port: int) -> socket.socket:
    """A listening socket for `address`, or for all addresses of both IP versions. Raises OSError."""
    if address is None and socket.has_dualstack_ipv6():
        return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)
    family = socket.AF_INET6 if ":" in (address or "") else socket.AF_INET
    return socket.create_server((address or "", port), family=family, backlog=128)


@dataclass(frozen=True)
class Answer:
    """What a path says: a status of _WORDS, a type of content, a text."""

    status: int
    text: str
    kind: str = "text/plain; charset=utf-8"


Pages = Callable[[str], Answer]
"""The answer for a path without its query. What it raises ends the server, unless it is an OSError."""


@dataclass(eq=False)
class Connection:
    """One connection: its request until it is whole, then its answer until that is gone, then its end."""

    sock: socket.socket
    until: float
    asked: bytes = b""
    answer: memoryview | None = None
    is_answered: bool = field(default=False, init=False)

    def read(self, pages: Pages) -> bool:
        """Take what has come; whether the connection goes on."""
        data = self.sock.recv(_CHUNK)
        if not data:
            return False
        if not self.is_answered:  # what comes after the answer is read and forgotten: unread, it would end in a reset
            self.asked += data
            said = respond(self.asked, pages)
            self.answer = memoryview(said) if said else None
        return True

    def write(self) -> None:
        """Send as much of the answer as the peer takes; nothing more comes after it."""
        if self.answer is not None:
            self.answer = self.answer[self.sock.send(self.answer) :]
            if not self.answer:
                self.answer, self.is_answered = None, True
                self.sock.shutdown(socket.SHUT_WR)


def respond(asked: bytes, pages: Pages) -> bytes | None:
    """The whole answer to a request, None while its head is not complete. Pure, but for `pages`."""
    head, end, _ = asked.partition(b"\r\n\r\n")
    if not end:
        return _message(Answer(431, "the request is too long\n")) if len(asked) > LONGEST_HEAD else None
    match = _REQUEST.fullmatch(head.partition(b"\r\n")[0])
    if len(head) > LONGEST_HEAD:
        return _message(Answer(431, "the request is too long\n"))
    if not match:
        return _message(Answer(400, "this is no request of HTTP/1.1\n"))
    method, path = match[1], match[2].decode().partition("?")[0]
    if method not in (b"GET", b"HEAD"):
        return _message(Answer(405, "allowed is GET, HEAD\n"), "Allow: GET, HEAD\r\n")
    return _message(pages(path), has_body=method == b"GET")


def _message(answer: Answer, more: str = "", has_body: bool = True) -> bytes:
    body = answer.text.encode()
    head = (
        f"HTTP/1.1 {answer.status} {_WORDS[answer.status]}\r\nContent-Type: {answer.kind}\r\n"
        f"Content-Length: {len(body)}\r\n{more}Connection: close\r\n\r\n"
    )
    return head.encode() + (body if has_body else b"")


class Server:
    """Serves `pages` on a socket that listens, until the peer of `channel` has gone."""

    def __init__(self, listener: socket.socket, channel: socket.socket, pages: Pages) -> None:
        self._listener, self._pages = listener, pages
        self._connections: list[Connection] = []
        """The oldest first."""
        self._selector = selectors.DefaultSelector()
        for each in (listener, channel):
            self._selector.register(each, selectors.EVENT_READ)

    def run(self) -> None:
        """Serve. What `channel` says between two requests is its end."""
        self._listener.setblocking(False)
        while True:
            for key, _ in self._selector.select(self._patience()):
                if key.data is not None:
                    self._go_on(key.data)
                elif key.fileobj is self._listener:
                    self._accept()
                else:
                    return
            self._expire(time.monotonic())

    def _patience(self) -> float | None:
        """Seconds until the oldest connection is over."""
        return max(0.0, self._connections[0].until - time.monotonic()) if self._connections else None

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:  # it has gone already, or there are no more file descriptors for a moment
            return
        sock.setblocking(False)
        if len(self._connections) >= MOST:
            self._close(self._connections[0])
        connection = Connection(sock, time.monotonic() + DEADLINE_S)
        self._connections.append(connection)
        self._selector.register(sock, selectors.EVENT_READ, connection)

    def _go_on(self, connection: Connection) -> None:
        if connection not in self._connections:  # closed for another one a moment ago
            return
        try:
            if connection.answer is None and not connection.read(self._pages):
                return self._close(connection)
            connection.write()
        except BlockingIOError:
            pass
        except OSError:
            return self._close(connection)
        event = selectors.EVENT_READ if connection.answer is None else selectors.EVENT_WRITE
        self._selector.modify(connection.sock, event, connection)

    def _expire(self, now: float) -> None:
        for connection in [each for each in self._connections if each.until <= now]:
            self._close(connection)

    def _close(self, connection: Connection) -> None:
        self._selector.unregister(connection.sock)
        self._connections.remove(connection)
        connection.sock.close()
