"""One connection to the Pod: what was sent, what came back, and how it ended."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from srcip_lab.namespace import Host

QUIET_S = 0.3
"""After an answer, this long without more of it counts as its end."""
HALF_CLOSE_S = 1.0
"""An application that is silent for this long may be waiting for the end of the request: it gets it then."""
ENDS = {
    "closed": "the other side closed the connection",
    "open": "the other side keeps the connection open",
    "reset": "the connection was reset",
    "refused": "the connection was refused",
    "timeout": "no answer in time, and the connection was not closed",
    "unreachable": "the Pod cannot be reached",
}
"""What each way to end means, in words."""


@dataclass(frozen=True)
class Outcome:
    """What came of one connection."""

    answer: bytes
    end: str
    """One of ENDS."""
    local: tuple[str, int] | None
    """Address and port that the connection came from; None if there was none."""

    @property
    def good(self) -> bool:
        """The application had the connection and ended it, or answered."""
        return self.end in ("closed", "open")

    @property
    def text(self) -> str:
        """The end in words."""
        nothing = "" if self.answer else ", without an answer"
        return ENDS[self.end] + (nothing if self.end in ("closed", "reset") else "")


Reader = Callable[[socket.socket, float], tuple[bytes, str]]
"""Reads an answer until a deadline of the monotonic clock; tells it, and one of ENDS."""


def exchange(host: Host, address: str, port: int, payload: bytes, *, timeout_s: float = 5) -> Outcome:
    """Connect from `host`, send `payload`, and read until the end, a pause after an answer, or `timeout_s`."""
    return talk(host, (address, port), payload, timeout_s=timeout_s, read=until_quiet)


def talk(host: Host, target: tuple[str, int], payload: bytes, *, timeout_s: float, read: Reader) -> Outcome:
    """Connect from `host` to `target`, send `payload`, and `read` the answer."""
    try:
        connection = host.connect(*target, timeout_s=timeout_s)
    except ConnectionRefusedError:
        return Outcome(b"", "refused", None)
    except TimeoutError:
        return Outcome(b"", "timeout", None)
    except ConnectionResetError:
        return Outcome(b"", "reset", None)
    except OSError:
        return Outcome(b"", "unreachable", None)
    with connection:
        local = connection.getsockname()[:2]
        try:
            connection.sendall(payload)
        except ConnectionError:
            return Outcome(b"", "reset", local)
        return Outcome(*read(connection, time.monotonic() + timeout_s), local)


def until_whole(whole: Callable[[bytes], bool]) -> Reader:
    """A reader for whom no pause is an end before the answer is `whole`; it never closes our side."""

    def read(connection: socket.socket, deadline: float) -> tuple[bytes, str]:
        answer, complete = b"", False
        while (left := deadline - time.monotonic()) > 0:
            connection.settimeout(min(left, QUIET_S) if complete else left)
            try:
                piece = connection.recv(65536)
            except TimeoutError:
                break
            except ConnectionError:
                return answer, "reset"
            if not piece:
                return answer, "closed"
            answer += piece
            complete = whole(answer)
        return answer, "open" if complete else "timeout"

    return read


def until_quiet(connection: socket.socket, deadline: float) -> tuple[bytes, str]:
    """A reader that takes a pause for the end; one who stays silent gets the end of our side."""
    answer, half_closed = b"", False
    while (left := deadline - time.monotonic()) > 0:
        connection.settimeout(min(left, QUIET_S if answer else left if half_closed else HALF_CLOSE_S))
        try:
            piece = connection.recv(65536)
        except TimeoutError:
            if answer:
                return answer, "open"
            half_closed = half_closed or _half_close(connection)
            continue
        except ConnectionError:
            return answer, "reset"
        if not piece:
            return answer, "closed"
        answer += piece
    return answer, "open" if answer else "timeout"


def _half_close(connection: socket.socket) -> bool:
    try:
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        return False  # it was reset meanwhile: the next read tells
    return True
