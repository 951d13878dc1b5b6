"""The request of `srcip lab send --http`, and how its response is read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srcip_lab.errors import LabError
from srcip_lab.http_message import Request, request, response


def asked(method: str = "GET", path: str = "/", headers: tuple[str, ...] = (), body: bytes = b"") -> Request:
    return Request(method, path, headers, body)


def test_a_request_names_its_host_and_ends_its_connection():
    assert request(asked(), "10.77.3.2", 8080) == b"GET / HTTP/1.1\r\nHost: 10.77.3.2:8080\r\nConnection: close\r\n\r\n"


def test_an_ipv6_host_is_in_brackets():
    assert b"\r\nHost: [fd77::2]:80\r\n" in request(asked(), "fd77::2", 80)


def test_headers_go_out_in_their_order_and_replace_what_would_be_added():
    """Also twice the same, as somebody who tries a forgery wants it."""
    headers = ("X-A: 1", "x-a:2", "host: example.org", "Content-Length:  3 ", "Connection: keep-alive", "X-Empty:")
    lines = request(asked("POST", "/a?b=%20", headers, b"abc"), "10.77.3.2", 80).split(b"\r\n")
    assert lines == [
        b"POST /a?b=%20 HTTP/1.1",
        b"X-A: 1",
        b"x-a: 2",
        b"host: example.org",
        b"Content-Length: 3",
        b"Connection: keep-alive",
        b"X-Empty: ",
        b"",
        b"abc",
    ]


def test_a_body_has_its_length():
    assert request(asked(body=b"a\r\n\x00"), "10.77.3.2", 80).endswith(b"\r\nContent-Length: 4\r\n\r\na\r\n\x00")


def test_every_fault_of_a_request_is_told_at_once():
    bad = asked("GET /", "here", ("no colon", "X A: b", "X-A: b\r\nX-B: c", "X-Fine: d"))
    with pytest.raises(LabError) as error:
        request(bad, "10.77.3.2", 80)
    assert [each.partition(":")[0] for each in error.value.errors] == ["--method", "--path", *["--header"] * 3]


@given(st.text(), st.text(), st.text())
def test_no_text_becomes_a_second_line(method: str, path: str, line: str) -> None:
    try:
        raw = request(asked(method, path, (line,)), "10.77.3.2", 80)
    except LabError:
        return
    head, _, body = raw.partition(b"\r\n\r\n")
    assert body == b""
    assert len(head.splitlines()) <= 4
    assert head.count(b"\n") == head.count(b"\r\n")


PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: 1\r\nX-A: 2\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
UNTIL_THE_END = b"HTTP/1.0 502 Bad Gateway\r\nX-A: 1\r\n\r\nhello"


def test_a_response_reads_as_status_headers_and_body():
    read = response(PLAIN, "GET", closed=False)
    assert read is not None
    assert read.text == b"HTTP/1.1 200 OK\nContent-Length: 5\nX-A: 1\nX-A: 2\n\nhello"


def test_chunks_are_taken_out_of_the_body():
    read = response(CHUNKED, "GET", closed=False)
    assert read is not None
    assert read.body == b"hello"


def test_an_interim_response_is_not_the_final_one():
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    assert response(interim, "GET", closed=False) is None
    read = response(interim + PLAIN, "GET", closed=False)
    assert read is not None
    assert read.status == "HTTP/1.1 200 OK"


def test_a_body_without_length_ends_with_its_connection():
    assert response(UNTIL_THE_END, "GET", closed=False) is None
    read = response(UNTIL_THE_END, "GET", closed=True)
    assert read is not None
    assert (read.status, read.body) == ("HTTP/1.0 502 Bad Gateway", b"hello")


def test_a_response_to_head_has_no_body():
    head = PLAIN.removesuffix(b"hello")
    assert response(head, "HEAD", closed=False) is not None
    assert response(head, "GET", closed=False) is None


@pytest.mark.parametrize("whole", [PLAIN, CHUNKED.removesuffix(b"0\r\n\r\n")])
def test_no_part_that_lacks_some_of_the_body_counts_as_whole(whole: bytes) -> None:
    assert [cut for cut in range(len(whole)) if response(whole[:cut], "GET", closed=False)] == []


@pytest.mark.parametrize("raw", [b"220 mail\r\n", b"\x16\x03\x01", b"HTTP/x y\r\n\r\n", b"HTTP/1.1\r\n\r\n"])
def test_what_is_no_response_is_told(raw: bytes) -> None:
    with pytest.raises(LabError, match="not HTTP"):
        response(raw, "GET", closed=True)


@given(st.binary(), st.booleans())
def test_any_bytes_are_read_or_told(tail: bytes, closed: bool) -> None:
    for raw in (tail, b"HTTP/1.1 200 OK\r\n" + tail + b"\r\n\r\n" + tail, PLAIN[:40] + tail):
        try:
            response(raw, "GET", closed=closed)
        except LabError as error:
            assert error.errors
