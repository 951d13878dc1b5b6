"""Clients of web.py with real libraries: `dial.py websocket|grpc HOST PORT MESSAGE...`.

Prints what the server was told of them, then each message as it came back, then how it ended; a line for each.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import grpc
from websockets.sync.client import connect

TIMEOUT_S = 60


def websocket(where: str, messages: Sequence[str]) -> None:
    """One connection."""
    with connect(f"ws://{where}/", open_timeout=TIMEOUT_S, additional_headers={"X-Forwarded-For": "1.1.1.1"}) as talk:
        print(talk.recv(TIMEOUT_S))
        for message in messages:
            talk.send(message)
            print(talk.recv(TIMEOUT_S))
    print(talk.close_code)


def call(where: str, messages: Sequence[str]) -> None:
    """One stream that goes both ways."""
    with grpc.insecure_channel(where) as channel:
        talk = channel.stream_stream("/e2e.Web/Talk")
        metadata = (("x-forwarded-for", "1.1.1.1"),)
        answers = talk((each.encode() for each in messages), timeout=TIMEOUT_S, metadata=metadata)
        for answer in answers:
            print(answer.decode())
        print(answers.code().name, dict(answers.trailing_metadata()))


if __name__ == "__main__":
    kind, host, port, *rest = sys.argv[1:]
    {"websocket": websocket, "grpc": call}[kind](f"[{host}]:{port}" if ":" in host else f"{host}:{port}", rest)
