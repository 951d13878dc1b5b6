"""`client-from: toa`: the client stands in a TCP option of the balancer's ACK or of its first data."""

import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import ip_address

import pytest

from srcip_lab import toa as option_toa
from srcip_lab.header import Endpoint
from srcip_lab.toa import EVERYWHERE, ON_ACK, ON_DATA, Sender, sender
from support.ebpf_rig import LB4_ADDRESS, Pod, Pods, cgroup_root, needs_root, running
from support.packets import ACK, PSH, RST, SYN, Forger
from support.rig import CLIENT4, CLIENT6, POD4, POD6, SHORT, Client, Seen, v1
from support.waiting import DEADLINE_S

pytestmark = pytest.mark.dataplane

POLICIES = ("required", "optional")

KINDS = (254, 200)
IPV4_ALONE = ("0.0.0.0", "7000")
Connects = Callable[..., Client]


def option(client: tuple[str, int], kind: int = 254) -> bytes:
    return option_toa.option(Endpoint(ip_address(client[0]), client[1]), kind)


@pytest.fixture(scope="module")
def balancer() -> Iterator[Sender]:
    """Whoever connects in its cgroup sends the option that was set last."""
    needs_root()
    root = cgroup_root()
    assert root
    group = root / f"srcip-balancer-{os.getpid()}"
    group.mkdir()
    try:
        with sender(group) as made:
            yield made
    finally:
        group.rmdir()


@pytest.fixture
def toa(pods: Pods) -> Pod:
    return pods(mode="ebpf", client_from="toa")


@pytest.fixture
def optional(pods: Pods) -> Pod:
    return pods(mode="ebpf", client_from="toa", proxy_protocol="optional")


@pytest.fixture
def connect(balancer: Sender) -> Connects:
    """A connection of the balancer's, with an option."""

    def connected(pod: Pod, data: bytes = b"", places: int = EVERYWHERE, **options: object) -> Client:
        with balancer.sending(data, places):
            return pod.connect(**options)  # type: ignore[arg-type]

    return connected


def more(pod: Pod, before: dict[str, int]) -> dict[str, int]:
    """What was counted since `before`."""
    return {name: value - before.get(name, 0) for name, value in pod.stats().items() if value != before.get(name, 0)}


def outcome(client: Client, data: bytes) -> Seen:
    """What becomes of a connection that sends `data`."""
    client.send(data)
    return client.seen(rest=len(data), quiet=0.02)


def end_with(client: Client, data: bytes) -> None:
    """The FIN in one segment with the data."""
    client.sock.send(data, socket.MSG_MORE)
    client.finish()


def is_refused(connect: Connects, pod: Pod, data: bytes, places: int = EVERYWHERE, **options: object) -> bool:
    """Whether it ends by RST, be that while it is opened or at its first data."""
    try:
        with connect(pod, data, places, **options) as client:
            return outcome(client, b"hello").refused
    except ConnectionResetError:
        return True


STATED = [CLIENT4, CLIENT6, ("198.51.100.1", 0), ("::ffff:198.51.100.2", 65535), (POD4, 1), (POD6, 2)]
"""The Pod may be its own client, too."""


@pytest.mark.parametrize("to", [POD4, POD6])
@pytest.mark.parametrize("stated", STATED)
@pytest.mark.parametrize("kind", KINDS)
def test_the_ack_states_the_client(toa: Pod, connect: Connects, kind: int, stated: tuple[str, int], to: str) -> None:
    """The application learns it before the first data, and all data is its own."""
    before = toa.stats()
    with connect(toa, option(stated, kind), to=to) as client:
        shown = (stated[0].removeprefix("::ffff:"), stated[1])
        assert client.seen(quiet=0.02).peer == shown
        client.send(v1())
        assert client.seen(rest=len(v1()), quiet=0.02).rest == v1()
    assert more(toa, before) == {"accepted toa": 1}


@pytest.mark.parametrize("to", [POD4, POD6])
@pytest.mark.parametrize("stated", [CLIENT4, CLIENT6])
@pytest.mark.parametrize("places", [ON_ACK, ON_DATA])
def test_one_of_ack_and_data_is_enough(
    pods: Pods, connect: Connects, places: int, stated: tuple[str, int], to: str
) -> None:
    """With `required` and with `optional`."""
    for policy in POLICIES:
        pod = pods(mode="ebpf", client_from="toa", proxy_protocol=policy)
        with connect(pod, option(stated), places, to=to) as client:
            seen = outcome(client, b"hello")
            assert (seen.peer, seen.rest) == (stated, b"hello")


@pytest.mark.parametrize("places", [ON_ACK, ON_DATA, EVERYWHERE])
def test_many_segments_and_the_end_come_through(toa: Pod, connect: Connects, places: int) -> None:
    """Also where every segment bears the option, and the card would cut them."""
    text = bytes(n * n % 251 for n in range(300_000))
    with connect(toa, option(CLIENT6), places, to=POD6) as client:
        client.sock.settimeout(DEADLINE_S)
        client.send(text)
        client.finish()
        seen = client.end(rest=len(text) + 5)
        assert (seen.peer, seen.rest, seen.end) == (CLIENT6, text + b"<end>", "end")


def test_data_without_the_option_is_refused_where_it_is_required(toa: Pod, connect: Connects) -> None:
    """A PROXY header is no substitute. The application sees nothing, and nothing is left half-open."""
    before, accepted = toa.stats(), toa.accepted()
    for first in (b"hello", v1()):
        with connect(toa) as client:
            assert outcome(client, first).refused
    assert more(toa, before) == {"refused no_option": 2}
    assert (toa.accepted(), toa.half_open()) == (accepted, 0)


def test_data_without_the_option_has_the_connections_own_address_where_it_is_optional(
    optional: Pod, connect: Connects
) -> None:
    before = optional.stats()
    with connect(optional) as client:
        seen = outcome(client, v1())
        assert (seen.peer, seen.rest) == (client.sock.getsockname()[:2], v1())
    assert more(optional, before) == {"accepted none": 1}


def test_silence_without_the_option_ends_like_silence_without_a_header(pods: Pods, connect: Connects) -> None:
    """With `required` by a refusal, with `optional` by the connection's own address."""
    required, optional = (pods(mode="ebpf", client_from="toa", proxy_protocol=p, **SHORT) for p in POLICIES)
    with connect(required) as refused, connect(optional) as released:
        assert refused.seen().end == "reset"
        assert released.seen().peer == released.sock.getsockname()[:2]
    assert required.stats() == {"refused header_timeout": 1}


def test_an_end_at_once_counts_as_empty(toa: Pod, connect: Connects) -> None:
    before = toa.stats()
    with connect(toa) as ended:
        ended.finish()
        assert ended.seen().end == "reset"
    assert more(toa, before) == {"refused empty": 1}


@pytest.mark.parametrize("size", [4, 7, 9, 10, 16, 18, 19])
@pytest.mark.parametrize("kind", KINDS)
def test_an_option_of_another_length_is_none(toa: Pod, connect: Connects, kind: int, size: int) -> None:
    before = toa.stats()
    data = struct.pack(">BBH", kind, size, 1) + ip_address(CLIENT6[0]).packed
    assert is_refused(connect, toa, data[:size])
    assert more(toa, before) == {"refused no_option": 1}


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "224.0.0.1", "::1", "fe80::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("policy", ["required", "optional"])
def test_an_address_that_no_client_has_is_refused(pods: Pods, connect: Connects, address: str, policy: str) -> None:
    """At once, by the ACK: not even connect() succeeds, or, on a slow machine, nothing behind it."""
    pod = pods(mode="ebpf", client_from="toa", proxy_protocol=policy)
    before, accepted = pod.stats(), pod.accepted()
    with suppress(ConnectionResetError), connect(pod, option((address, 1))) as client:
        assert client.seen().refused
    assert more(pod, before) == {"refused unusable_address": 1}
    assert (pod.accepted(), pod.half_open()) == (accepted, 0)


@pytest.mark.parametrize("to", [POD4, POD6])
def test_a_strangers_option_is_not_read(toa: Pod, connect: Connects, to: str) -> None:
    """Its connection is native."""
    before = toa.stats()
    with connect(toa, option(CLIENT4), host=toa.net.other, to=to) as client:
        seen = outcome(client, b"hello")
        assert (seen.peer, seen.rest) == (client.sock.getsockname()[:2], b"hello")
    assert more(toa, before) == {}


@pytest.mark.parametrize("places", [ON_ACK, ON_DATA])
def test_an_ipv4_socket_shows_no_ipv6_client(pods: Pods, connect: Connects, places: int) -> None:
    """It is shown the balancer, or the connection is refused, as for PROXY headers."""
    pod = pods(IPV4_ALONE, mode="ebpf", client_from="toa")
    before = pod.stats()
    with connect(pod, option(CLIENT6), places) as client:
        assert outcome(client, b"hello").peer == client.sock.getsockname()
    assert more(pod, before) == {"accepted toa": 1, "fallback family": 1}
    exact = pods(IPV4_ALONE, mode="ebpf", client_from="toa", client_address="exact")
    before = exact.stats()
    assert is_refused(connect, exact, option(CLIENT6), places)
    assert more(exact, before) == {"refused family": 1}


def test_options_are_not_read_where_headers_are_asked_for(pod: Pod, connect: Connects) -> None:
    """The header alone states the client, also beside an option."""
    with connect(pod, option(("198.51.100.9", 9))) as client:
        client.send(v1())
        assert client.seen(quiet=0.02).peer == CLIENT4
    assert is_refused(connect, pod, option(("198.51.100.9", 9)))


@pytest.mark.parametrize("to", [POD4, POD6])
def test_connections_that_a_syn_cookie_answers(connect: Connects, to: str) -> None:
    """The kernel knows nothing of them until their ACK: all outcomes are the same."""
    with running(mode="ebpf", client_from="toa") as pod:
        pod.sh("pod", "sysctl -qw net.ipv4.tcp_syncookies=2")
        for places in (ON_ACK, ON_DATA, EVERYWHERE):
            with connect(pod, option(CLIENT6), places, to=to) as client:
                seen = outcome(client, b"hello")
                assert (seen.peer, seen.rest) == (CLIENT6, b"hello")
        with connect(pod, option(CLIENT4), ON_ACK, to=to) as client:
            assert client.seen(quiet=0.02).peer == CLIENT4
        with connect(pod, option(CLIENT4), ON_DATA, to=to) as client:
            end_with(client, b"hello")
            assert client.seen(rest=10, quiet=0.02).rest == b"hello<end>"
        assert is_refused(connect, pod, b"", to=to)
        assert is_refused(connect, pod, option(("127.0.0.1", 1)), to=to)
        assert pod.accepted() == 5
        assert pod.stats() == {"accepted toa": 5, "refused no_option": 1, "refused unusable_address": 1}


NO_TOA = struct.pack(">BBH6s", 254, 10, 1, b"unused") + b"\1\1"
TIMES = struct.pack(">BBBBII", 1, 1, 8, 10, 1, 1)


@pytest.mark.parametrize(
    ("port", "options", "is_accepted"),
    [
        (40501, option(CLIENT4), True),
        (40502, NO_TOA + option(CLIENT4, 200), True),
        (40503, TIMES + b"\1\1\1\1" + option(CLIENT6), True),
        (40504, b"\0\0\0\0" + option(CLIENT4), False),
        (40505, option(CLIENT6)[:8], False),
        (40506, option(CLIENT4)[:4], False),
        (40507, b"\xfe\1\1\1" + option(CLIENT4), False),
        (40508, b"\1\1\1\xfe", False),
    ],
    ids=["alone", "behind-another", "behind-many", "behind-the-end", "cut-16", "cut-8", "behind-nonsense", "a-kind"],
)
def test_options_as_they_stand_on_the_wire(toa: Pod, port: int, options: bytes, is_accepted: bool) -> None:
    """One that runs past the TCP header, into the data, is none; so is one behind the end of the list."""
    before = toa.stats()
    toa.sh("lb", "nft 'add table ip t; add chain ip t c { type filter hook output priority 0; }'")
    toa.sh("lb", "nft add rule ip t c tcp dport 7000 tcp flags rst drop")  # the kernel knows no such connection
    with Forger(toa.net.lb, (LB4_ADDRESS, port), (POD4, 7000)) as sender:
        sender.send(SYN, seq=1000, ack=0)
        iss, _, _ = sender.receive()
        sender.send(PSH | ACK, b"\1" * 64, seq=1001, ack=iss + 1, options=options)
        while (flags := sender.receive()[2]) & SYN:
            pass
        toa.sh("lb", "nft delete table ip t")
        sender.send(RST, seq=1065, ack=0)
    assert bool(flags & RST) != is_accepted
    assert more(toa, before) == ({"accepted toa": 1} if is_accepted else {"refused no_option": 1})
