"""Accepts connections so that unknown clients cost little: TLS begins with the first byte, and the room is shared.

TLS takes a third of a MiB for each connection (asyncio's SSLProtocol), a silent socket one KiB. So a connection waits
as a bare socket in the lobby until its client says something, and then for its place in the room.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from srcip_webhook import tls_slots
from srcip_webhook.metrics import Metrics
from srcip_webhook.protocol import Patient
from srcip_webhook.waiting import Lobby

MOST_WAITING = 1024
"""Sockets that have said nothing yet, or wait for room; beyond, one leaves for each new one."""
OTHER_FILES = 64
"""Open files that are no connections: libraries, certificates while they are read, the loop's own; some to spare."""
SILENCE_S = 3.0
"""How long a client may say nothing, how long a handshake may take, and how long the end of TLS."""
BACKLOG = 1024
PAUSE_S = 0.1
"""How often the room is looked at again."""

Place = tls_slots.Place[Patient | asyncio.Task[None]]


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
    most_waiting: int = MOST_WAITING
    _lobby: Lobby[socket.socket] = field(default_factory=Lobby)
    _starting: dict[asyncio.Task[None], Place] = field(default_factory=dict)
    """Handshakes."""
    _timer: asyncio.TimerHandle | None = None
    _wanted: asyncio.Handle | None = None
    """The next look at the room, where one is due before the timer's."""

    def start(self) -> None:
        """Accept from now on, in the running event loop."""
        loop = asyncio.get_running_loop()
        self.most_waiting = min(self.most_waiting, room_for_waiting())
        for listener in self.sockets:
            loop.add_reader(listener, self._accept, listener)
        self._tick()

    def close(self) -> None:
        """Accept no more. What waits is closed; what has TLS goes on."""
        loop = asyncio.get_running_loop()
        for pending in (self._timer, self._wanted):
            if pending:
                pending.cancel()
        for listener in self.sockets:
            loop.remove_reader(listener)
            listener.close()
        for waiting in list(self._lobby):
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
            # a full lobby ends one of the source that holds the most of it, so that a flood pays for itself
            if len(self._lobby) >= self.most_waiting:
                self._drop(self._lobby.surplus(), "silent")
            self._lobby.add(accepted, address[0], time.monotonic())
            asyncio.get_running_loop().add_reader(accepted, self._speaks, accepted)

    def _speaks(self, accepted: socket.socket) -> None:
        # not read: TLS begins with these bytes, and only when it has a place
        asyncio.get_running_loop().remove_reader(accepted)
        self._lobby.speaks(accepted)
        self._wish()

    def _wish(self, *_: object) -> None:
        """Look at the room soon: once for all that has happened in this turn of the loop."""
        if self._wanted is None and self._lobby.speakers:
            self._wanted = asyncio.get_running_loop().call_soon(self._look)

    def _tick(self) -> None:
        """Close what has been silent for too long, and see who may have a place by now."""
        self._timer = asyncio.get_running_loop().call_later(PAUSE_S, self._tick)
        for accepted in self._lobby.silent_since(time.monotonic() - SILENCE_S):
            self._drop(accepted, "silent")
        if self._lobby.speakers:
            self._look()

    def _look(self) -> None:
        self._wanted = None
        places = [*self._starting.values(), *(each.place for each in self.open)]
        change = tls_slots.change(places, self._lobby.speakers, time.monotonic())
        for place in change.end:
            self._end(place)
        for accepted in change.begin:
            self._begin(accepted)

    def _end(self, place: Place) -> None:
        if isinstance(place.holder, asyncio.Task):
            place.holder.cancel()
            # a cancelled handshake holds its place until it has ended, but must not be ended a second time
            self._starting[place.holder] = replace(place, is_ended=True)
        else:
            place.holder.evict()
        self.metrics.closed[place.standing] += 1

    def _begin(self, accepted: socket.socket) -> None:
        source = self._lobby.remove(accepted).source
        task = asyncio.get_running_loop().create_task(self._handshake(accepted))
        self._starting[task] = tls_slots.Place(task, source, "handshake", time.monotonic())
        task.add_done_callback(self._starting.pop)
        task.add_done_callback(self._wish)

    async def _handshake(self, accepted: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._protocol,
                accepted,
                ssl=self.context,
                ssl_handshake_timeout=SILENCE_S,
                ssl_shutdown_timeout=SILENCE_S,
            )
        except OSError:  # so are ssl.SSLError and TimeoutError
            self.metrics.closed["handshake"] += 1
            accepted.close()

    def _protocol(self) -> Patient:
        made = self.factory()
        made.gone = self._wish
        return made

    def _drop(self, accepted: socket.socket, reason: str = "") -> None:
        asyncio.get_running_loop().remove_reader(accepted)
        self._lobby.remove(accepted)
        accepted.close()
        if reason:
            self.metrics.closed[reason] += 1


def room_for_waiting() -> int:
    """How many sockets may wait, so that the process never runs out of files; it takes as many as it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_WAITING + tls_slots.MOST_OPEN + OTHER_FILES
    if soft < wanted:
        soft = min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, min(soft - tls_slots.MOST_OPEN - OTHER_FILES, MOST_WAITING))


def bound(address: str, port: int) -> tuple[socket.socket, ...]:
    """Listening sockets: one for `address`, or for all addresses of both IP versions. Raises OSError."""
    if address:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        made = socket.create_server((address, port), family=family, backlog=BACKLOG)
    elif socket.has_dualstack_ipv6():
        made = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG)
    else:
        made = socket.create_server(("", port), backlog=BACKLOG)
    # what it accepts has the option, too; asyncio sets it for sockets alone whose `proto` says TCP, and these say 0
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.setblocking(False)
    return (made,)
