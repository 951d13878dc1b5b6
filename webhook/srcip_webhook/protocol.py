"""uvicorn's HTTP protocol with bounds on what a client may take: time and bytes for a request's headers."""

from __future__ import annotations

import asyncio
import math
import time
from asyncio import TimerHandle

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEADER_BYTES = 64 * 1024
"""The API server sends less than one KiB."""


class Patient(HttpToolsProtocol):
    """One connection. `timeout_s` is how long a client may take for the headers of a request, in seconds."""

    timeout_s: float
    source = ""
    """The client's address."""
    has_answered = False
    """Whether a request of this connection had its whole answer."""
    _deadline: TimerHandle | None = None
    _header_bytes = 0
    _last_used = 0.0

    @property
    def idle_since(self) -> float:
        """By time.monotonic(); infinity while a request is worked at or its body comes."""
        return self._last_used if self.cycle is None or self.cycle.response_complete else math.inf

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has completed its handshake."""
        super().connection_made(transport)
        self.source = (transport.get_extra_info("peername") or ("",))[0]
        self._last_used = time.monotonic()
        self._deadline = self.loop.call_later(self.timeout_s, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request, or of several."""
        super().data_received(data)
        waiting = self.cycle is None or self.cycle.response_complete
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
        self._last_used = time.monotonic()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is over."""
        self._relax()
        super().connection_lost(exc)

    def _relax(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def limited(timeout_s: float) -> type[Patient]:
    """The protocol with this time for headers, in seconds."""
    return type("Protocol", (Patient,), {"timeout_s": timeout_s})
