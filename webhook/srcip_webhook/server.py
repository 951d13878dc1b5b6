"""The webhook as a process: uvicorn over TLS, certificates exchanged while it runs, slow clients cut off.

Exit status: 0 or the signal after a stop, 2 if the settings are wrong.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import ssl
import sys
import time
from asyncio import TimerHandle
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from srcip_webhook import logs
from srcip_webhook.app import create_app
from srcip_webhook.metrics import Metrics
from srcip_webhook.settings import Settings, SettingsError, from_environ
from srcip_webhook.tls import Certificates

KEEP_ALIVE_S = 120
"""Longer than the 90 s after which Go's client drops an idle connection, so that it never meets a closed one."""
PARTING_S = 3
"""How long clients may go on after SIGTERM until each was told, with an answer, to use its connection no more.

Go's client does not repeat a POST on a connection that is closed just then: the API server would refuse the Pod."""


class Server(uvicorn.Server):
    """uvicorn's server, with a log line that names the real port, and an end that no client notices."""

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        _quiet_gc()
        for server in self.servers:
            for listener in server.sockets:
                address, port, *_ = listener.getsockname()
                logs.event("listening", address=address, port=port)

    async def shutdown(self, sockets: Any = None) -> None:
        """Let busy connections end with an answer that says so; what is idle then is closed."""
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
        end = time.monotonic() + PARTING_S
        while self.server_state.connections and not self.force_exit and time.monotonic() < end:
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)


def _quiet_gc() -> None:
    """Leave what was imported out of every collection, and collect per some reviews instead of within each."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


def protocol(timeout_s: float) -> type[HttpToolsProtocol]:
    """uvicorn's HTTP protocol with a limit on the time that a client takes for a request's headers."""

    class Impatient(HttpToolsProtocol):
        _deadline: TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._deadline = self.loop.call_later(timeout_s, transport.abort)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            waiting = self.cycle is None or self.cycle.response_complete
            if waiting and self._deadline is None and not self.transport.is_closing():
                self._deadline = self.loop.call_later(timeout_s, self.transport.abort)

        def on_headers_complete(self) -> None:
            self._relax()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._relax()
            super().connection_lost(exc)

        def _relax(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    return Impatient


def config(settings: Settings) -> tuple[uvicorn.Config, Certificates]:
    """How uvicorn is to run, and the certificates that it will serve."""
    metrics = Metrics()
    certificates = Certificates(settings.tls_cert_file, settings.tls_key_file, metrics)
    made = uvicorn.Config(
        create_app(settings, metrics, certificates.not_ready),
        host=settings.listen_address,
        port=settings.listen_port,
        loop="asyncio",
        http=protocol(settings.request_timeout_ms / 1000),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=settings.drain_timeout_s,
        ssl_context_factory=_always(certificates.context),
        callback_notify=certificates.poll_async,
        timeout_notify=0,
    )
    return made, certificates


def _always(context: ssl.SSLContext) -> Callable[..., ssl.SSLContext]:
    return lambda _config, _default: context


def wait_for(certificates: Certificates, pause_s: float = 0.2) -> None:
    """Return when there is a pair to serve; the process that writes it may start after this one."""
    while not certificates.poll():
        time.sleep(pause_s)


def main() -> None:
    """Serve until SIGTERM, then let open requests finish."""
    try:
        settings = from_environ(os.environ)
    except SettingsError as error:
        logs.setup("info")
        for fault in error.faults:
            logs.event("bad setting", logging.ERROR, error=fault)
        sys.exit(2)
    logs.setup(settings.log_level)
    made, certificates = config(settings)
    wait_for(certificates)
    Server(made).run()


if __name__ == "__main__":
    main()
