"""What is no HTTP leaves the Pod untouched, at once where the application speaks first."""

import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from test_first_bytes import NOT_HTTP

from support import keypairs
from support.outbound_servers import ANY, GREETS, HTTP, OUT, WAIT, Leave, Outward
from support.rig import OTHER4, OTHER6, POD4
from support.waiting import AT_ONCE_S, DEADLINE_S
from support.web import get, read

pytestmark = pytest.mark.dataplane


def serve_once(out: Outward, answer: Callable[[socket.socket], None], to: str = OTHER4) -> None:
    """A server on ANY for one connection, in a thread of its own."""
    listener = out.rig.lab.other.listen(ANY, to)
    listener.settimeout(DEADLINE_S)

    def accept() -> None:
        with listener:  # closed before it answers: the next test may listen there
            connection, _ = listener.accept()
        with connection:
            connection.settimeout(DEADLINE_S)
            answer(connection)

    threading.Thread(target=accept, daemon=True).start()


def echo(connection: socket.socket) -> None:
    with suppress(ConnectionResetError):  # a client of these tests ends so
        while data := connection.recv(65536):
            connection.sendall(data)


LINES = [
    b"GET /\r\n",
    b"GETS / HTTP/2.0\r\n",
    b"EHLO a HTTP/1.1x\r\n",
    b"PRI * HTTP/3.0\r\n",
    b"JRMI\0\2K",
    b"\n",
    b" GET / HTTP/1.1",
]


@pytest.mark.parametrize("to", [OTHER4, OTHER6])
@pytest.mark.parametrize("data", [*NOT_HTTP, *LINES])
def test_what_is_no_http_passes_at_once(leave: Leave, data: bytes, to: str) -> None:
    """Byte for byte, both ways, and what looks like a request behind it as well."""
    out = leave()
    serve_once(out, echo, to)
    with out.connect(ANY, to) as client:
        started = time.monotonic()
        client.send(data)
        assert client.sock.recv(1000, socket.MSG_WAITALL if len(data) > 1000 else 0) == data
        assert time.monotonic() - started < AT_ONCE_S
        client.send(get("/", "X-Forwarded-For: 1.1.1.1"))
        assert client.sock.recv(1000) == get("/", "X-Forwarded-For: 1.1.1.1")


@pytest.mark.parametrize("data", [b"GET", b"GET / HTTP/1", b"PING", b"a" * 5000, b"GET /" + b"a" * 12000])
def test_what_may_still_become_http_passes_after_the_stated_time(leave: Leave, data: bytes) -> None:
    out = leave(own_times=True)
    serve_once(out, echo)
    started = time.monotonic()
    with out.connect(ANY) as client:
        client.send(data)
        assert client.sock.recv(10000).startswith(data[:100])
        assert WAIT - 0.05 < time.monotonic() - started < AT_ONCE_S


@pytest.mark.parametrize("pause", [0.0, 0.02])
def test_a_request_in_pieces_is_one(leave: Leave, pause: float) -> None:
    with leave().connect() as client:
        for piece in (b"G", b"ET /pieces", b" HTTP/1.1", b"\r", b"\nHost: a\r", b"\nX-Forwarded-For: 1\r\n", b"\r\n"):
            client.send(piece)
            time.sleep(pause)
        assert read(client).all("x-forwarded-for") == [POD4]


def test_a_request_whose_headers_are_late_is_http_all_the_same(leave: Leave) -> None:
    """Only its first line must come in time."""
    out = leave(own_times=True)
    with out.rig.at_once(b"GET / HTTP/1.1\r\n", HTTP, host=out.rig.lab.pod, to=OTHER4) as client:
        time.sleep(2 * WAIT)
        client.send(b"Host: a\r\n\r\n")
        assert read(client).all("x-forwarded-for") == [POD4]


@pytest.mark.parametrize("method", ["M-SEARCH", "PROPFIND", "get", "VERSION-CONTROL"])
def test_any_method_is_http(leave: Leave, method: str) -> None:
    saw = leave().ask(get("/", method=method))
    assert (saw.facts["head"][0], saw.all("x-forwarded-for")) == (f"{method} / HTTP/1.1", [POD4])


@pytest.mark.parametrize("to", [OTHER4, OTHER6])
def test_a_server_may_speak_first(leave: Leave, to: str) -> None:
    """After the stated time; then the connection is a plain one, in both directions."""
    out = leave(own_times=True)
    with out.connect(GREETS, to) as client:
        assert client.seen().peer[0] == (POD4 if to == OTHER4 else out.rig.lab.pod.ipv6)
        client.send(b"thanks")
        assert client.seen(rest=6).rest == b"thanks"
        client.finish()
        assert client.seen(rest=11).rest == b"thanks<end>"


@pytest.mark.parametrize("to", [OTHER4, OTHER6])
def test_tls_is_between_its_two_ends(leave: Leave, to: str, tmp_path: Path) -> None:
    """A real handshake with a certificate that the client checks; the request inside is the application's own."""
    out = leave()
    certificate, key = keypairs.pair("server")
    keypairs.write(tmp_path, certificate, key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")

    def answer(connection: socket.socket) -> None:
        with server.wrap_socket(connection, server_side=True) as inside:
            echo(inside)

    serve_once(out, answer, to)
    context = ssl.create_default_context(cadata=certificate.decode())
    request = get("/", "X-Forwarded-For: 1.1.1.1")
    started = time.monotonic()
    with context.wrap_socket(out.connect(ANY, to).sock, server_hostname="localhost") as client:
        client.sendall(request)
        assert client.recv(1000) == request
    assert time.monotonic() - started < AT_ONCE_S


@pytest.mark.parametrize("to", [OTHER4, OTHER6])
@pytest.mark.parametrize("data", [b"\x16\x03", b"\0" + b"x" * 30000, get(), get(method="POST", body=b"x" * 3000), b""])
def test_a_server_that_refuses_is_a_reset_at_once(leave: Leave, data: bytes, to: str) -> None:
    """The connection is accepted by the sidecar; it is reset, without a byte, as soon as it is known where to."""
    with leave(own_times=not data).connect(OUT[1].last, to) as client:
        started = time.monotonic()
        if data:
            client.send(data)
        assert (client.seen().end, client.got) == ("reset", b"")
        assert time.monotonic() - started < AT_ONCE_S


def test_a_server_that_ends_without_an_answer_is_no_answer(leave: Leave) -> None:
    """The connection ends as the server has ended it; no page of the sidecar's own comes instead."""
    out = leave()
    serve_once(out, lambda connection: connection.recv(65536) and None)
    with out.connect(ANY) as client:
        client.send(get())
        assert (client.end().end, client.got) == ("end", b"")


def test_a_client_that_ends_its_side_is_heard_to_the_end(leave: Leave) -> None:
    """What is no HTTP may end in one direction and go on in the other."""
    with leave().connect(GREETS) as client:
        client.send(b"\x01question")
        client.finish()
        assert client.seen(rest=14).rest == b"\x01question<end>"


def test_a_connection_that_is_never_used_harms_nobody(leave: Leave) -> None:
    out = leave(own_times=True)
    with out.connect() as client:
        client.finish()
        assert client.end().end in ("end", "reset")
    assert out.ask(get()).all("x-forwarded-for") == [POD4]
