"""A gRPC-like application: HTTP/2 without TLS, by prior knowledge. Usage: h2_app.py ADDRESS PORT [ADDRESS PORT ...].

It answers each message at once with the same message (bidirectional streaming), tells what it saw in a response header,
and ends with trailers.
"""

import json
import socket
import threading

import h2frames
from h2frames import DATA, END_STREAM, HEADERS, PREFACE, SETTINGS, Connection
from listening import run


def serve(sock: socket.socket, number: int) -> None:
    connection = Connection(sock)
    assert connection.file.read(len(PREFACE)) == PREFACE, "no HTTP/2"
    connection.send(SETTINGS, 0, 0)
    while frame := connection.receive():
        if frame.kind == HEADERS:
            seen = json.dumps({"connection": number, "head": connection.fields(frame)})
            connection.headers(
                frame.stream, [(":status", "200"), ("content-type", "application/grpc"), ("x-seen", seen)]
            )
        elif frame.kind == DATA:
            connection.data(frame.stream, frame.payload)
        elif frame.kind == h2frames.RST_STREAM:
            print("reset", flush=True)
            continue
        if frame.flags & END_STREAM:
            connection.headers(frame.stream, [("grpc-status", "0"), ("grpc-message", "fine")], end=True)


def handle(sock: socket.socket, number: int) -> None:
    with sock:
        try:
            serve(sock, number)
        except (OSError, AssertionError) as error:
            print("lost", error, flush=True)


def accept(listener: socket.socket) -> None:
    number = 0
    while True:
        sock, _ = listener.accept()
        number += 1
        print("accepted", flush=True)
        threading.Thread(target=handle, args=(sock, number), daemon=True).start()


run(accept)
