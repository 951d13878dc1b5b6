"""HTTP in redirect mode: each request says who its client is, whatever the client says, and is otherwise as it was."""

import hashlib
import os
import threading
import time

import pytest

from srcip_proxy.haproxy.http_headers import CLAIMS
from support.rig import CLIENT4, LB6, POD6, SHORT, Client, Rig, RigFactory, has_ended, v2
from support.waiting import AT_ONCE_S, DEADLINE_S, until
from support.web import ALL, ask, get, read, web

pytestmark = pytest.mark.dataplane

HELD_S = 0.2
"""Half of what Nagle's algorithm and delayed acknowledgements take together for a piece's way there and back."""

FORGED = [
    "X-Forwarded-For: 1.1.1.1",
    "x-forwarded-for: 2.2.2.2, 3.3.3.3",
    "X_Forwarded_For: 4.4.4.4",
    "X-Forwarded_For: 5.5.5.5",
    "X.Forwarded.For: 6.6.6.6",
    "X-Real-IP: 7.7.7.7",
    "X_REAL_IP: 7.7.7.8",
    "Forwarded: for=8.8.8.8;by=8.8.4.4",
    "Forwarded: for=9.9.9.9",
    "X-Forwarded-Port: 1",
    "X-Forwarded-Proto: https",
    "X-Client-IP: 10.10.10.10",
    "True-Client-IP: 10.10.10.11",
    "CF-Connecting-IP: 10.10.10.12",
    "Client_IP: 10.10.10.13",
    "X-Cluster-Client-IP: 10.10.10.14",
]
TRUE4 = {
    "X-Forwarded-For": CLIENT4[0],
    "X-Real-IP": CLIENT4[0],
    "X-Forwarded-Port": "25",
    "X-Forwarded-Proto": "http",
    "Forwarded": f"for={CLIENT4[0]};proto=http",
}


def test_no_spelling_of_a_client_comes_through(rigs: RigFactory) -> None:
    """Every line, in every spelling that an application may take for the header, and no other header."""
    saw = ask(web(rigs), get("/", *FORGED, "X-Other: kept", "Accept: */*", "X-Forwarded-Host: a.example"))
    assert saw.written() == TRUE4
    assert [name for name, _ in saw.headers] == [
        "host",
        "x-other",
        "accept",
        "x-forwarded-host",
        *(name.lower() for name in ALL),
    ]


@pytest.mark.parametrize("spelling", [str.lower, str.title, lambda name: name.replace("-", "_").upper()])
def test_no_other_name_of_a_client_comes_through(rigs: RigFactory, spelling) -> None:
    """Each name that a framework or a CDN reads a client from, in pieces that HAProxy takes in one request."""
    for start in range(0, len(CLAIMS), 30):
        claims = [f"{spelling(name)}: 6.6.6.6" for name in CLAIMS[start : start + 30]]
        saw = ask(web(rigs), get("/", *claims))
        assert saw.written() == TRUE4
        assert "6.6.6.6" not in str(saw.headers)


def test_other_names_go_if_told_so(rigs: RigFactory) -> None:
    rig = web(rigs, remove_headers=("X-Our-Client", "X_Tenant"))
    saw = ask(rig, get("/", "X-Our-Client: 6.6.6.6", "x_our_client: 6.6.6.6", "X-Tenant: a", "X-Our-Clients: kept"))
    assert saw.written() == TRUE4
    assert [name for name, _ in saw.headers if name.startswith("x-") and "forwarded" not in name] == [
        "x-our-clients",
        "x-real-ip",
    ]


def test_half_a_request_has_a_time(rigs: RigFactory) -> None:
    """Twenty clients that never end their headers take the room of others for that time only."""
    rig, began = web(rigs, max_connections=20, request_timeout_ms=1000, **SHORT), time.monotonic()
    with rig.paused():  # no header comes too late
        slow = [rig.connect() for _ in range(20)]
        for client in slow:
            client.send(v2() + b"GET / HTTP/1.1\r\nHost: a\r\n")
    with rig.at_once(v2() + get("/")) as other:
        assert read(other).written() == TRUE4
    assert 0.9 < time.monotonic() - began < AT_ONCE_S
    for client in slow:
        assert client.end().end in ("end", "reset")
        client.sock.close()


@pytest.mark.parametrize("begun", [b"", b"G", get()[:-2]], ids=["nothing", "a byte", "all but its end"])
def test_a_request_that_is_not_whole_counts_as_one_of_its_client(rigs: RigFactory, begun: bytes) -> None:
    """From the PROXY header on: twenty of one client take five places, and others find room at once."""
    rig = web(rigs, max_connections=20, max_connections_per_client=5, **SHORT)
    refused = rig.metric('srcip_refused_connections_total{reason="too_many"}')
    with rig.paused():  # no header comes too late
        slow = [rig.connect() for _ in range(20)]
        for client in slow:
            client.send(v2() + begun)
    until(lambda: has_ended(slow) == 15)
    began = time.monotonic()
    with rig.at_once(v2(("203.0.113.8", 1)) + get()) as other:
        assert read(other).status == 200
    assert time.monotonic() - began < AT_ONCE_S
    assert [client.seen(timeout=0.01).end for client in slow].count("reset") == 15
    assert rig.metric('srcip_refused_connections_total{reason="too_many"}') == refused + 15
    for client in slow:
        client.sock.close()


def test_an_idle_connection_has_a_time(rigs: RigFactory) -> None:
    """Then it makes room for others; one that sends requests goes on."""
    rig = web(rigs, max_connections=3, keep_alive_timeout_s=6)
    idle = [rig.connect() for _ in range(2)]
    with rig.connect() as busy:
        for client in (*idle, busy):
            client.send(v2() + get("/"))
            assert read(client).written() == TRUE4
        while has_ended(idle) < 2:
            time.sleep(0.1)
            busy.send(get("/"))
            assert read(busy).written() == TRUE4
        busy.send(get("/"))
        assert read(busy).written() == TRUE4
    for client in idle:
        assert client.seen().end == "end"
        client.sock.close()


def test_connection_cannot_name_a_header_that_the_next_hop_then_takes_away(rigs: RigFactory) -> None:
    saw = ask(web(rigs), get("/", "Connection: close, X-Forwarded-For, X-Real-IP"))
    assert saw.written() == TRUE4
    assert not any("forwarded" in value for value in saw.all("connection"))


@pytest.mark.parametrize("off", [name.lower().removeprefix("x-") for name in ALL])
def test_each_header_can_be_switched_off(rigs: RigFactory, off: str) -> None:
    """What is not written is taken out all the same."""
    words = [
        word for word in ("forwarded-for", "real-ip", "forwarded-port", "forwarded-proto", "forwarded") if word != off
    ]
    rig = web(rigs, http_headers=tuple(words))
    written = ask(rig, get("/", *FORGED)).written()
    assert {name: value for name, value in TRUE4.items() if name.lower().removeprefix("x-") != off} == written


def test_the_list_may_have_another_name(rigs: RigFactory) -> None:
    saw = ask(web(rigs, forwarded_for_header="X-Original_Client"), get("/", "x_original-client: 1.1.1.1", *FORGED))
    assert saw.all("x-original_client") == [CLIENT4[0]]
    assert saw.all("x_original-client") == saw.all("x-forwarded-for") == []


@pytest.mark.parametrize(
    ("lines", "forwarded_for", "forwarded"),
    [
        ([], CLIENT4[0], f"for={CLIENT4[0]};proto=http"),
        (["X-Forwarded-For: 1.1.1.1"], f"1.1.1.1, {CLIENT4[0]}", f"for={CLIENT4[0]};proto=http"),
        (["X-Forwarded-For: 1.1.1.1, 2.2.2.2", "Forwarded: for=1.1.1.1"], f"1.1.1.1, 2.2.2.2, {CLIENT4[0]}",
         f"for=1.1.1.1, for={CLIENT4[0]};proto=http"),
        (["X-Forwarded-For: 1.1.1.1", "A: b", "x-forwarded-for:2.2.2.2", "X-Forwarded-For: ", "Forwarded: for=a",
          "Forwarded: for=b"], f"1.1.1.1, 2.2.2.2, {CLIENT4[0]}", f"for=a, for=b, for={CLIENT4[0]};proto=http"),
        (["X_Forwarded_For: 1.1.1.1"], CLIENT4[0], f"for={CLIENT4[0]};proto=http"),
        (["X-Forwarded-For: "], CLIENT4[0], f"for={CLIENT4[0]};proto=http"),
    ],
)  # fmt: skip
def test_append_puts_the_client_last(rigs: RigFactory, lines: list[str], forwarded_for: str, forwarded: str) -> None:
    """In one line, which is what applications read; X-Real-IP is the client alone."""
    written = ask(web(rigs, forwarded_for="append"), get("/", *lines, "X-Real-IP: 6.6.6.6")).written()
    assert (written["X-Forwarded-For"], written["Forwarded"]) == (forwarded_for, forwarded)
    assert written["X-Real-IP"] == CLIENT4[0]


HOPS = ("10.77.1.0/24", "fd77:0:0:1::/64", "198.51.100.0/24", "2001:db8:aa::/48")
FRONT = ("198.51.100.9", 40000)
"""A trusted proxy that speaks HTTP, in front of the balancer."""


@pytest.mark.parametrize(
    ("client", "lines", "shown"),
    [
        (FRONT, ["X-Forwarded-For: 203.0.113.5"], "203.0.113.5"),
        (FRONT, ["X-Forwarded-For: 1.1.1.1, 203.0.113.5"], "203.0.113.5"),
        (FRONT, ["X-Forwarded-For: 1.1.1.1, 203.0.113.5, 198.51.100.8"], "203.0.113.5"),
        (FRONT, ["X-Forwarded-For: 1.1.1.1, 203.0.113.5", "X-Forwarded-For: 198.51.100.8"], "203.0.113.5"),
        (FRONT, ["X-Forwarded-For: 2001:db8:5::5, 2001:db8:aa::1"], "2001:db8:5::5"),
        (FRONT, ['X-Forwarded-For: "[2001:db8:5::5]:443"'], "2001:db8:5::5"),
        (FRONT, ["X-Forwarded-For: 203.0.113.5:61000"], "203.0.113.5"),
        (FRONT, ["X-Forwarded-For: ::ffff:203.0.113.5"], "203.0.113.5"),
        (FRONT, ["X-Forwarded-For: 198.51.100.7, 198.51.100.8"], "198.51.100.7"),
        (FRONT, ["X-Forwarded-For: 203.0.113.5, unknown"], FRONT[0]),
        (FRONT, ["X-Forwarded-For: 203.0.113.5, 127.0.0.1, 198.51.100.8"], "198.51.100.8"),
        (FRONT, ["X-Forwarded-For: , ,"], FRONT[0]),
        (FRONT, ["X-Forwarded-For: 1.1.1.1\t, 203.0.113.5 "], "203.0.113.5"),
        (FRONT, ["X_Forwarded_For: 203.0.113.5"], FRONT[0]),
        (FRONT, [], FRONT[0]),
        (CLIENT4, ["X-Forwarded-For: 1.1.1.1"], CLIENT4[0]),
        (CLIENT4, ["X-Forwarded-For: 1.1.1.1, 198.51.100.8"], CLIENT4[0]),
        (("2001:db8:aa::9", 4000), ["X-Forwarded-For: 203.0.113.5"], "203.0.113.5"),
    ],
)  # fmt: skip
def test_trusted_walks_from_the_right(rigs: RigFactory, client, lines: list[str], shown: str) -> None:
    """To the first address that no trusted proxy has; only where the connection's own client is trusted. Nothing that
    stands left of it comes through."""
    rig = web(rigs, forwarded_for="trusted", trusted_cidrs=HOPS)
    written = ask(rig, get("/", *lines, "X-Forwarded-Proto: https", "X-Forwarded-Port: 8443"), v2(client)).written()
    believed = client != CLIENT4
    node = f'"[{shown}]"' if ":" in shown else shown
    proto, port = ("https", "8443") if believed else ("http", "25")
    assert written == {
        "X-Forwarded-For": shown,
        "X-Real-IP": shown,
        "X-Forwarded-Port": port,
        "X-Forwarded-Proto": proto,
        "Forwarded": f"for={node};proto={proto}",
    }


@pytest.mark.parametrize("line", ["X-Forwarded-Proto: https\tx", "X-Forwarded-Proto: ws", "X-Forwarded-Port: 1;x"])
def test_even_a_trusted_proxy_states_scheme_and_port_as_such(rigs: RigFactory, line: str) -> None:
    written = ask(web(rigs, forwarded_for="trusted", trusted_cidrs=HOPS), get("/", line), v2(FRONT)).written()
    assert (written["X-Forwarded-Proto"], written["X-Forwarded-Port"]) == ("http", "25")


def test_every_request_of_a_connection_has_the_client(rigs: RigFactory) -> None:
    """10,000 of them, one after the other, over one connection on each side."""
    rig = web(rigs)
    with rig.connect() as client:
        client.send(v2())
        for number in range(10_000):
            client.send(get(f"/{number}", "X-Forwarded-For: 1.1.1.1"))
            if number % 500 == 0:
                saw = read(client)
                assert (saw.written(), saw.facts["request"]) == (TRUE4, number + 1)
            else:
                skip(client)


def skip(client: Client) -> None:
    """Read one answer, fast."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += client.sock.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += client.sock.recv(65536)


def test_pipelined_requests_are_answered_in_order(rigs: RigFactory) -> None:
    rig = web(rigs)
    with rig.connect() as client:
        client.send(v2() + b"".join(get(f"/{number}", *FORGED) for number in range(20)))
        file = client.sock.makefile("rb")
        for number in range(20):
            head = b"".join(iter(file.readline, b"\r\n"))
            body = file.read(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            assert f"GET /{number} HTTP/1.1".encode() in body
            assert b"1.1.1.1" not in body


@pytest.mark.parametrize("pieces", [1, 7])
def test_a_chunked_body_passes_whole_both_ways(rigs: RigFactory, pieces: int) -> None:
    rig = web(rigs)
    data = os.urandom(300_000)
    size = len(data) // pieces + 1
    chunks = [data[i : i + size] for i in range(0, len(data), size)]
    body = b"".join(b"%x;ext=1\r\n%s\r\n" % (len(c), c) for c in chunks) + b"0\r\n\r\n"
    with rig.connect() as client:
        client.send(v2() + get("/chunked", "Transfer-Encoding: chunked", method="POST") + body)
        saw = read(client)
        assert (saw.facts["length"], saw.facts["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        client.send(get("/next"))
        assert read(client).facts["request"] == 2


def test_pieces_of_a_stream_are_not_held_back(rigs: RigFactory) -> None:
    """Each waits for the one before. TCP alone would hold each for 0.4 s, once the first ones are over."""
    with web(rigs).connect() as client:
        client.send(v2() + get("/talk", "Transfer-Encoding: chunked", method="POST"))
        seen, took = b"", []
        for number in range(60):
            began = time.monotonic()
            client.send(b"9\r\npiece %03d\r\n" % number)
            while b"piece %03d" % number not in seen:
                seen += client.sock.recv(1000)
            took.append(time.monotonic() - began)
        assert min(took[30:]) < HELD_S


def test_a_big_body_takes_no_memory(rigs: RigFactory) -> None:
    """1 GB up in one request: the sidecar's memory stays what it was, give or take its buffers."""
    rig = web(rigs)
    piece, count = os.urandom(1 << 20), 1024
    with rig.connect() as client:
        client.send(v2() + get("/", f"Content-Length: {len(piece) * count}", method="POST"))
        client.send(piece * 8)
        before = memory(rig)
        highest = before
        for number in range(count - 8):
            client.send(piece)
            if number % 100 == 0:
                highest = max(highest, memory(rig))
        client.sock.settimeout(4 * DEADLINE_S)
        assert read(client).facts["length"] == len(piece) * count
    assert highest - before < 2048, "KiB"


def memory(rig: Rig) -> int:
    """Resident memory of the sidecar, in KiB."""
    pid = rig.lab.container("srcip-proxy").process.pid
    with open(f"/proc/{pid}/status") as file:  # noqa: PTH123
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))


def test_a_header_of_8_kb_passes(rigs: RigFactory) -> None:
    saw = ask(web(rigs), get("/", "Cookie: " + "c" * 8192))
    assert saw.all("cookie") == ["c" * 8192]
    assert saw.written() == TRUE4


def test_a_header_beyond_all_buffers_is_refused(rigs: RigFactory) -> None:
    assert ask(web(rigs), get("/", "Cookie: " + "c" * 20000)).status in (400, 431)


def test_expect_100_continue(rigs: RigFactory) -> None:
    """The application, not the sidecar, says whether to go on."""
    rig = web(rigs)
    with rig.connect() as client:
        client.send(v2() + get("/", "Expect: 100-continue", "Content-Length: 5", method="PUT"))
        client.sock.settimeout(DEADLINE_S)
        assert client.sock.recv(1024).startswith(b"HTTP/1.1 100 ")
        client.send(b"hello")
        assert read(client).facts["length"] == 5


def test_an_answer_may_come_before_the_body(rigs: RigFactory) -> None:
    rig = web(rigs)
    with rig.connect() as client:
        client.send(v2() + get("/early", "Content-Length: 1000", method="POST"))
        assert read(client).status == 200


def test_a_long_poll_ends_when_the_client_goes(rigs: RigFactory) -> None:
    """The application learns of it at once, as without the sidecar."""
    rig = web(rigs)
    before = rig.lab.log("app").count("gone")
    with rig.connect() as client:
        polls = rig.lab.log("app").count("GET /slow")
        client.send(v2() + get("/slow"))
        until(lambda: rig.lab.log("app").count("GET /slow") > polls)
        time.sleep(0.5)
        assert rig.lab.log("app").count("gone") == before
    until(lambda: rig.lab.log("app").count("gone") > before)


def test_a_client_that_closes_its_side_is_not_left_waiting(rigs: RigFactory) -> None:
    """It is answered, or its request is given up: it could have gone."""
    rig = web(rigs)
    for pause in (0.0, 0.2):
        with rig.connect() as client:
            client.send(v2() + get())
            time.sleep(pause)
            client.finish()
            assert read(client).status in (200, 400)


def test_a_websocket_passes_and_its_request_has_the_client(rigs: RigFactory) -> None:
    rig = web(rigs)
    lines = ("Upgrade: websocket", "Connection: keep-alive, Upgrade", "Sec-WebSocket-Version: 13")
    with rig.connect() as client:
        client.send(v2() + get("/ws", *lines, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", *FORGED))
        file = client.sock.makefile("rb")
        head = b"".join(iter(file.readline, b"\r\n")).lower()
        assert b"101 switching protocols" in head
        assert b"sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=" in head
        assert file.read(2) == b"\x81\x7e"
        seen = file.read(int.from_bytes(file.read(2), "big"))
        assert b'"x-forwarded-for: 203.0.113.7"' in seen
        assert b"1.1.1.1" not in seen
        frame = b"\x82\xfe\x40\x00" + os.urandom(16388)
        client.send(frame)
        assert file.read(len(frame)) == frame


@pytest.mark.parametrize("token", ["h2c", "TLS/1.0", "HTTP/2.0"])
def test_no_upgrade_leads_past_the_headers(rigs: RigFactory, token: str) -> None:
    """Behind an upgrade to another HTTP, requests would be the client's own."""
    saw = ask(
        web(rigs), get("/", f"Upgrade: {token}", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABk")
    )
    assert saw.all("upgrade") == saw.all("http2-settings") == []
    assert saw.written() == TRUE4


def test_curl_sees_nothing_of_it(rigs: RigFactory) -> None:
    """A real client that keeps its connection, over IPv6."""
    command = ["curl", "-sS", "--fail", "--max-time", "60", "--haproxy-protocol", "-d", "x=1"]
    urls = [f"http://[{POD6}]:7000/{number}" for number in range(3)]
    done = web(rigs).lab.lb.run([*command, *urls], capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"x-forwarded-for: {LB6}") == 3
    assert done.stdout.count('"connection"') == 3


def test_clients_at_once_are_not_mixed_up(rigs: RigFactory) -> None:
    """Nor do they share a connection to the application."""
    rig = web(rigs)
    found: dict[int, set[int]] = {}

    def one(number: int) -> None:
        address = f"203.0.113.{number}"
        with rig.connect() as client:
            client.send(v2((address, 40000)))
            for _ in range(20):
                client.send(get())
                saw = read(client)
                assert saw.written()["X-Forwarded-For"] == address
                found.setdefault(number, set()).add(saw.facts["connection"])

    threads = [threading.Thread(target=one, args=(number,)) for number in range(1, 21)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    assert sum(map(len, found.values())) == len(set().union(*found.values()))


def test_too_many_requests_of_one_client_are_refused(rigs: RigFactory) -> None:
    rig = web(rigs, max_connections_per_client=2)
    clients = [rig.connect() for _ in range(3)]
    for client in clients[:2]:
        client.send(v2() + get("/slow"))
    until(lambda: rig.lab.log("app").count("GET /slow") == 2)
    clients[2].send(v2() + get())
    assert read(clients[2]).status == 429
    assert ask(rig, get(), v2(("203.0.113.8", 1))).status == 200
    for client in clients:
        client.reset()


def test_the_port_that_the_client_came_to_tells_the_scheme(rigs: RigFactory) -> None:
    """443 at the balancer means that it has taken TLS off."""
    header = f"PROXY TCP4 {CLIENT4[0]} 192.0.2.1 40000 443\r\n".encode()
    written = ask(web(rigs), get(), header).written()
    assert (written["X-Forwarded-Proto"], written["X-Forwarded-Port"]) == ("https", "443")
    assert written["Forwarded"].endswith(";proto=https")
