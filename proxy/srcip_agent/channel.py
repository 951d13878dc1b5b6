"""The channel between the two processes: a socket pair, one JSON object a line."""

from __future__ import annotations

import json
import socket
import threading
from typing import Any

Json = dict[str, Any]

NEW, FOUND = "new", "found"
"""Why a Pod is attached: the programs were attached, or there already."""
LONGEST = 4 << 20
"""Bytes of a message; a plan, each sign of which is escaped, takes less."""
PATIENCE_S = 10.0
"""How long the other process may not read."""


class ChannelError(Exception):
    """The other process has ended, hangs, or says what is no message."""


class Channel:
    """One end. Any thread may send; one receives."""

    def __init__(self, connected: socket.socket) -> None:
        connected.settimeout(PATIENCE_S)
        self._socket, self._buffer = connected, b""
        self._lock = threading.Lock()

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: Json) -> None:
        """Raises ChannelError."""
        try:
            with self._lock:
                self._socket.sendall(json.dumps(message, separators=(",", ":")).encode() + b"\n")
        except OSError as error:
            raise ChannelError(f"the other process does not listen: {error}") from None

    def receive(self) -> list[Json]:
        """What has arrived since, once something has. Raises ChannelError, also when the other process has ended."""
        try:
            data = self._socket.recv(1 << 18)
        except TimeoutError:
            return []
        except OSError as error:
            raise ChannelError(str(error)) from None
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if not data or len(self._buffer) > LONGEST:
            raise ChannelError("it has ended" if not data else f"a message is longer than {LONGEST} bytes")
        return [_read(line) for line in lines]


def _read(line: bytes) -> Json:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise ChannelError("what it says is no JSON") from None
    if not isinstance(found, dict):
        raise ChannelError("what it says is no JSON object")
    return found
