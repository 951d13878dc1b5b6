"""What the process without privilege does: a thread for the Pods, one for what the other process says, HTTP."""

from __future__ import annotations

import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

from srcip_agent.channel import Channel
from srcip_agent.follower import Follower
from srcip_agent.ledger import Ledger, Say
from srcip_agent.options import Options
from srcip_kube.client import Kube
from srcip_proxy.ebpf.exporter.http import Answer, Server, bound
from srcip_proxy.ebpf.exporter.run import be_nobody

TIMEOUT_S = 10.0
"""Of a call of the API server."""
_KIND = "text/plain; version=0.0.4; charset=utf-8"


def run(options: Options, channel: Channel, say: Say) -> None:
    """Until the process ends, or one of its threads. Raises OSError."""
    listener = bound(None, options.port)
    kube = None if options.events else Kube("srcip-agent", TIMEOUT_S)  # it loads what nobody may not read everywhere
    be_nobody()
    ledger = Ledger(say)
    follower = Follower(channel, ledger, say)
    _thread(lambda: _hear(channel, ledger))
    _thread(lambda: _follow(options, kube, follower))
    say("started", node=options.node, port=listener.getsockname()[1])
    end, _other = socket.socketpair()  # it is never closed: the thread that hears ends the process
    Server(listener, end, lambda path: _page(path, follower)).run()


def _follow(options: Options, kube: Kube | None, follower: Follower) -> None:
    if kube:
        follower.follow(kube, options.node)
    if options.events == "-":
        follower.read(sys.stdin)
    else:
        with Path(options.events).open() as file:
            follower.read(file)
    threading.Event().wait()


def _hear(channel: Channel, ledger: Ledger) -> None:
    while True:
        for message in channel.receive():
            ledger.hear(message)


def _page(path: str, follower: Follower) -> Answer:
    if path == "/metrics":
        return Answer(200, follower.ledger.page(), _KIND)
    if path == "/healthz":
        return Answer(200, "ok\n")
    if path == "/readyz":
        return Answer(200, "ok\n") if follower.ready.is_set() else Answer(503, "the Pods are not listed yet\n")
    return Answer(404, "here are /metrics, /healthz and /readyz\n")


def _thread(work: Callable[[], object]) -> None:
    """Run it; the process ends with it."""

    def guarded() -> None:
        try:
            work()
        except BaseException:  # noqa: BLE001  a thread's death must not go unseen
            traceback.print_exc(file=sys.stderr)
        os._exit(1)

    threading.Thread(target=guarded, daemon=True).start()
