"""uvicorn's HTTP protocol with bounds on what a client may take: time and bytes for a request's headers."""

from __future__ import annotations

import asyncio
import math
import time
from asyncio import TimerHandle
from collections.abc import Callable

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from srcip_webhook.tls_slots import Place

MOST_HEADER_BYTES = 64 * 1024
"""The API server sends less than one KiB."""


MOST_UNREAD_BYTES = 64 * 1024
"""Of an answer, beyond what the kernel takes; a client that leaves more unread has UNREAD_S."""
UNREAD_S = 3.0
"""How long a client may take for an answer that is longer, in seconds. The API server reads at once."""


class Flow(FlowControl):
    """uvicorn's flow control; it remembers since when each side waits for the other."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self._deadline: TimerHandle | None = None
        self.resumed = 0.0
        """When a body was last read on after a pause, by time.monotonic()."""
        self.unread_since = math.inf
        """Since when the client leaves an answer unread, by time.monotonic()."""

    def resume_reading(self) -> None:
        """The application wants more of the body."""
        if self.read_paused:
            self.resumed = time.monotonic()
        super().resume_reading()

    def pause_writing(self) -> None:
        """The client does not read."""
        super().pause_writing()
        if self._deadline is None:
            self.unread_since = time.monotonic()
            self._deadline = asyncio.get_running_loop().call_later(UNREAD_S, self._transport.abort)

    def answered(self) -> None:
        """The kernel has the answer, but for MOST_UNREAD_BYTES, or the client has gone."""
        self.unread_since = math.inf
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class Patient(HttpToolsProtocol):
    """One connection. `timeout_s` is how long a client may take for the headers of a request, in seconds."""

    timeout_s: float
    flow: Flow
    source = ""
    """The client's address."""
    has_answered = False
    """Whether a request of this connection had its whole answer."""
    gone: Callable[[], None]
    """Called when the connection is over."""
    _is_evicted = False
    _deadline: TimerHandle | None = None
    _header_bytes = 0
    _last_used = 0.0
    _begun = 0.0
    """When the request began, by time.monotonic()."""

    @property
    def place(self) -> Place[Patient]:
        """What it holds, and whom it waits for."""
        return Place(self, self.source, *self._standing(), self.has_answered, self._is_evicted)

    def _standing(self) -> tuple[str, float]:
        if self.transport.is_closing():
            return "unfinished", -math.inf
        if self._is_between:
            if self._header_bytes:
                return "unfinished", self._begun
            # once answered, a silent connection is one of the API server's pool, and is ended last
            return ("idle", self._last_used) if self.has_answered else ("unfinished", self._last_used)
        if self.flow.unread_since < math.inf:
            return "unfinished", self.flow.unread_since
        if self.cycle.more_body and not self.flow.read_paused:
            return "unfinished", max(self._begun, self.flow.resumed)
        return "unfinished", math.inf  # waits for the webhook itself, not for its client

    @property
    def _is_between(self) -> bool:
        """Whether no request has all of its headers, or the last one has its answer."""
        return self.cycle is None or self.cycle.response_complete

    def evict(self) -> None:
        """End at once: the end of TLS would wait for the client."""
        self._is_evicted = True
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has completed its handshake."""
        super().connection_made(transport)
        self.flow = Flow(transport)
        # beyond this, pause_writing() is called, and the client's time to read begins
        transport.set_write_buffer_limits(MOST_UNREAD_BYTES)
        self.source = (transport.get_extra_info("peername") or ("",))[0]
        self._last_used = time.monotonic()
        self._deadline = self.loop.call_later(self.timeout_s, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request, or of several."""
        # from the first byte of a request on: what was idle before must not count as slow
        if self._is_between and not self._header_bytes:
            self._begun = time.monotonic()
        super().data_received(data)
        waiting = self._is_between
        self._header_bytes = self._header_bytes + len(data) if waiting else 0
        if self._header_bytes > MOST_HEADER_BYTES:
            self.transport.abort()
        if waiting and self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(self.timeout_s, self.transport.abort)

    def on_headers_complete(self) -> None:
        """The parser has read the headers of a request."""
        self._relax()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """The application has answered."""
        self.has_answered = True
        self.flow.answered()
        self._last_used = time.monotonic()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is over."""
        self._relax()
        self.flow.answered()
        super().connection_lost(exc)
        self.gone()

    def _relax(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def limited(timeout_s: float) -> type[Patient]:
    """The protocol with this time for headers, in seconds."""
    return type("Protocol", (Patient,), {"timeout_s": timeout_s})
