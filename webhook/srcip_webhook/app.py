"""The HTTP side: POST /mutate and /hint..., /healthz, /readyz and /metrics.

Whatever is wrong with a request is the sender's fault and gets a 4xx with a reason; whatever is wrong with a Pod is
answered inside the AdmissionReview. The work itself is pure and short, so it runs in the event loop; that of a large
request runs beside it, in a process of its own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress

from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from srcip_webhook import logs, pods
from srcip_webhook.body_slots import Turns
from srcip_webhook.metrics import Metrics
from srcip_webhook.settings import Settings
from srcip_webhook.work import JUDGES, Answered, HttpFault, answered
from srcip_webhook.workers import HelperGoneError, Workers

LARGE = 64 * 1024
"""Longer requests, in bytes, wait for their turn and are worked at beside the event loop, which goes on answering
others. Nearly every Pod is shorter."""
PIECE = 64 * 1024
"""Bytes of an answer that are written at a time."""


class Large:
    """What large requests share. Two have memory at the same time: one is worked at, another one is read."""

    def __init__(self, settings: Settings, workers: Workers | None) -> None:
        self.turns = Turns(2)
        self._settings = settings
        self._workers = workers
        self._one = asyncio.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="large")

    async def answered(self, path: str, body: bytearray) -> Answered:
        """The work of a large review: in a process of its own, else in a thread. Raises HttpFault."""
        async with self._one:
            if self._workers:
                with suppress(HelperGoneError):
                    return await self._workers.answered(path, body)
            run = asyncio.get_running_loop().run_in_executor
            return await run(self._thread, answered, path, body, self._settings)


class Answer(Response):
    """An answer in pieces, so that the server sees whether its client reads. With it ends a large request's turn."""

    media_type = "application/json"
    turn: AsyncExitStack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        async with self.turn:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            for start in range(0, len(self.body), PIECE):
                piece, more = self.body[start : start + PIECE], start + PIECE < len(self.body)
                await send({"type": "http.response.body", "body": piece, "more_body": more})


def create_app(
    settings: Settings,
    metrics: Metrics | None = None,
    not_ready: Callable[[], str | None] = lambda: None,
    workers: Workers | None = None,
) -> FastAPI:
    """The ASGI application. `not_ready` tells why the process should get no requests, or None; `workers` take large
    requests."""
    counted, large = metrics or Metrics(), Large(settings, workers)

    async def reviewed(request: Request) -> Response:
        try:
            return await _reviewed(request, settings, counted, large)
        except HttpFault as fault:
            return _rejected(fault, counted)
        except ClientDisconnect:
            return _rejected(HttpFault(400, "the body ended early"), counted)

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        reason = not_ready()
        return PlainTextResponse(f"{reason or 'ok'}\n", status_code=503 if reason else 200)

    async def scrape(_: Request) -> Response:
        return PlainTextResponse(counted.text(), media_type="text/plain; version=0.0.4")

    app = FastAPI(title="srcip", openapi_url=None, docs_url=None, redoc_url=None)
    for path in JUDGES:
        app.add_route(path, reviewed, methods=["POST"])
    for path, endpoint in (("/healthz", healthz), ("/readyz", readyz), ("/metrics", scrape)):
        app.add_route(path, endpoint, methods=["GET"])
    return app


async def _reviewed(request: Request, settings: Settings, metrics: Metrics, large: Large) -> Response:
    _check_headers(request, settings)
    async with AsyncExitStack() as stack:
        body = await _body(request, settings, large.turns, stack)
        path, started = request.scope["path"], time.perf_counter()
        made = await large.answered(path, body) if len(body) > LARGE else answered(path, body, settings)
        metrics.observe(made.verb, made.reason, time.perf_counter() - started)
        logs.event("decision", **made.logged)
        sent = Answer(made.content)
        sent.turn = stack.pop_all()
    return sent


def _check_headers(request: Request, settings: Settings) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise HttpFault(415, f"Content-Type {pods.printable(media_type)}: application/json is expected")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise HttpFault(415, "Content-Encoding: only identity is understood")
    length = request.headers.get("content-length", "")
    # [:20]: int() raises for thousands of digits
    if length.isdigit() and int(length[:20]) > settings.max_body_bytes:
        raise _too_long(settings)


async def _body(request: Request, settings: Settings, turns: Turns, stack: AsyncExitStack) -> bytearray:
    """The whole body, if it is short enough and comes in time. A large one has its turn until the stack ends."""
    body, turn = bytearray(), None
    source = request.client.host if request.client else ""
    try:
        async with asyncio.timeout(settings.request_timeout_ms / 1000) as limit:
            async for chunk in request.stream():
                if len(body) <= LARGE < len(body) + len(chunk):
                    turn = await stack.enter_async_context(turns.of(source, limit))
                body += chunk
                if len(body) > settings.max_body_bytes:
                    raise _too_long(settings)
    except TimeoutError:
        raise HttpFault(408, "the body took too long") from None
    if turn:
        turn.limit = None
    return body


def _too_long(settings: Settings) -> HttpFault:
    return HttpFault(413, f"the body is longer than {settings.max_body_bytes} bytes")


def _rejected(fault: HttpFault, metrics: Metrics) -> Response:
    metrics.rejected[fault.status] += 1
    logs.event("rejected", logging.WARNING, status=fault.status, error=pods.printable(str(fault), 500))
    # The rest of the body may still be on its way: without the connection it can't be taken for a request.
    return JSONResponse({"error": str(fault)}, fault.status, {"connection": "close"})
