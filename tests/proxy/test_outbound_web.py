"""Outgoing HTTP of every kind: bodies, upgrades, long answers, and what the sidecar must not change."""

import hashlib
import os
import socket
import threading
from contextlib import suppress

import pytest
from test_outbound_raw import serve_once
from test_web import memory

from support.outbound_servers import ANY, HTTP, Leave, Outward
from support.rig import OTHER4, OTHER6, POD4
from support.waiting import DEADLINE_S
from support.web import get, read

pytestmark = pytest.mark.dataplane
FORGED = "X-Forwarded-For: 1.1.1.1"


@pytest.mark.parametrize("pieces", [1, 7])
@pytest.mark.parametrize("to", [OTHER4, OTHER6])
def test_a_chunked_body_passes_whole_both_ways(leave: Leave, to: str, pieces: int) -> None:
    data = os.urandom(300_000)
    size = len(data) // pieces + 1
    chunks = [data[i : i + size] for i in range(0, len(data), size)]
    body = b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in chunks) + b"0\r\nX-Trailer: kept\r\n\r\n"
    with leave().connect(to=to) as client:
        client.send(get("/chunked", "Transfer-Encoding: chunked", FORGED, method="POST") + body)
        saw = read(client)
        assert (saw.facts["length"], saw.facts["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert saw.facts["trailers"] == ["x-trailer: kept"]
        client.send(get("/next", FORGED))
        assert (read(client).all("x-forwarded-for"), saw.all("x-forwarded-for")) == ([POD4], [POD4])


def test_a_big_body_takes_no_memory_up_or_down(leave: Leave) -> None:
    """64 MB each way, as HTTP and as plain bytes: the sidecar's memory stays what it was, give or take its buffers."""
    out = leave()
    piece, count = os.urandom(1 << 20), 64
    for head in (get("/", f"Content-Length: {len(piece) * count}", method="POST"), b"\0plain"):
        serve_once(out, lambda connection, head=head: back(connection, len(piece) * count, head))
        with out.connect(ANY) as client:
            client.send(head + piece)
            before = highest = memory(out.rig)
            for _ in range(count - 1):
                client.send(piece)
                highest = max(highest, memory(out.rig))
            got = 0
            while got < len(piece) * count:
                data = client.sock.recv(1 << 20)
                assert data
                got += len(data)
            highest = max(highest, memory(out.rig))
        assert highest - before < 2048, "KiB"


def back(connection: socket.socket, length: int, head: bytes) -> None:
    """Read a body of this length, then answer with one."""
    seen, at = b"", 0
    while not at or len(seen) < at + length:
        seen += connection.recv(1 << 20)
        at = at or (seen.find(b"\r\n\r\n") + 4 if head.startswith(b"POST") else len(head))
    if head.startswith(b"POST"):
        assert b"x-forwarded-for: " + POD4.encode() in seen[:at]
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length)
    connection.sendall(bytes(length))


def test_a_websocket_passes_and_its_request_has_the_headers(leave: Leave) -> None:
    lines = ("Upgrade: websocket", "Connection: keep-alive, Upgrade", "Sec-WebSocket-Version: 13", FORGED)
    with leave().connect() as client:
        client.send(get("/ws", *lines, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="))
        file = client.sock.makefile("rb")
        head = b"".join(iter(file.readline, b"\r\n")).lower()
        assert b"101 switching protocols" in head
        assert b"sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=" in head
        assert file.read(2) == b"\x81\x7e"
        seen = file.read(int.from_bytes(file.read(2), "big"))
        assert f'"x-forwarded-for: {POD4}"'.encode() in seen
        frame = b"\x82\xfe\x40\x00" + os.urandom(16388)
        client.send(frame)
        assert file.read(len(frame)) == frame


@pytest.mark.parametrize("token", ["h2c", "TLS/1.0", "HTTP/2.0"])
def test_no_upgrade_leads_past_the_headers(leave: Leave, token: str) -> None:
    """Java asks for h2c on its own; it is answered in HTTP/1.1."""
    lines = (f"Upgrade: {token}", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABk")
    saw = leave().ask(get("/", *lines))
    assert saw.all("upgrade") == saw.all("http2-settings") == []
    assert (saw.all("x-forwarded-for"), saw.all("connection")) == ([POD4], [])


def test_a_request_to_an_http_proxy_keeps_its_form(leave: Leave) -> None:
    """The application may use a proxy of its own: what it asks of it gets the headers, what runs inside does not."""
    request = get("http://shop.example/a").replace(b"app.example", b"shop.example")
    assert leave().ask(request).facts["head"][:2] == ["GET http://shop.example/a HTTP/1.1", "host: shop.example"]
    out, seen = leave(), []

    def proxy(connection: socket.socket) -> None:
        seen.append(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        connection.sendall(connection.recv(65536))

    serve_once(out, proxy)
    with out.connect(ANY) as client:
        client.send(b"CONNECT shop.example:443 HTTP/1.1\r\nHost: shop.example:443\r\n\r\n")
        assert client.sock.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
        client.send(get("/", FORGED))
        assert client.sock.recv(1000) == get("/", FORGED)
    assert f"x-forwarded-for: {POD4}\r\n".encode() in seen[0]


def test_expect_100_continue(leave: Leave) -> None:
    """The server, not the sidecar, says whether to go on."""
    with leave().connect() as client:
        client.send(get("/", "Expect: 100-continue", "Content-Length: 5", method="PUT"))
        assert client.sock.recv(1024).startswith(b"HTTP/1.1 100 ")
        client.send(b"hello")
        assert read(client).facts["length"] == 5


def test_an_answer_in_pieces_comes_piece_by_piece(leave: Leave) -> None:
    """Events of a server are not held back to be joined: the next one is sent when the last one has come."""
    out, taken = leave(), threading.Event()

    def events(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(10):
            connection.sendall(b"7\r\nevent %d\r\n" % number)
            assert taken.wait(DEADLINE_S)
            taken.clear()

    serve_once(out, events)
    with out.connect(ANY) as client:
        client.send(get())
        seen = b""
        for number in range(10):
            while b"event %d" % number not in seen:
                seen += client.sock.recv(1000)
            taken.set()


def test_the_answer_is_the_servers(leave: Leave) -> None:
    """Every line, in its order, with nothing added: only names of headers are in lower case."""
    lines = [b"HTTP/1.1 418 Odd", b"X-B: One", b"x-a: 2", b"X-B: 3", b"X-Forwarded-For: 9", b"Content-Length: 2"]
    out = leave()

    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"\r\n".join([*lines, b"", b"ok"]))

    serve_once(out, answer)
    with out.connect(ANY) as client:
        client.send(get())
        got = client.sock.recv(1000)
    named = (line.partition(b":") for line in lines[1:])
    assert got.split(b"\r\n") == [lines[0], *(name.lower() + colon + rest for name, colon, rest in named), b"", b"ok"]


def test_a_long_poll_ends_when_the_application_goes(leave: Leave) -> None:
    """The server learns of it at once, as without the sidecar."""
    out = leave()
    polled, gone = threading.Event(), threading.Event()

    def poll(connection: socket.socket) -> None:
        connection.recv(65536)
        polled.set()
        with suppress(ConnectionResetError):
            connection.recv(1)
        gone.set()

    serve_once(out, poll)
    with out.connect(ANY) as client:
        client.send(get())
        assert polled.wait(DEADLINE_S)
        assert not gone.wait(0.4)
    assert gone.wait(DEADLINE_S)


def test_connections_at_once_are_not_mixed_up(leave: Leave) -> None:
    out, found = leave(), []

    def one(out: Outward, number: int) -> None:
        with out.connect(HTTP + number % 2, (OTHER4, OTHER6)[number % 3 == 0]) as client:
            for turn in range(10):
                client.send(get(f"/{number}/{turn}"))
                found.append(read(client).facts["head"][0] == f"GET /{number}/{turn} HTTP/1.1")

    threads = [threading.Thread(target=one, args=(out, number)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 200
