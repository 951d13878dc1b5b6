"""Outgoing requests get their headers, exactly, and are otherwise what the application sent."""

import json
import os
import time

import pytest

from srcip_proxy.plan import PortRange
from support import h2frames
from support.h2frames import PREFACE, SETTINGS, Connection, Headers
from support.outbound_servers import HTTP, HTTP2, UNLISTED, Leave
from support.rig import LB4, LB6, OTHER4, OTHER6, POD4, POD6
from support.web import get, read

pytestmark = pytest.mark.dataplane
HOSTNAME = "pod"
"""Of the lab's Pod."""
CALL: Headers = [(":method", "POST"), (":scheme", "http"), (":path", "/echo"), (":authority", "app.example")]
ODD = 'it\'s "100%" %[src] ${HOME} $HOME {b} \\n #a; %% %ci'


@pytest.mark.parametrize(("to", "source"), [(OTHER4, POD4), (OTHER6, POD6), (LB4, POD4), (LB6, POD6)])
@pytest.mark.parametrize("port", [80, HTTP, HTTP + 1])
def test_a_request_gets_its_headers_and_goes_where_it_was_to_go(leave: Leave, to: str, source: str, port: int) -> None:
    """Two hosts, four addresses, one port or another; the server sees the Pod, and everything else as it was sent."""
    host = f"{to}:{port}"
    out = leave(outbound_headers=(("X-Team", "shop"),), outbound_client_hostname="default")
    lines = ("Accept: */*", "X-Forwarded-For: 192.0.2.9", "X-Client-Hostname: mine", "x-team: theirs", "X-TEAM: again")
    saw = out.ask(get("/a?b=c%20d", *lines).replace(b"app.example", host.encode()), port, to)
    assert saw.facts["peer"][0] == source
    assert saw.facts["head"] == [
        "GET /a?b=c%20d HTTP/1.1",
        f"host: {host}",
        "accept: */*",
        "x-team: shop",
        f"x-forwarded-for: {POD4}",
        f"x-client-hostname: {HOSTNAME}",
    ]


def test_each_value_can_be_stated(leave: Leave) -> None:
    out = leave(outbound_forwarded_for="2001:db8::1, unknown", outbound_client_hostname="shop.example")
    saw = out.ask(get("/", "X-Forwarded-For: 1.1.1.1"))
    assert saw.all("x-forwarded-for") == ["2001:db8::1, unknown"]
    assert saw.all("x-client-hostname") == ["shop.example"]


def test_what_is_not_asked_for_stays_the_applications(leave: Leave) -> None:
    """An empty value takes the header away."""
    out = leave(outbound_forwarded_for="", outbound_headers=(("X-Gone", ""),))
    saw = out.ask(get("/", "X-Forwarded-For: 1.1.1.1", "X-Client-Hostname: mine", "X-Gone: a", "X-Gone: b"))
    assert (saw.all("x-forwarded-for"), saw.all("x-client-hostname")) == (["1.1.1.1"], ["mine"])
    assert saw.all("x-gone") == []


def test_no_value_is_more_than_text(leave: Leave) -> None:
    """Quotes, expressions and variables of HAProxy and of a shell come out as they went in, in every header."""
    some = tuple((f"X-{number}", ODD + str(number)) for number in range(3))
    out = leave(outbound_headers=some, outbound_forwarded_for=ODD, outbound_client_hostname="default of ${HOSTNAME}")
    saw = out.ask(get())
    assert [saw.all(name) for name, _ in some] == [[value] for _, value in some]
    assert saw.all("x-forwarded-for") == [ODD]
    assert saw.all("x-client-hostname") == ["default of ${HOSTNAME}"]


def test_headers_above_haproxys_own_room_fit_behind_any_body(leave: Leave) -> None:
    """As many and as long as a plan may have, before a head of 8 kB and a body that fills each buffer."""
    many = tuple((f"X-Long-{number}", f"{number:02}" + "v" * 1022) for number in range(32))
    out = leave(outbound_headers=many)
    body = os.urandom(300_000)
    for request in (get(method="POST", body=body), get("/", "Cookie: " + "c" * 8192), get()):
        saw = out.ask(request)
        assert [saw.all(name) for name, _ in many] == [[value] for _, value in many]


@pytest.mark.parametrize("port", [UNLISTED])
def test_a_port_that_is_not_listed_stays_native(leave: Leave, port: int) -> None:
    out = leave()
    saw = out.ask(get("/", "X-Forwarded-For: 1.1.1.1"), port)
    assert saw.facts["head"][1:] == ["Host: app.example", "X-Forwarded-For: 1.1.1.1"]


@pytest.mark.parametrize("to", [POD4, POD6, "127.0.0.1", "::1", "169.254.77.1", "fd73:7263:6970::1"])
def test_the_pod_itself_is_reached_directly(leave: Leave, to: str) -> None:
    saw = leave().ask(get("/", "X-Forwarded-For: 1.1.1.1"), HTTP, to)
    assert saw.facts["head"][1:] == ["Host: app.example", "X-Forwarded-For: 1.1.1.1"]


def test_every_request_of_a_connection_gets_them(leave: Leave) -> None:
    """Over one connection to the server, whatever the requests are like."""
    with leave().connect() as client:
        for number in range(200):
            body = b"x" * (number * 100)
            client.send(get(f"/{number}", "X-Forwarded-For: 1.1.1.1", method="PUT", body=body))
            saw = read(client)
            assert (saw.all("x-forwarded-for"), saw.facts["request"]) == ([POD4], number + 1)
            assert saw.facts["length"] == len(body)


def test_two_requests_at_once_are_answered_in_order(leave: Leave) -> None:
    with leave().connect() as client:
        client.send(get("/one", "X-Forwarded-For: 1.1.1.1") + get("/two", "X-Forwarded-For: 1.1.1.1"))
        file = client.sock.makefile("rb")
        for path in ("/one", "/two"):
            head = b"".join(iter(file.readline, b"\r\n"))
            facts = json.loads(file.read(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])))
            assert facts["head"][0] == f"GET {path} HTTP/1.1"
            assert [line for line in facts["head"] if "forwarded" in line] == [f"x-forwarded-for: {POD4}"]


def test_two_connections_of_the_application_never_share_one(leave: Leave) -> None:
    """The server sees as many connections as the application makes."""
    out = leave()
    found = []
    for _ in range(5):
        with out.connect() as client:
            for _ in range(3):
                client.send(get())
                found.append(read(client).facts["connection"])
    assert [found.count(number) for number in dict.fromkeys(found)] == [3] * 5


@pytest.mark.parametrize("to", [OTHER4, OTHER6])
def test_http_2_by_prior_knowledge(leave: Leave, to: str) -> None:
    """The server is spoken to in HTTP/2 as well, and every stream gets the headers."""
    with leave().connect(HTTP2, to) as client:
        client.send(PREFACE)
        connection = Connection(client.sock)
        connection.send(SETTINGS, 0, 0)
        for stream in (1, 3, 5):
            connection.headers(stream, [*CALL, ("x-forwarded-for", "1.1.1.1"), ("te", "trailers")])
            frame = connection.receive()
            seen = json.loads(dict(connection.fields(frame))["x-seen"])
            fields = [tuple(pair) for pair in seen["head"]]
            assert [value for name, value in fields if name == "x-forwarded-for"] == [POD4]
            assert (":authority", "app.example") in fields
            connection.data(stream, b"question", end=True)
            assert connection.receive().payload == b"question"
            assert (connection.receive().kind, seen["connection"]) == (h2frames.HEADERS, seen["connection"])


def test_http_2_in_pieces_is_http_2(leave: Leave) -> None:
    """Its preface begins like a request, and need not come at once."""
    with leave().connect(HTTP2) as client:
        for at in range(len(PREFACE)):
            client.send(PREFACE[at : at + 1])
            time.sleep(0.002)
        connection = Connection(client.sock)
        connection.send(SETTINGS, 0, 0)
        connection.headers(1, CALL, end=True)
        assert b"x-forwarded-for" in dict(connection.fields(connection.receive()))["x-seen"].encode()


@pytest.mark.parametrize("port", [HTTP, 8009])
def test_a_server_without_http_2_is_no_answer_to_it(leave: Leave, port: int) -> None:
    """The sidecar does not translate, and writes no page of its own: the request is reset, whether the server speaks
    HTTP/1 alone or refuses."""
    with leave().connect(port) as client:
        client.send(PREFACE)
        connection = Connection(client.sock)
        connection.send(SETTINGS, 0, 0)
        connection.headers(1, CALL, end=True)
        frame = connection.receive()
        assert frame
        assert (frame.kind, frame.stream) == (h2frames.RST_STREAM, 1)


@pytest.mark.parametrize("url", [f"http://{OTHER4}:{HTTP}/", f"http://[{OTHER6}]:{HTTP}/"])
def test_curl_sees_nothing_of_it(leave: Leave, url: str) -> None:
    """A real client that keeps its connection."""
    urls = [f"{url}{number}" for number in range(3)]
    done = leave().rig.lab.pod.run(["curl", "-gsS", "--fail", "--max-time", "60", *urls], capture_output=True)
    assert done.stdout.count(f'"x-forwarded-for: {POD4}"') == 3, done.stderr


def test_many_ports_and_both_families_have_one_port_each(leave: Leave) -> None:
    """A plan with as many ports as it may have leads each to its own."""
    out = leave(outbound_ports=(PortRange(6000, 8010),))
    for to in (OTHER4, OTHER6):
        assert out.ask(get(), HTTP + 1, to).all("x-forwarded-for") == [POD4]
    assert out.ask(get(), UNLISTED).all("x-forwarded-for") == []
