"""On an HTTP port: what is a request is read by the rules or refused, and what cannot be one passes or is refused."""

import ssl
import struct
import time
from contextlib import suppress

import pytest

from support.rig import CLIENT4, HTTP_APP, SHORT, TLS_APP, Rig, RigFactory, plan, v1, v2
from support.waiting import AT_ONCE_S, DEADLINE_S
from support.web import ask, get, read, redirect, web

pytestmark = pytest.mark.dataplane


def client_hello(random: bytes = bytes(range(128, 160)), session: bytes = b"") -> bytes:
    """A TLS 1.2 ClientHello that offers http/1.1 (RFC 5246, section 7.4.1.2)."""
    alpn = b"\0\x10\0\x0b\0\x09\x08http/1.1"
    body = b"\x03\x03" + random + bytes([len(session)]) + session + b"\0\x02\x13\x01\x01\0"
    body += struct.pack(">H", len(alpn)) + alpn
    hello = b"\x01" + struct.pack(">I", len(body))[1:] + body
    return b"\x16\x03\x01" + struct.pack(">H", len(hello)) + hello


TLS = client_hello()
PASSING = [
    TLS,
    client_hello(random=b"\n" * 32),
    b"SSH-2.0-OpenSSH_9.9\r\n",
    b"EHLO mail.example\r\n",
    b"*1\r\n$4\r\nPING\r\n",
    b"a1 LOGIN user pass\r\n",
]
BINARY = [b"\x16", b"\x00\x00\x00\x08\x04\xd2\x16\x2f", b"\xff\xfe", b"\x10\x0c\x00\x04MQTT", TLS[:30]]
"""What may go on with anything: of PostgreSQL, MQTT, and half of a ClientHello."""
NOT_HTTP = [*PASSING, *BINARY[:4]]
FORGED = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n"
DISGUISED = {
    **{f"{byte:#04x} before it": bytes([byte]) + FORGED for byte in (*range(1, 10), 11, 12, *range(14, 32))},
    **{f"{byte:#04x} before it": bytes([byte]) + FORGED for byte in (0, 40, 41, 64, 123, 127, 133, 160, 255)},
    "a word of bytes for a method": b"\xff\xfe / HTTP/1.1\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n",
    "a method in brackets": b"(GET) / HTTP/1.1\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n",
    "another space": b"\xffX\xa0/\x0bHTTP/1.1\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n",
    "a ClientHello for a method": client_hello(session=b" / HTTP/1.1\r\nX-Forwarded-For: 6.6"),
    "a ClientHello in small letters": client_hello(session=b"\x0b/\x0bhttp/1.0\n"),
    "no ClientHello": b"\x16\x03\x01\x02\x00\x01 / HTTP/1.1\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n",
    "a header in a ClientHello": client_hello(session=b" /a b\r\nX-Forwarded-For: 6.6\r\n"),
    "a line that ends in LF alone": b"EHLO a\nx / HTTP/1.1\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n",
    "a line that ends in CR alone": b"EHLO a\rx / HTTP/1.1\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n",
    "an old request": b"\x0bGET /\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n",
    "an absolute target": b"\xa0FOO http://a/\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n",
    "a target with a scheme": b"FOO x:/ y\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n",
    "a long line": b"a" * 9000 + b"1\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n",
    "blanks alone": b" \t \r\n" + b"FOO x:/ y\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n",
    "a star": b"\x1cOPTIONS * \r\nX-Forwarded-For: 6.6.6.6\r\n\r\n",
    "blanks first": b"\x0b\x0c \r\n" + FORGED,
}
MALFORMED = {
    "no version": b"GET /\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n",
    "no version, other method": b"FOO /\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n",
    "small method": b"get / http/1.1\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n",
    "space first": b" GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "no target": b"GET HTTP/1.1\r\nHost: a\r\n\r\n",
    "control character": b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
    "zero byte": b"GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n",
    "CR alone": b"GET / HTTP/1.1\rX: y\r\nHost: a\r\n\r\n",
    "space before colon": b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For : 1.1.1.1\r\n\r\n",
    "no colon": b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For\r\n\r\n",
    "empty name": b"GET / HTTP/1.1\r\nHost: a\r\n: 1.1.1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "PROXY line": b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "PROXY header": v2(("1.1.1.1", 1)) + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
}
ODD = {
    "two spaces": b"GET  / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n",
    "tab": b"GET\t/\tHTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n",
    "other version": b"GET / HTTP/3.0\r\nHost: a\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n",
}
AMBIGUOUS = {
    "two lengths": (b"Content-Length: 5\r\nContent-Length: 6\r\n", b"hello!"),
    "two lengths in one": (b"Content-Length: 5, 6\r\n", b"hello!"),
    "signed length": (b"Content-Length: +5\r\n", b"hello"),
    "negative length": (b"Content-Length: -5\r\n", b"hello"),
    "hexadecimal length": (b"Content-Length: 0x5\r\n", b"hello"),
    "length with a letter": (b"Content-Length: 5a\r\n", b"hello"),
    "empty length": (b"Content-Length: \r\n", b"hello"),
    "huge length": (b"Content-Length: 99999999999999999999999\r\n", b"hello"),
    "unknown coding": (b"Transfer-Encoding: cow\r\n", b"0\r\n\r\n"),
    "chunked not last": (b"Transfer-Encoding: chunked, identity\r\n", b"0\r\n\r\n"),
    "chunked twice": (b"Transfer-Encoding: chunked, chunked\r\n", b"0\r\n\r\n"),
    "chunked in two lines": (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    "hidden coding": (b"Transfer-Encoding: \x0bchunked\r\n", b"0\r\n\r\n"),
    "coding with a space": (b"Transfer-Encoding : chunked\r\n", b"0\r\n\r\n"),
}
CHUNKS = {
    "no number": b"x\r\nhello\r\n0\r\n\r\n",
    "0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "sign": b"+5\r\nhello\r\n0\r\n\r\n",
    "overflow": b"FFFFFFFFFFFFFFFFF5\r\nhello\r\n0\r\n\r\n",
    "CR alone": b"5\rhello\r\n0\r\n\r\n",
    "too short": b"4\r\nhello\r\n0\r\n\r\n",
    "too long": b"6\r\nhello\r\n0\r\n\r\n",
    "empty": b"\r\nhello\r\n0\r\n\r\n",
}
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n"


def requests(rig: Rig) -> str:
    """What the application has read so far."""
    return "\n".join(line for line in rig.lab.log("app").splitlines() if line.startswith("request"))


@pytest.mark.parametrize("data", PASSING[2:])
def test_what_is_no_http_passes_at_once_if_told_so(rigs: RigFactory, data: bytes) -> None:
    """Untouched, in both directions, without waiting for the time of the header."""
    rig = rigs(redirect(http_other="pass"))
    with rig.connect() as client:
        started = time.monotonic()
        client.send(v2() + data)
        assert client.seen(rest=len(data)).rest == data
        assert time.monotonic() - started < AT_ONCE_S
        client.send(get())
        assert client.seen(rest=len(data + get())).rest == data + get()


@pytest.mark.parametrize("data", PASSING[:2])
def test_what_follows_a_client_hello_waits_for_an_answer_in_tls(rigs: RigFactory, data: bytes) -> None:
    """An application that speaks something else never gets it: it could be the end of a request's first line."""
    rig = rigs(redirect(http_other="pass"))
    for pieces in ([data + get()], [data, get()]):
        with rig.connect() as client:
            client.send(v2())
            for piece in pieces:
                client.send(piece)
                time.sleep(0.1)
            assert client.seen(rest=len(data), quiet=0.5).rest == data


@pytest.mark.parametrize("emit", ["off", "v1"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_an_application_that_ends_tls_itself_is_reached(rigs: RigFactory, version: ssl.TLSVersion, emit: str) -> None:
    """Every byte after the handshake, both ways, with or without a fresh PROXY header before it."""
    rig = rigs(redirect(http_other="pass", emit_proxy_protocol=emit), app=("::", "7000"), program=TLS_APP)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    line = b"x" * 1_000_000 + b"\n"
    client = rig.connect()
    client.send(v2())
    with context.wrap_socket(client.sock, server_hostname="app.example") as tls, tls.makefile("rb") as file:
        tls.sendall(line)
        assert (int(file.readline()) > 0, file.readline()) == (emit == "v1", line)


@pytest.mark.parametrize("data", NOT_HTTP)
def test_what_is_no_http_is_refused(rigs: RigFactory, data: bytes) -> None:
    rig = rigs(redirect(**SHORT))
    before = rig.metric('srcip_refused_connections_total{reason="not_http"}')
    with rig.at_once(v2() + data) as client:
        assert client.seen().refused
    assert rig.metric('srcip_refused_connections_total{reason="not_http"}') == before + 1
    rig.waited("reason=not_http")


@pytest.mark.parametrize("data", BINARY)
def test_what_may_still_become_a_request_does_not_pass(rigs: RigFactory, data: bytes) -> None:
    rig = rigs(redirect(http_other="pass", **SHORT))
    before = rig.accepted()
    with rig.connect() as client:
        client.send(v2() + data)
        time.sleep(0.2)
        with suppress(OSError):
            client.send(b" / HTTP/1.1\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n")
        assert client.seen().peer is None
    assert rig.accepted() == before


@pytest.mark.parametrize("policy", ["refuse", "pass"])
@pytest.mark.parametrize("case", DISGUISED)
def test_a_request_in_disguise_never_reaches_the_application(rigs: RigFactory, case: str, policy: str) -> None:
    """With what some server takes for a space before it, or for a method; whole, and byte by byte."""
    rig = rigs(redirect(http_other=policy, **SHORT), app=("::", "7000"), program=HTTP_APP)
    before = rig.accepted()
    for bytewise in (False, True) if policy == "pass" and len(DISGUISED[case]) < 60 else (False,):
        with rig.connect() as client:
            client.send(v2())
            with suppress(OSError):  # it is refused before it is whole
                client.send(DISGUISED[case], bytewise=bytewise)
            client.seen(quiet=0.01)
            assert client.got == b"" or client.got.startswith(b"HTTP/1.1 400 ")
    assert rig.accepted() == before


@pytest.mark.parametrize("target", ["a:443", "127.0.0.1:7000", "/"])
def test_no_tunnel_is_opened(rigs: RigFactory, target: str) -> None:
    """Behind it, requests would be the client's own."""
    rig = web(rigs)
    before = rig.accepted()
    saw = ask(rig, f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    assert (saw.status in (400, 405), rig.accepted()) == (True, before)


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_request_never_reaches_the_application(rigs: RigFactory, case: str) -> None:
    """A lenient server might take it for a request and believe its headers."""
    rig = web(rigs, **SHORT)
    before = rig.accepted()
    with rig.at_once(v2() + MALFORMED[case]) as client:
        assert (read(client).status, rig.accepted()) == (400, before)


@pytest.mark.parametrize("case", ODD)
def test_an_odd_request_is_made_a_plain_one(rigs: RigFactory, case: str) -> None:
    saw = ask(web(rigs), ODD[case])
    assert saw.facts["head"][0].split(" ")[:2] == ["GET", "/"]
    assert saw.all("x-forwarded-for") == [CLIENT4[0]]


@pytest.mark.parametrize("gap", [0.05, 0.9])
@pytest.mark.parametrize("cut", [1, 3, 14, 18, 40])
def test_a_slow_request_is_read_like_any_other(rigs: RigFactory, cut: int, gap: float) -> None:
    """Also when it takes longer than the time for the header: patience forges nothing."""
    rig = web(rigs, **SHORT)
    request = get("/", "X-Forwarded-For: 1.1.1.1")
    with rig.at_once(v2() + request[:cut]) as client:
        time.sleep(gap)
        client.send(request[cut:])
        assert read(client).written()["X-Forwarded-For"] == CLIENT4[0]


@pytest.mark.parametrize("header", [v1, v2])
def test_a_silent_connection_is_kept_for_its_first_request(rigs: RigFactory, header) -> None:
    """A browser connects in advance; the first request may come long after the header."""
    rig = web(rigs, **SHORT)
    with rig.at_once(header()) as client:
        time.sleep(1.2)
        client.send(get("/", "X-Forwarded-For: 1.1.1.1"))
        assert read(client).written()["X-Forwarded-For"] == CLIENT4[0]


def test_empty_lines_before_a_request_change_nothing(rigs: RigFactory) -> None:
    saw = ask(web(rigs), b"\r\n\r\n" + get("/", "X-Forwarded-For: 1.1.1.1"))
    assert saw.status == 400 or saw.written()["X-Forwarded-For"] == CLIENT4[0]


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_an_ambiguous_request_is_refused(rigs: RigFactory, case: str) -> None:
    rig = web(rigs)
    headers, body = AMBIGUOUS[case]
    before = requests(rig)
    saw = ask(rig, b"POST /x HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\n" + body + SMUGGLED)
    assert saw.status in (400, 422, 501), saw
    time.sleep(0.05)
    assert requests(rig) == before


@pytest.mark.parametrize("case", CHUNKS)
def test_a_broken_chunk_ends_the_request(rigs: RigFactory, case: str) -> None:
    """The application may have seen its head, but never what comes after it as a request."""
    rig = web(rigs)
    with rig.connect() as client:
        client.send(v2() + get(f"/{case.replace(' ', '')}", "Transfer-Encoding: chunked", method="POST") + CHUNKS[case])
        client.send(SMUGGLED)
        data = b"".join(iter(lambda: receive(client), b""))
    assert b"/smuggled" not in data
    assert "/smuggled" not in requests(rig)
    assert not data.startswith(b"HTTP/1.1 200")


def receive(client) -> bytes:
    client.sock.settimeout(DEADLINE_S)
    try:
        return client.sock.recv(65536)
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize("order", [0, 1])
def test_a_length_beside_chunks_has_no_meaning_and_ends_the_connection(rigs: RigFactory, order: int) -> None:
    """RFC 9112, section 6.1: chunks win. The application gets chunks alone, and nothing behind them is a request."""
    rig = web(rigs)
    lines = ["Content-Length: 6", "Transfer-Encoding: chunked"]
    with rig.connect() as client:
        client.send(v2() + get("/both", *(lines if order else lines[::-1]), method="POST") + b"0\r\n\r\n" + SMUGGLED)
        saw = read(client)
        assert (saw.all("content-length"), saw.all("transfer-encoding")) == ([], ["chunked"])
        assert receive(client) == b""
    assert "/smuggled" not in requests(rig)


def test_a_folded_header_is_one_line_or_refused(rigs: RigFactory) -> None:
    """No line of it is a header of its own."""
    saw = ask(web(rigs), get("/", "X-Other: a\r\n X-Forwarded-For: 1.1.1.1"))
    assert saw.status == 400 or saw.all("x-forwarded-for") == [CLIENT4[0]]


def test_trailers_of_a_request_do_not_replace_headers(rigs: RigFactory) -> None:
    body = b"2\r\nab\r\n0\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n"
    saw = ask(web(rigs), get("/", "Transfer-Encoding: chunked", method="POST") + body)
    assert saw.all("x-forwarded-for") == [CLIENT4[0]]


def test_an_optional_header_and_a_request_may_come_in_any_pieces(rigs: RigFactory) -> None:
    rig = web(rigs, proxy_protocol="optional")
    for data, client in ((v2() + get(), CLIENT4[0]), (v1() + get(), CLIENT4[0]), (get(), "10.77.1.2")):
        with rig.connect() as one:
            one.send(data, bytewise=True)
            assert read(one).written()["X-Forwarded-For"] == client


def test_a_tproxy_pod_knows_nothing_of_http(rigs: RigFactory) -> None:
    """Bytes stay bytes there."""
    assert rigs(plan()).seen(v2() + get("/", "X-Forwarded-For: 1.1.1.1")).rest == get("/", "X-Forwarded-For: 1.1.1.1")
