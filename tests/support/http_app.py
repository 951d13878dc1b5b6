"""An unmodified HTTP/1.1 application: it answers each request with what it saw, as JSON, byte for byte.

Usage: http_app.py ADDRESS PORT [ADDRESS PORT ...]. Some paths do more: /slow waits until the client has gone, /chunked
answers in chunks with a trailer, /ws speaks WebSocket, /talk answers each chunk, /early answers before the body, /close
ends the connection.
"""

import base64
import hashlib
import json
import socket
import threading
from typing import BinaryIO

from listening import run

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3


def head_of(file: BinaryIO) -> list[str]:
    """The lines of one head, without the empty one; nothing at the end of the connection."""
    lines = []
    while line := file.readline(1 << 16):
        if line == b"\r\n":
            break
        lines.append(line.decode("latin-1").removesuffix("\r\n"))
    return lines


def headers_of(lines: list[str]) -> dict[str, str]:
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}


def body_of(file: BinaryIO, headers: dict[str, str]) -> tuple[int, str, list[str]]:
    """Length and hash of a body, and its trailers."""
    digest, length, trailers = hashlib.sha256(), 0, []
    if headers.get("transfer-encoding") == "chunked":
        while size := int(file.readline().split(b";")[0], 16):
            length += size
            digest.update(file.read(size))
            file.readline()
        trailers = head_of(file)
    left = int(headers.get("content-length", 0))
    while left:
        data = file.read(min(left, 1 << 16))
        length, left = length + len(data), left - len(data)
        digest.update(data)
        if not data:
            break
    return length, digest.hexdigest(), trailers


def answer(connection: socket.socket, what: dict[str, object]) -> None:
    body = json.dumps(what).encode()
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


def websocket(connection: socket.socket, file: BinaryIO, headers: dict[str, str], seen: dict[str, object]) -> None:
    """Say what was seen in one text frame, then echo bytes until the client ends."""
    accept = base64.b64encode(hashlib.sha1(headers["sec-websocket-key"].encode() + GUID).digest())  # noqa: S324
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
    text = json.dumps(seen).encode()
    connection.sendall(head + accept + b"\r\n\r\n\x81\x7e" + len(text).to_bytes(2, "big") + text)
    while data := file.read1(65536):
        connection.sendall(data)


def chunked(connection: socket.socket, seen: dict[str, object]) -> None:
    text = json.dumps(seen).encode()
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n")
    for piece in (text[:10], text[10:]):
        connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
    connection.sendall(b"0\r\nX-Sum: done\r\n\r\n")


def talk(connection: socket.socket, file: BinaryIO) -> None:
    """Answer each chunk of the request with the same chunk, at once."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while size := int(file.readline(), 16):
        connection.sendall(b"%x\r\n%s" % (size, file.read(size + 2)))
    connection.sendall(b"0\r\n\r\n")


def wait_for_the_end(connection: socket.socket) -> None:
    """A long poll: nothing to say until the client has gone, one way or the other."""
    try:
        print("gone" if not connection.recv(1) else "more", flush=True)
    except ConnectionResetError:
        print("gone", flush=True)


def serve(connection: socket.socket, peer: tuple[str, int], number: int) -> None:
    file = connection.makefile("rb")
    count = 0
    while lines := head_of(file):
        count += 1
        headers, path = headers_of(lines), lines[0].split()[1]
        seen: dict[str, object] = {"peer": peer, "connection": number, "request": count, "head": lines}
        print("request", json.dumps(lines), flush=True)
        if path == "/early":
            answer(connection, seen)
            return
        if path == "/talk":
            return talk(connection, file)
        if headers.get("expect") == "100-continue":
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        seen["length"], seen["sha256"], seen["trailers"] = body_of(file, headers)
        if path == "/slow":
            return wait_for_the_end(connection)
        if path == "/ws":
            return websocket(connection, file, headers, seen)
        (chunked if path == "/chunked" else answer)(connection, seen)
        if path == "/close":
            return


def handle(connection: socket.socket, peer: tuple[str, int], number: int) -> None:
    with connection:
        try:
            serve(connection, (peer[0].removeprefix("::ffff:"), peer[1]), number)
        except (OSError, ValueError) as error:
            print("lost", error, flush=True)


def accept(listener: socket.socket) -> None:
    number = 0
    while True:
        connection, peer = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        number += 1
        print("accepted", *peer[:2], flush=True)
        threading.Thread(target=handle, args=(connection, peer[:2], number), daemon=True).start()


run(accept)
