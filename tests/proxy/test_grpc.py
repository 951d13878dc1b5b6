"""HTTP/2 without TLS, by prior knowledge, and gRPC on it: the application is spoken to in the same way."""

import json

import pytest

from support import h2frames
from support.h2frames import DATA, HEADERS, PREFACE, SETTINGS, Connection, Headers
from support.rig import CLIENT4, H2_APP, HTTP_APP, Rig, RigFactory, v2
from support.waiting import DEADLINE_S
from support.web import redirect

pytestmark = pytest.mark.dataplane

CALL: Headers = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/echo.Echo/Say"),
    (":authority", "app.example"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]
FORGED: Headers = [("x-forwarded-for", "1.1.1.1"), ("x_real_ip", "1.1.1.1"), ("forwarded", "for=1.1.1.1")]


def grpc(rigs: RigFactory) -> Rig:
    return rigs(redirect(), app=("::", "7000"), program=H2_APP)


def dial(client, header: bytes = v2()) -> Connection:
    client.sock.settimeout(DEADLINE_S)
    client.send(header + PREFACE)
    connection = Connection(client.sock)
    connection.send(SETTINGS, 0, 0)
    return connection


def seen(fields: Headers) -> dict[str, object]:
    return json.loads(dict(fields)["x-seen"])


def test_a_stream_of_messages_goes_both_ways_and_ends_with_trailers(rigs: RigFactory) -> None:
    """Each message is answered before the next is sent; the call's headers say who the client is."""
    with grpc(rigs).connect() as client:
        connection = dial(client)
        connection.headers(1, CALL + FORGED)
        frame = connection.receive()
        fields = dict(map(tuple, seen(connection.fields(frame))["head"]))
        assert (frame.kind, fields["x-forwarded-for"], fields["x-real-ip"]) == (HEADERS, CLIENT4[0], CLIENT4[0])
        assert fields["forwarded"] == f"for={CLIENT4[0]};proto=http"
        assert (fields["te"], fields[":path"], "x_real_ip" in fields) == ("trailers", "/echo.Echo/Say", False)
        for number in range(20):
            message = b"\0\0\0\0\x06hello%d" % (number % 10)
            connection.data(1, message)
            frame = connection.receive()
            assert (frame.kind, frame.payload) == (DATA, message)
        connection.data(1, b"", end=True)
        frame = connection.receive()
        assert connection.fields(frame) == [("grpc-status", "0"), ("grpc-message", "fine")]


def test_many_streams_of_one_connection_at_once(rigs: RigFactory) -> None:
    """Each has the client, and its own bytes; they share connections to the application with nobody else."""
    rig = grpc(rigs)
    with rig.connect() as client:
        connection = dial(client)
        call(connection, 1, b"first")
        numbers = set()
        streams = range(3, 83, 2)
        for stream in streams:
            connection.headers(stream, CALL)
            connection.data(stream, b"message %d" % stream, end=True)
        open_streams = set(streams)
        while open_streams:
            frame = connection.receive()
            if frame.kind == DATA:
                assert frame.payload == b"message %d" % frame.stream
            elif frame.flags & h2frames.END_STREAM:
                connection.fields(frame)
                open_streams.remove(frame.stream)
            else:
                numbers.add(seen(connection.fields(frame))["connection"])
        assert len(numbers) <= 2
    with rig.connect() as client:
        assert call(dial(client, v2(("203.0.113.8", 1))), 1, b"x")["connection"] not in numbers


def call(connection: Connection, stream: int, message: bytes) -> dict[str, object]:
    """One call from start to end; what the application saw."""
    connection.headers(stream, CALL)
    connection.data(stream, message, end=True)
    what = seen(connection.fields(connection.receive()))
    while not (frame := connection.receive()).flags & h2frames.END_STREAM:
        assert frame.payload == message
    connection.fields(frame)
    return what


def test_a_big_message_passes_whole(rigs: RigFactory) -> None:
    """Beyond every window of flow control."""
    with grpc(rigs).connect() as client:
        connection = dial(client)
        connection.headers(1, CALL)
        connection.receive()
        sent = got = 0
        while sent < 2_000_000:
            connection.data(1, bytes(16384))
            sent += 16384
            while got < sent:
                got += len(connection.receive().payload)
        assert got == sent


def test_a_call_that_the_client_gives_up_is_given_up_behind(rigs: RigFactory) -> None:
    rig = grpc(rigs)
    with rig.connect() as client:
        connection = dial(client)
        connection.headers(1, CALL)
        connection.receive()
        connection.send(h2frames.RST_STREAM, 0, 1, (8).to_bytes(4, "big"))
        assert call(connection, 3, b"next")


@pytest.mark.parametrize(
    "headers",
    [
        [*CALL, ("content-length", "5"), ("content-length", "6")],
        [*CALL, ("transfer-encoding", "chunked")],
        [*CALL, ("connection", "x-forwarded-for")],
        [*CALL, ("x-a", "b\r\nx-forwarded-for: 1.1.1.1")],
        [*CALL, ("X-Forwarded-For", "1.1.1.1")],
        [*CALL, ("x-a:x-forwarded-for", "1.1.1.1")],
        [(":method", "POST / HTTP/1.1\r\nX-A: b"), *CALL[1:]],
    ],
)
def test_headers_that_http_1_would_read_otherwise_are_refused(rigs: RigFactory, headers: Headers) -> None:
    rig = grpc(rigs)
    with rig.connect() as client:
        connection = dial(client)
        connection.headers(1, headers)
        connection.data(1, b"hello", end=True)
        frame = connection.receive()
        assert frame is None or frame.kind == h2frames.RST_STREAM or dict(connection.fields(frame))[":status"] == "400"


def test_an_application_without_http_2_is_not_spoken_to_in_http_1(rigs: RigFactory) -> None:
    """As without the sidecar: who speaks HTTP/2 by prior knowledge knows the application."""
    rig = rigs(redirect(), app=("::", "7000"), program=HTTP_APP)
    with rig.connect() as client:
        connection = dial(client)
        connection.headers(1, CALL)
        connection.data(1, b"x", end=True)
        frame = connection.receive()
        assert frame is None or frame.kind == h2frames.RST_STREAM or dict(connection.fields(frame))[":status"][0] == "5"
    assert '"x-forwarded-for' not in rig.lab.log("app")


def test_curl_by_prior_knowledge(rigs: RigFactory) -> None:
    command = ["curl", "-sS", "--max-time", "60", "--http2-prior-knowledge", "--haproxy-protocol", "-d", "hello", "-D-"]
    done = grpc(rigs).lab.lb.run([*command, "http://10.77.3.2:7000/"], capture_output=True)
    assert done.returncode == 0, done.stderr
    assert "10.77.1.2" in done.stdout
    assert "\n\nhellogrpc-status: 0" in done.stdout.replace("\r", "")
