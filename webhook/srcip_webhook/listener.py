"""Accepts connections so that strangers cost little: TLS begins with the first byte, and the room is shared.

TLS takes a third of a MiB for each connection (asyncio's SSLProtocol), a silent socket one KiB. So a connection waits
as a bare socket until its client says something, and only so many, also of one source, have TLS at the same time.
Further ones wait their turn; idle ones make room.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from srcip_webhook.metrics import Metrics
from srcip_webhook.protocol import Patient

MOST_WAITING = 1024
"""Sockets that have said nothing yet, or wait for room; beyond, the oldest one is closed for a new one."""
SILENCE_S = 3.0
"""How long a client may say nothing, and how long a handshake may take. The API server begins at once."""
MOST_OPEN = 160
"""Connections with TLS."""
MOST_OF_ONE_SOURCE = 80
"""Of these, those from one address: one client cannot keep the others out."""
IDLE_S = 1.0
"""A connection that has done nothing for so long may be closed for another one. Sooner, a client that is just about to
use it again would lose its request."""
BACKLOG = 1024
PAUSE_S = 0.1
"""How often the room is looked at again."""


@dataclass(frozen=True)
class Waiting:
    """A socket without TLS."""

    source: str
    since: float
    """By time.monotonic()."""
    has_spoken: bool = False


@dataclass
class Listener:
    """What uvicorn takes for a server: its sockets, close() and wait_closed()."""

    sockets: tuple[socket.socket, ...]
    factory: Callable[[], Patient]
    """Makes the protocol of one connection."""
    context: ssl.SSLContext
    open: Iterable[Patient]
    """The protocols of all connections; uvicorn keeps this set."""
    metrics: Metrics
    _waiting: dict[socket.socket, Waiting] = field(default_factory=dict)
    """In the order in which they came."""
    _starting: dict[asyncio.Task[None], str] = field(default_factory=dict)
    """Handshakes, by source."""
    _timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Accept from now on, in the running event loop."""
        loop = asyncio.get_running_loop()
        for listener in self.sockets:
            loop.add_reader(listener, self._accept, listener)
        self._look()

    def close(self) -> None:
        """Accept no more. What waits is closed; what has TLS goes on."""
        loop = asyncio.get_running_loop()
        if self._timer:
            self._timer.cancel()
        for listener in self.sockets:
            loop.remove_reader(listener)
            listener.close()
        for waiting in list(self._waiting):
            self._drop(waiting)

    async def wait_closed(self) -> None:
        """Wait for the handshakes that have begun."""
        await asyncio.gather(*self._starting, return_exceptions=True)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(64):  # then others have their turn
            try:
                accepted, address = listener.accept()
            except OSError:  # nobody is left, or has gone already, or there are no files
                return
            accepted.setblocking(False)
            if len(self._waiting) >= MOST_WAITING:
                self._drop(self._least(), "silent")
            self._waiting[accepted] = Waiting(address[0], time.monotonic())
            asyncio.get_running_loop().add_reader(accepted, self._speaks, accepted)

    def _least(self) -> socket.socket:
        """The oldest of those that have said nothing, or of all."""
        silent = (accepted for accepted, waiting in self._waiting.items() if not waiting.has_spoken)
        return next(silent, next(iter(self._waiting)))

    def _speaks(self, accepted: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(accepted)
        said = self._waiting[accepted]
        self._waiting[accepted] = Waiting(said.source, said.since, has_spoken=True)
        if not self._begin(accepted):
            self._make_room()

    def _begin(self, accepted: socket.socket) -> bool:
        """Begin TLS if there is room."""
        source, used = self._waiting[accepted].source, self._used()
        if used.total() >= MOST_OPEN or used[source] >= MOST_OF_ONE_SOURCE:
            return False
        del self._waiting[accepted]
        task = asyncio.get_running_loop().create_task(self._handshake(accepted))
        self._starting[task] = source
        task.add_done_callback(self._starting.pop)
        return True

    def _used(self) -> Counter[str]:
        return Counter([*self._starting.values(), *(each.source for each in self.open)])

    async def _handshake(self, accepted: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self.factory, accepted, ssl=self.context, ssl_handshake_timeout=SILENCE_S
            )
        except OSError:  # so are ssl.SSLError and TimeoutError
            self.metrics.closed["handshake"] += 1
            accepted.close()

    def _look(self) -> None:
        """Close what has been silent for too long, and begin with what there is room for."""
        self._timer = asyncio.get_running_loop().call_later(PAUSE_S, self._look)
        now = time.monotonic()
        for accepted, waiting in list(self._waiting.items()):
            if waiting.has_spoken and self._begin(accepted):
                continue
            if not waiting.has_spoken and now - waiting.since > SILENCE_S:
                self._drop(accepted, "silent")
        if any(waiting.has_spoken for waiting in self._waiting.values()):
            self._make_room()

    def _make_room(self) -> None:
        """Close one idle connection: first of the source that has the most, and there one that never had an answer."""
        used, before = self._used(), time.monotonic() - IDLE_S
        idle = [each for each in self.open if each.idle_since < before]
        if idle:
            worst = min(idle, key=lambda each: (-used[each.source], each.has_answered, each.idle_since))
            self.metrics.closed["idle"] += 1
            worst.transport.close()

    def _drop(self, accepted: socket.socket, reason: str = "") -> None:
        asyncio.get_running_loop().remove_reader(accepted)
        del self._waiting[accepted]
        accepted.close()
        if reason:
            self.metrics.closed[reason] += 1


def bound(address: str, port: int) -> tuple[socket.socket, ...]:
    """Listening sockets: one for `address`, or for all addresses of both IP versions. Raises OSError."""
    if address:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        made = socket.create_server((address, port), family=family, backlog=BACKLOG)
    elif socket.has_dualstack_ipv6():
        made = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG)
    else:
        made = socket.create_server(("", port), backlog=BACKLOG)
    made.setblocking(False)
    return (made,)
