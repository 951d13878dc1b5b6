"""A process for each large review: no work on one holds the interpreter of the event loop.

Decoding some MiB of JSON holds Python's lock for a tenth of a second, so threads don't help. The server forks a helper
at its start, before it has threads, sockets or keys. For each large review the helper forks a worker, which reads it
from a socket, writes the answer and is gone: with its memory, and with whatever went wrong in it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from srcip_webhook import logs
from srcip_webhook.settings import Settings
from srcip_webhook.work import Answered, HttpFault, answered

WORK_S = 60
"""Longest life of a worker, in seconds: twice as long as an API server waits for any webhook at most."""
FIRST_VICTIM = "500"
"""oom_score_adj of workers: where memory is short, they end first."""
PIECE = 256 * 1024
"""Bytes that are read at a time."""


class HelperGoneError(Exception):
    """There is nobody who makes workers."""


@dataclass
class Workers:
    """The server's end of the helper."""

    helper: int
    """Its process id."""
    _control: socket.socket
    _is_gone: bool = False

    async def answered(self, path: str, body: bytearray) -> Answered:
        """What a new worker makes of a review, whose body is taken. Raises HttpFault, also of status 500 where it ends
        without an answer, and HelperGoneError."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                self._ask(theirs)
            ours.setblocking(False)
            try:
                async with asyncio.timeout(WORK_S + 1):
                    return _read(await _exchanged(ours, path, body))
            except (OSError, ValueError, TimeoutError):  # so is a worker that was killed within its answer
                raise HttpFault(500, "the work on this review was ended") from None

    def close(self) -> None:
        """End the helper, when its last worker is done."""
        self._control.close()
        os.waitpid(self.helper, 0)

    def _ask(self, theirs: socket.socket) -> None:
        try:
            socket.send_fds(self._control, [b"."], [theirs.fileno()])
        except OSError as error:
            if not self._is_gone:
                logs.event("large reviews hold the event loop from now on", logging.ERROR, error=str(error))
            self._is_gone = True
            raise HelperGoneError from None


def start(settings: Settings) -> Workers:
    """Fork the helper. To be called before there are threads, and before there is anything that it must not have."""
    ours, theirs = socket.socketpair()
    gc.collect()
    gc.freeze()  # a collection would write to what is shared, and so copy it
    if helper := os.fork():
        theirs.close()
        ours.setblocking(False)
        return Workers(helper, ours)
    try:
        ours.close()
        _help(theirs, settings)
    finally:
        os._exit(0)


def _help(control: socket.socket, settings: Settings) -> None:
    """Fork a worker for each socket that comes, until the server is gone."""
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):  # open reviews are answered; nobody waits for workers
        signal.signal(each, signal.SIG_IGN)
    while True:
        message, files, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        for number in files:
            with socket.socket(fileno=number) as end:
                _fork(end, settings)


def _fork(end: socket.socket, settings: Settings) -> None:
    try:
        is_helper = os.fork() != 0
    except OSError:  # no more processes: the server sees an end without an answer
        return
    if is_helper:
        return
    try:
        _work(end, settings)
    except Exception:  # noqa: BLE001 # the server says what becomes of the review
        logs.LOGGER.exception("large review failed")
    finally:
        os._exit(0)


def _work(end: socket.socket, settings: Settings) -> None:
    signal.alarm(WORK_S)  # ends the process, whatever it is doing
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(FIRST_VICTIM)
    gc.disable()  # it does not live long enough
    path, body = _received(end)
    try:
        made = answered(path, body, settings)
        head, content = asdict(replace(made, content=b"")) | {"content": len(made.content)}, made.content
    except HttpFault as fault:
        head, content = {"status": fault.status, "error": str(fault)}, b""
    end.sendall(json.dumps(head).encode() + b"\n" + content)


def _received(end: socket.socket) -> tuple[str, bytearray]:
    """The path and the body of a review."""
    whole = bytearray()
    while piece := end.recv(PIECE):
        whole += piece
    line = whole.index(b"\n")
    path = whole[:line].decode()
    del whole[: line + 1]
    return path, whole


async def _exchanged(ours: socket.socket, path: str, body: bytearray) -> bytearray:
    """Send a review, and receive all that comes back."""
    loop, whole = asyncio.get_running_loop(), bytearray()
    await loop.sock_sendall(ours, path.encode() + b"\n")
    await loop.sock_sendall(ours, body)
    body.clear()  # the worker has it, and needs the memory
    ours.shutdown(socket.SHUT_WR)
    while piece := await loop.sock_recv(ours, PIECE):
        whole += piece
    return whole


def _read(reply: bytearray) -> Answered:
    """A worker's answer. Raises HttpFault as it says so, ValueError if it is not whole."""
    line, _, content = reply.partition(b"\n")
    head: dict[str, Any] = json.loads(line)
    if "error" in head:
        raise HttpFault(head["status"], head["error"])
    if len(content) != head["content"]:
        raise ValueError(f"{len(content)} bytes of {head['content']}")
    return Answered(**head | {"content": bytes(content)})
