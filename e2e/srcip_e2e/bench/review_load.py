"""The webhook's load, a process of its own: `python -m srcip_e2e.bench.review_load closed|open PORT CA SECONDS RATE`.

`closed`: eight connections, each with one review in flight, as fast as they are answered: reviews/s.
`open`: RATE reviews/s, each due at its own time; latency counts from then, not from when it could be sent, so that a
server that stalls is not spared the reviews that it kept waiting (no coordinated omission).
"""

from __future__ import annotations

import json
import selectors
import socket
import ssl
import sys
import time
from collections import deque
from dataclasses import dataclass
from statistics import quantiles

from srcip_e2e.bench.pods import review

CONNECTIONS = 8
MOST_OPEN = 32
"""Connections of the open loop; a review that finds none free waits, and its wait counts."""


@dataclass
class Caller:
    """One TLS connection that posts the same review again and again."""

    socket: ssl.SSLSocket
    request: bytes
    due: float = 0.0

    def send(self) -> None:
        self.socket.sendall(self.request)

    def receive(self) -> bytes:
        """The body of one answer. Raises RuntimeError when it is not 200 with a patch."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._some()
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        while len(body) < length:
            body += self._some()
        if not head.startswith(b"HTTP/1.1 200") or b'"patch"' not in body:
            raise RuntimeError(f"the webhook answers {head[:60]!r} {body[:200]!r}")
        return body

    def _some(self) -> bytes:
        data = self.socket.recv(65536)
        if not data:
            raise RuntimeError("the webhook closed the connection")
        return data


def callers(port: int, ca: str, count: int) -> list[Caller]:
    """Open connections to the webhook on 127.0.0.1."""
    context = ssl.create_default_context(cafile=ca)
    body = review()
    head = f"POST /mutate?timeout=10s HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    sockets = (socket.create_connection(("127.0.0.1", port)) for _ in range(count))
    made = []
    for plain in sockets:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        caller = Caller(context.wrap_socket(plain, server_hostname="127.0.0.1"), request)
        caller.send()  # once before it counts: the handshake's session tickets are read with the answer
        caller.receive()
        made.append(caller)
    return made


def closed(all_callers: list[Caller], seconds: float) -> dict[str, float]:
    """Reviews/s with every connection busy."""
    for caller in all_callers:
        caller.send()
    done, begin = 0, time.monotonic()
    while (now := time.monotonic()) < begin + seconds:
        caller = all_callers[done % len(all_callers)]
        caller.receive()
        caller.send()
        done += 1
    return {"reviews_per_second": done / (now - begin)}


def open_loop(all_callers: list[Caller], seconds: float, rate: float) -> dict[str, float]:
    """Latency at a fixed rate, in ms from when each review was due."""
    free, took = list(all_callers), list[float]()
    begin, total = time.monotonic(), int(seconds * rate)
    due = deque(begin + number / rate for number in range(total))
    with selectors.DefaultSelector() as ready:
        for caller in all_callers:
            ready.register(caller.socket, selectors.EVENT_READ, caller)
        while len(took) < total:
            while due and free and due[0] <= time.monotonic():
                caller = free.pop()
                caller.due = due.popleft()
                caller.send()
            wait = max(0.0, due[0] - time.monotonic()) if due and free else 1.0
            for key, _ in ready.select(wait):
                key.data.receive()
                took.append((time.monotonic() - key.data.due) * 1000)
                free.append(key.data)
    cuts = quantiles(took, n=1000, method="inclusive")
    return {"webhook_p50_ms": cuts[499], "webhook_p99_ms": cuts[989], "webhook_max_ms": max(took)}


def main() -> None:
    """Print one line of JSON."""
    mode, port, ca, seconds, rate = sys.argv[1:]
    if mode == "closed":
        result = closed(callers(int(port), ca, CONNECTIONS), float(seconds))
    else:
        result = open_loop(callers(int(port), ca, MOST_OPEN), float(seconds), float(rate))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
