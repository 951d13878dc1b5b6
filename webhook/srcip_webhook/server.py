"""The webhook as a process: uvicorn over TLS, certificates exchanged while it runs, slow clients cut off.

Exit status: 0 or the signal after a stop, 2 if the settings are wrong, 3 if the port cannot be had.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import time
from typing import Any, cast

import uvicorn

from srcip_webhook import logs, workers
from srcip_webhook.app import create_app
from srcip_webhook.listener import Listener, bound
from srcip_webhook.metrics import Metrics
from srcip_webhook.protocol import Patient, limited
from srcip_webhook.settings import Settings, SettingsError, from_environ
from srcip_webhook.tls import Certificates

STARTUP_FAILURE = 3
"""Exit status of uvicorn where it cannot listen."""
KEEP_ALIVE_S = 120
"""Longer than the 90 s after which Go's client drops an idle connection, so that it never meets a closed one."""
SWITCH_S = 0.0005
"""How long the work of a large review holds the interpreter before the event loop has its turn; Python's own 5 ms would
add up to 50 for a request."""
PARTING_S = 3
"""How long clients may go on after SIGTERM until each was told, with an answer, to use its connection no more.

Go's client does not repeat a POST on a connection that is closed just then: the API server would refuse the Pod."""


class Server(uvicorn.Server):
    """uvicorn's server, with a log line that names the real port, and an end that no client notices."""

    def __init__(self, made: uvicorn.Config, metrics: Metrics) -> None:
        super().__init__(made)
        self._metrics = metrics

    async def startup(self, sockets: Any = None) -> None:
        """Listen, as uvicorn does, but with a Listener."""
        await self.lifespan.startup()
        context = self.config.ssl
        assert context is not None  # there is an ssl_context_factory
        try:
            listening = bound(self.config.host, self.config.port)
        except OSError as error:
            logs.event(
                "cannot listen", logging.ERROR, address=self.config.host, port=self.config.port, error=str(error)
            )
            sys.exit(STARTUP_FAILURE)
        connections = cast("set[Patient]", self.server_state.connections)
        listener = Listener(listening, self._connection, context, connections, self._metrics)
        listener.start()
        self.servers = [cast(asyncio.Server, listener)]
        self.started = True
        quiet_gc()
        for each in listening:
            address, port, *_ = each.getsockname()
            logs.event("listening", address=address, port=port)

    def _connection(self) -> Patient:
        made = self.config.http_protocol_class
        return cast(Patient, made(config=self.config, server_state=self.server_state, app_state={}))  # type: ignore[call-arg]

    async def shutdown(self, sockets: Any = None) -> None:
        """Let busy connections end with an answer that says so; what is idle then is closed."""
        # the API server reuses idle connections, also one that is being closed; `close` makes it open another first
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
        end = time.monotonic() + PARTING_S
        while self.server_state.connections and not self.force_exit and time.monotonic() < end:
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)


def quiet_gc() -> None:
    """Leave what was imported out of every collection, and collect per some reviews instead of within each."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


def config(
    settings: Settings, metrics: Metrics, helped: workers.Workers | None = None
) -> tuple[uvicorn.Config, Certificates]:
    """How uvicorn is to run, and the certificates that it will serve."""
    certificates = Certificates(settings.tls_cert_file, settings.tls_key_file, metrics)
    made = uvicorn.Config(
        create_app(settings, metrics, certificates.not_ready, helped),
        host=settings.listen_address,
        port=settings.listen_port,
        loop="asyncio",
        http=limited(settings.request_timeout_ms / 1000),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # X-Forwarded-For of a client would replace the source that limits are counted by
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=settings.drain_timeout_s,
        ssl_context_factory=lambda _config, _default: certificates.context,
        callback_notify=certificates.poll_async,
        timeout_notify=0,
    )
    return made, certificates


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
    sys.setswitchinterval(SWITCH_S)
    metrics = Metrics()
    made, certificates = config(settings, metrics, workers.start(settings))
    wait_for(certificates)
    Server(made, metrics).run()


if __name__ == "__main__":
    main()
