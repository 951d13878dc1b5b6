"""Real HTTP servers behind redirect mode: whatever a client sends, none shows a client that it has made up.

Lenient servers take for a request what others do not. No request that one of them answers may have a header of the
client's own, neither the one in disguise nor the ordinary ones that follow on its connection.
"""

import shlex
import time

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from test_first_bytes import AMBIGUOUS, CHUNKS, DISGUISED, MALFORMED, ODD, PASSING

from srcip_proxy.haproxy.http_headers import CLAIMS
from support import h2frames
from support.applications import words_or_skip
from support.real_servers import (
    COMMANDS,
    FORGER,
    LAST,
    LENIENT,
    MANY_APPS,
    ORDINARY,
    PORTS,
    all_of,
    plain,
    servers,
    talk,
)
from support.real_servers import saw as answered
from support.rig import CLIENT4, RigFactory, v2
from support.waiting import AT_ONCE_S, until
from support.web import get, read, redirect

pytestmark = pytest.mark.dataplane

CLAIM = b"X-Forwarded-For: 6.6.6.6\r\n"
HEAD = b"Host: a\r\n" + CLAIM + b"\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: a\r\n"
SPELLINGS = (
    *("X_Forwarded_For", "x-FORWARDED_for", "X.Forwarded.For", "HTTP_X_FORWARDED_FOR", "X Forwarded For"),
    *(f"X-Forwarded-For{after}" for after in (" ", "\t", "\x0b", "\0", "\xa0", ":")),
    *(f"{before}X-Forwarded-For" for before in (" ", "\x0b", "\x85")),
    *("X-Forwarded-\xadFor", "X\xafForwarded-For"),
)
H2 = h2frames.PREFACE + h2frames.frame(h2frames.SETTINGS, 0, 0)
H2_REQUEST = h2frames.frame(
    h2frames.HEADERS,
    h2frames.END_STREAM | h2frames.END_HEADERS,
    1,
    h2frames.encode(
        [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a"), ("x-forwarded-for", FORGER)]
    ),
)
DISGUISES = {
    **DISGUISED,
    **{f"passes, {number}": data for number, data in enumerate(PASSING)},
    **{f"malformed, {name}": data for name, data in MALFORMED.items()},
    **{f"odd, {name}": data for name, data in ODD.items()},
    **{f"ambiguous, {name}": POST + head + b"\r\n" + body for name, (head, body) in AMBIGUOUS.items()},
    **{f"chunk, {name}": POST + b"Transfer-Encoding: chunked\r\n\r\n" + body for name, body in CHUNKS.items()},
    **{
        f"spelled {name!r}": b"GET / HTTP/1.1\r\nHost: a\r\n" + name.encode("latin-1") + b": 6.6.6.6\r\n\r\n"
        for name in SPELLINGS
    },
    "every name": b"GET / HTTP/1.1\r\nHost: a\r\n"
    + b"".join(f"{name}: 6.6.6.6\r\n".encode() for name in CLAIMS)
    + b"\r\n",
    "bare line ends": b"GET / HTTP/1.1\nHost: a\nX-Forwarded-For: 6.6.6.6\n\n",
    "bare carriage returns": b"GET / HTTP/1.1\rHost: a\rX-Forwarded-For: 6.6.6.6\r\r",
    "mixed line ends": b"GET / HTTP/1.1\r\nHost: a\nX-A: b\rX-Forwarded-For: 6.6.6.6\r\n\n",
    "a line end in a value": b"GET / HTTP/1.1\r\nHost: a\r\nX-A: b\rX-Forwarded-For: 6.6.6.6\r\n\r\n",
    "another line end in a value": b"GET / HTTP/1.1\r\nHost: a\r\nX-A: b\x85X-Forwarded-For: 6.6.6.6\r\n\r\n",
    "a vertical tab in a value": b"GET / HTTP/1.1\r\nHost: a\r\nX-A: b\x0bX-Forwarded-For: 6.6.6.6\r\n\r\n",
    "blanks and line ends first": b" \t\r\n\n\r\n" + b"GET / HTTP/1.1\r\n" + HEAD,
    "zeros first": b"\0\0\r\n\0GET / HTTP/1.1\r\n" + HEAD,
    "a BOM first": b"\xef\xbb\xbfGET / HTTP/1.1\r\n" + HEAD,
    "HTTP/0.9": b"GET /\r\n",
    "HTTP/0.9 with headers": b"GET /\r\n" + HEAD,
    "HTTP/0.9, bare line end": b"GET /\n" + HEAD,
    "HTTP/1.0, kept": b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n" + CLAIM + b"\r\n",
    "absolute form": b"GET http://6.6.6.6/ HTTP/1.1\r\n" + HEAD,
    "absolute form, other scheme": b"GET x://6.6.6.6/ HTTP/1.1\r\n" + HEAD,
    "star": b"OPTIONS * HTTP/1.1\r\n" + HEAD,
    "star, other method": b"GET * HTTP/1.1\r\n" + HEAD,
    "folded": b"GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n X-Forwarded-For: 6.6.6.6\r\n\r\n",
    "folded name": b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For\r\n : 6.6.6.6\r\n\r\n",
    "folded value": b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For:\r\n\t6.6.6.6\r\n\r\n",
    "folded first": b"GET / HTTP/1.1\r\n X-Forwarded-For: 6.6.6.6\r\nHost: a\r\n\r\n",
    "doubled": b"GET / HTTP/1.1\r\n" + CLAIM * 3 + HEAD,
    "no host": b"GET / HTTP/1.1\r\n" + CLAIM + b"\r\n",
    "a tunnel": b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\nGET / HTTP/1.1\r\n" + HEAD,
    "a tunnel to a path": b"CONNECT / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n" + HEAD,
    "a tunnel in small letters": b"connect a:443 HTTP/1.1\r\nHost: a:443\r\n\r\nGET / HTTP/1.1\r\n" + HEAD,
    "an upgrade to h2c": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABk\r\n\r\n" + H2 + H2_REQUEST,
    "an upgrade to itself": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: HTTP/1.1\r\n\r\n"
    b"GET / HTTP/1.1\r\n" + HEAD,
    "an upgrade to WebSocket": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nGET / HTTP/1.1\r\n" + HEAD,
    "a preface": H2 + H2_REQUEST,
    "a second preface": H2 + H2 + H2_REQUEST,
    "a preface behind a request": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + H2 + H2_REQUEST,
    "a preface, then requests": h2frames.PREFACE + b"GET / HTTP/1.1\r\n" + HEAD,
    "trailers": POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n" + CLAIM + b"\r\n",
    "trailers that are announced": POST
    + b"Transfer-Encoding: chunked\r\nTrailer: X-Forwarded-For\r\n\r\n0\r\n"
    + CLAIM
    + b"\r\n",
    "a body that is a request": POST + b"Content-Length: 57\r\n\r\nGET / HTTP/1.1\r\n" + HEAD,
    "a body that is announced": b"GET / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n" + HEAD,
    "a length and chunks": POST
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n"
    + HEAD,
    "Connection names what srcip writes": b"GET / HTTP/1.1\r\nConnection: X-Forwarded-For, X-Real-IP\r\n" + HEAD,
}
"""First bytes of connections, by what is odd about them."""
by_policy = pytest.mark.parametrize("policy", ["refuse", "pass"])


def follows(disguise: bytes, *, at_once: bool) -> list[bytes]:
    """The pieces of one connection: a disguise, an ordinary request, and one that ends it."""
    return [v2() + disguise + ORDINARY + LAST] if at_once else [v2(), disguise, ORDINARY, LAST]


@by_policy
@pytest.mark.parametrize("server", PORTS)
def test_no_server_shows_a_client_that_was_made_up(rigs: RigFactory, server: str, policy: str) -> None:
    """In one piece, and in several."""
    cases = {
        f"{name}{'' if at_once else ', in pieces'}": follows(disguise, at_once=at_once)
        for name, disguise in DISGUISES.items()
        for at_once in (True, False)
    }
    seen = all_of(servers(rigs, http_other=policy), PORTS[server], cases)
    forged = {name: requests for name, requests in seen.items() if any(each.forged for each in requests)}
    assert forged == {}, sorted(forged)
    assert sum(map(len, seen.values())) > len(DISGUISES) / 2, "there is hardly an answer to look at"


@pytest.mark.parametrize("server", PORTS)
def test_a_server_without_the_sidecar_would_show_it(rigs: RigFactory, server: str) -> None:
    """So the test above can fail; lenient ones even where a strict one sees no request."""
    rig = servers(rigs)
    cases = {name: [disguise] for name, disguise in DISGUISES.items() if name in DISGUISED}
    seen = all_of(rig, PORTS[server], cases, rig.lab.other)
    assert any(each.forged for requests in seen.values() for each in requests) == (server in LENIENT)
    assert answered(talk(rig, PORTS[server], [ORDINARY], rig.lab.other))[0].forged


@by_policy
@pytest.mark.parametrize("server", PORTS)
def test_an_ordinary_request_shows_the_client(rigs: RigFactory, server: str, policy: str) -> None:
    seen = answered(talk(servers(rigs, http_other=policy), PORTS[server], [v2() + ORDINARY + LAST]))
    assert [each.path for each in seen] == ["/second", "/last"]
    assert all(CLIENT4[0] in value for each in seen for _, value in each.claims)
    assert all(
        {plain(name) for name, _ in each.claims} == {"x-forwarded-for", "x-real-ip", "forwarded"} for each in seen
    )


IDLE_S = 5
"""How long Node keeps a connection that waits for a request, where nothing else is said."""


@pytest.mark.parametrize("kept_s", [IDLE_S - 1, 75])
def test_an_application_ends_connections_that_idle(rigs: RigFactory, kept_s: int) -> None:
    """The sidecar learns of it, and the client does not: a shorter time of its own ends them as early. Without one, the
    next request goes to a new connection of the application, and none is lost."""
    node = shlex.join(words_or_skip(COMMANDS["node"]))
    rig = rigs(redirect(keep_alive_timeout_s=kept_s), app=("7000", node), program=MANY_APPS)
    idle = [rig.connect() for _ in range(20)]
    for client in idle:
        client.send(v2() + get())
        assert read(client).status == 200
    time.sleep(IDLE_S + 2)
    established = ["ss", "-Htn", "state", "established", "dport", "=", "7000"]  # of the sidecar to the application
    until(lambda: rig.lab.pod.run(established, capture_output=True).stdout == "")
    for client in idle:
        if kept_s < IDLE_S:
            assert client.seen(timeout=AT_ONCE_S).end == "end"
        else:
            client.send(get())
            assert read(client).status == 200
        client.sock.close()


WORDS = (
    *(bytes([byte]) for byte in (0, 9, 10, 11, 12, 13, 22, 28, 31, 32, 40, 42, 47, 58, 127, 133, 160, 255)),
    *(
        b"\r\n",
        b"\r\n\r\n",
        b"\n\n",
        b"\r\n ",
        b"GET ",
        b"POST ",
        b"get",
        b"PRI",
        b"FOO ",
        b"A",
        b"/",
        b"/x",
        b"*",
        b"x:/",
        b"://",
    ),
    *(
        b" HTTP/1.1",
        b"HTTP/1.0",
        b"http/",
        b"HTTP/2",
        b"HTTP",
        b"GET / HTTP/1.1\r\n",
        b"GET /\r\n",
        b"Host: a\r\n",
        CLAIM,
        HEAD,
    ),
    *(
        b"X_Forwarded_For: 6.6.6.6\n",
        b"Forwarded:for=6.6.6.6\r",
        b"\x0bX-Real-IP: 6.6.6.6\r\n",
        b"Content-Length: 9\r\n",
    ),
    *(
        b"Transfer-Encoding: chunked\r\n",
        b"0\r\n\r\n",
        b"EHLO a\r\n",
        b"SSH-2.0-a\r\n",
        b"*1\r\n$4\r\n",
        PASSING[0],
        PASSING[1],
    ),
)
"""What random first bytes are made of."""
starts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(b"".join)
AT_A_TIME = 16


@pytest.mark.timeout(600)
@pytest.mark.parametrize("server", ["werkzeug", "cheroot", "java"])
@given(tried=st.lists(st.tuples(starts, st.booleans()), min_size=AT_A_TIME, max_size=AT_A_TIME))
@settings(max_examples=20, derandomize=True, deadline=None, phases=[Phase.generate])
def test_no_first_bytes_lead_to_a_client_that_was_made_up(
    rigs: RigFactory, server: str, tried: list[tuple[bytes, bool]]
) -> None:
    """320 random beginnings, the same ones each time, and two requests behind each."""
    cases = {repr(each): follows(each[0], at_once=each[1]) for each in tried}
    seen = all_of(servers(rigs, http_other="pass"), PORTS[server], cases)
    assert {name: requests for name, requests in seen.items() if any(each.forged for each in requests)} == {}
