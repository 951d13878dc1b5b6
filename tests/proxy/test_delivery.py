"""The application sees the client, whatever it is bound to, and the bytes pass unchanged in both directions."""

import hashlib
import json
import os
import socket
import threading
import time
from contextlib import ExitStack, nullcontext

import pytest

from support.rig import (
    CLIENT4,
    CLIENT6,
    CLOSED_PORT,
    LB4,
    LB6,
    LOCAL,
    POD4,
    POD6,
    PORT,
    Rig,
    RigFactory,
    Seen,
    in_image,
    plan,
    v1,
    v2,
)
from support.waiting import AT_ONCE_S, until

pytestmark = pytest.mark.dataplane

DELIVERIES = ("auto", "loopback", "pod")


@pytest.mark.parametrize("header", [v1, v2])
@pytest.mark.parametrize("to", [POD4, POD6])
@pytest.mark.parametrize("client", [CLIENT4, CLIENT6])
@pytest.mark.parametrize("deliver_to", DELIVERIES)
def test_the_application_sees_address_and_port(rigs: RigFactory, deliver_to: str, client, to: str, header) -> None:
    """For both versions, and for all four pairs of the client's and the connection's IP version."""
    rig = rigs(plan(deliver_to=deliver_to))
    assert rig.seen(header(client) + b"hello", to=to) == Seen(client, b"hello", "open")


BOUND = {
    "any4": ("0.0.0.0", {"auto": True, "loopback": True, "pod": True}),
    "any6": ("::", {"auto": True, "loopback": True, "pod": True}),
    "pod": ("POD", {"auto": True, "loopback": False, "pod": True}),
    "loopback": ("127.0.0.1", {"auto": False, "loopback": False, "pod": False}),
}
"""What an application is bound to, and for which srcip.io/deliver-to it is reached."""


@pytest.mark.parametrize("deliver_to", DELIVERIES)
@pytest.mark.parametrize("bound", BOUND)
def test_deliver_to_reaches_what_the_application_is_bound_to(rigs: RigFactory, bound: str, deliver_to: str) -> None:
    """One on 127.0.0.1 alone stays unreachable from outside, as it should."""
    address, reached = BOUND[bound]
    rig = rigs(plan(deliver_to=deliver_to), app=(address, str(PORT)))
    if reached[deliver_to]:
        assert rig.seen(v2() + b"x") == Seen(CLIENT4, b"x", "open")
    else:
        started = time.monotonic()
        refused = pytest.raises(ConnectionRefusedError) if bound == "loopback" else nullcontext()
        with refused:
            assert rig.seen(v2() + b"x").peer is None
        assert time.monotonic() - started < AT_ONCE_S, "not after the time for a connection"


@pytest.mark.parametrize("deliver_to", DELIVERIES)
def test_an_address_of_the_connection_itself_is_shown_for_local(rigs: RigFactory, deliver_to: str) -> None:
    rig = rigs(plan(deliver_to=deliver_to))
    for to, source in ((POD4, LB4), (POD6, LB6)):
        with rig.connect(to=to) as client:
            client.send(LOCAL + b"health")
            seen = client.seen(rest=6)
            assert (seen.peer[0], seen.rest) == (source, b"health")
            if deliver_to != "pod":  # there, the port is the outer connection's
                assert seen.peer[1] == client.sock.getsockname()[1]


@pytest.mark.parametrize("deliver_to", DELIVERIES)
def test_the_client_may_be_the_balancer_itself(rigs: RigFactory, deliver_to: str) -> None:
    """Even with the very address and port of the outer connection."""
    rig = rigs(plan(deliver_to=deliver_to))
    with rig.connect() as client:
        client.send(v2(client.sock.getsockname()) + b"x")
        seen = client.seen(rest=1)
        assert (seen.peer[0], seen.rest) == (LB4, b"x")


@pytest.mark.parametrize("deliver_to", DELIVERIES)
def test_live_connections_with_the_same_client_tuple_all_work(rigs: RigFactory, deliver_to: str) -> None:
    """As from two balancers: the first ones have the exact port, the others at least the address."""
    rig = rigs(plan(deliver_to=deliver_to))
    client = ("203.0.113.9", 40404)
    clients = [rig.connect() for _ in range(4)]
    try:
        for number, one in enumerate(clients):
            one.send(v2(client) + bytes([number]))
            seen = one.seen(rest=1)
            assert (seen.peer[0], seen.rest) == (client[0], bytes([number]))
            assert number or seen.peer == client
        for number, one in enumerate(clients):
            one.send(b"again")
            assert one.seen(rest=6).rest == bytes([number]) + b"again"
    finally:
        for one in clients:
            one.sock.close()


def test_exact_refuses_where_the_port_is_taken(rigs: RigFactory) -> None:
    rig = rigs(plan(client_address="exact", deliver_to="loopback"))
    client = ("203.0.113.9", 40405)
    with rig.connect() as first, rig.connect() as second:
        first.send(v2(client))
        assert first.seen().peer == client
        second.send(v2(client))
        assert second.seen().refused


@pytest.mark.parametrize("port", [0, 1, 25, 1023])
def test_a_client_port_that_may_not_be_bound_gives_the_address_with_another(rig: Rig, port: int) -> None:
    seen = rig.seen(v2((CLIENT4[0], port)) + b"x")
    assert (seen.peer[0], seen.rest) == (CLIENT4[0], b"x")
    assert seen.peer[1] >= 1024


def test_exact_refuses_a_port_that_may_not_be_bound(rigs: RigFactory) -> None:
    rig = rigs(plan(client_address="exact", deliver_to="loopback"))
    assert rig.seen(v2((CLIENT4[0], 25))).refused


@pytest.mark.parametrize(("policy", "shown"), [("best-effort", LB4), ("ip", None), ("exact", None)])
def test_an_ipv6_client_of_an_ipv4_application(rigs: RigFactory, policy: str, shown: str | None) -> None:
    """It cannot be shown: the balancer is, with a log line, or the connection is refused."""
    rig = rigs(plan(client_address=policy), app=("0.0.0.0", str(PORT)))
    seen = rig.seen(v2(CLIENT6) + b"x")
    assert (seen.peer and seen.peer[0]) == shown
    rig.waited("client 2001:db8")
    counter = "fallback" if shown else "refused"
    assert rig.metric(f'srcip_{counter}_connections_total{{reason="family"}}') == 1


def test_an_ipv4_client_of_an_ipv4_application_over_ipv6(rigs: RigFactory) -> None:
    rig = rigs(plan(), app=("0.0.0.0", str(PORT)))
    assert rig.seen(v2() + b"x", to=POD6) == Seen(CLIENT4, b"x", "open")


def test_a_pod_without_ipv6_works_with_ipv4(rigs: RigFactory) -> None:
    rig = rigs(plan(), ipv6=False)
    assert rig.seen(v2() + b"x") == Seen(CLIENT4, b"x", "open")
    assert "IPv4 only" in rig.lab.log("srcip-init")


def test_the_client_ends_its_side_first(rig: Rig) -> None:
    with rig.connect() as client:
        client.send(v2() + b"question")
        client.seen(rest=8)
        client.finish()
        assert client.end(rest=13) == Seen(CLIENT4, b"question<end>", "end")


def test_a_client_that_ends_right_behind_the_header_is_still_answered(rig: Rig) -> None:
    """Header and FIN come in one segment."""
    for _ in range(20):
        with rig.connect() as client:
            client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
            client.send(v2())
            client.finish()
            assert client.end(rest=5) == Seen(CLIENT4, b"<end>", "end")


def test_the_application_ends_its_side_first(rig: Rig) -> None:
    with rig.connect(7002) as client:
        client.send(v2(("203.0.113.11", 41000)))
        assert client.end() == Seen(("203.0.113.11", 41000), b"", "end")
        client.send(b"x" * 100_000)
        client.finish()
        until(lambda: "received 100000" in rig.lab.log("app"))


def test_a_balancer_may_reuse_its_port_in_time_wait(rig: Rig) -> None:
    """The SYN that meets TIME_WAIT is a new connection of the proxy, never one of the application."""
    source = (LB4, 23456)
    for number in range(5):
        with rig.connect(7001, source=source) as client:  # the server closes first and keeps TIME_WAIT
            client.send(v2(("203.0.113.12", 42000 + number)))
            assert client.end() == Seen(("203.0.113.12", 42000 + number), b"", "end")


def test_a_closed_port_is_refused_at_once(rig: Rig) -> None:
    """By the kernel itself, as without srcip: a health check that only connects tells the truth."""
    with pytest.raises(ConnectionRefusedError):
        rig.connect(CLOSED_PORT)


def test_bulk_data_passes_unchanged_in_both_directions(rig: Rig) -> None:
    data = os.urandom(8 << 20)
    with rig.connect() as client:
        sender = threading.Thread(target=lambda: (client.send(v2(("203.0.113.13", 43000)) + data), client.finish()))
        sender.start()
        try:
            got = b"".join(iter(lambda: client.sock.recv(1 << 16), b""))
        except ConnectionResetError:
            pytest.fail(f"reset; the sidecar says {rig.log()[-500:]!r}, the application {rig.lab.log('app')[-300:]!r}")
        sender.join()
    body = got.partition(b"\n")[2]
    assert hashlib.sha256(body).digest() == hashlib.sha256(data + b"<end>").digest()


@pytest.mark.parametrize("deliver_to", DELIVERIES)
def test_no_delivery_tracks_connections(rigs: RigFactory, deliver_to: str) -> None:
    """The Pod's own connection tracking stays off, so that nothing can exhaust it."""
    rig = rigs(plan(deliver_to=deliver_to))
    with rig.connect() as client, rig.connect(host=rig.lab.other) as other:
        client.send(v2())
        assert client.seen().peer == CLIENT4
        other.send(b"x")
        assert other.seen(rest=1).rest == b"x"
        assert rig.lab.pod.run(["conntrack", "-L"], capture_output=True).stdout == ""


def test_a_closed_connection_to_the_pods_own_address_is_soon_forgotten(rigs: RigFactory) -> None:
    rig = rigs(plan(deliver_to="pod", drain_timeout_s=3), app=("POD", str(PORT)))
    with rig.connect() as client:
        client.send(v2(("203.0.113.40", 44000)))
        assert client.seen().peer == ("203.0.113.40", 44000)
        assert expires(rig, "delivered4") > 4 * 86400
        client.finish()
        client.end()
    until(lambda: expires(rig, "delivered4") is None)
    assert expires(rig, "over4") <= 10


def expires(rig: Rig, name: str) -> int | None:
    """For how many seconds the one connection of this set is kept; None where there is none."""
    found = entries(rig, name)
    return found[0]["elem"]["expires"] if found else None


def entries(rig: Rig, name: str) -> list[dict[str, dict[str, int]]]:
    """What is in this set."""
    done = in_image(rig.lab, f"nft -j list set inet srcip {name}", {})
    objects = json.loads(done.stdout)["nftables"]
    found: list[dict[str, dict[str, int]]] = next(o["set"] for o in objects if "set" in o).get("elem", [])
    return found


def test_how_full_a_set_is_can_be_read_from_the_metrics(rigs: RigFactory) -> None:
    """The sidecar may not read the set: its open connections are the entries, one for one."""
    rig = rigs(plan(deliver_to="pod"))
    with ExitStack() as open_ones:
        for number in range(7):
            client = open_ones.enter_context(rig.connect())
            client.send((v2, v1)[number % 2](("203.0.113.60", 41000 + number)))
            assert client.seen().peer == ("203.0.113.60", 41000 + number)
        client = open_ones.enter_context(rig.connect())
        client.send(LOCAL)
        assert client.seen().peer is not None
        counted = [rig.metric(f'haproxy_backend_current_sessions{{proxy="{name}4"}}') for name in ("client", "own")]
        assert counted == [7, 1]
        assert len(entries(rig, "delivered4")) == 8


def test_as_many_show_the_balancer_at_the_pods_address_as_the_pod_has_ports(rigs: RigFactory) -> None:
    """Its own port it can't keep there (LOCAL), so one balancer has as many at once as there are ports to choose from.
    One more is refused at once and counted, and clients, who bring ports of their own, don't suffer."""
    rig = rigs(plan(deliver_to="pod", max_connections_per_client=0))
    ports = "net.ipv4.ip_local_port_range"
    usual = rig.lab.pod.run(["sysctl", "-n", ports], capture_output=True, check=True).stdout.strip()
    rig.lab.pod.run(["sysctl", "-q", f"{ports}=50000 50049"], check=True)
    try:
        with ExitStack() as open_ones:
            seen = []
            for _ in range(60):
                client = open_ones.enter_context(rig.connect())
                client.send(LOCAL)
                seen.append(client.seen(quiet=0.001))
            shown = [one for one in seen if one.peer]
            assert {one.peer[0] for one in shown if one.peer} == {LB4}
            assert 40 <= len(shown) <= 50
            assert all(one.refused for one in seen if not one.peer)
            assert rig.metric('srcip_refused_connections_total{reason="undelivered"}') == 60 - len(shown)
            assert rig.seen(v2()).peer == CLIENT4
    finally:
        rig.lab.pod.run(["sysctl", "-q", f"{ports}={usual}"], check=True)


def test_a_hundred_clients_at_once_are_not_mixed_up(rig: Rig) -> None:
    clients = [rig.connect() for _ in range(100)]
    for number, client in enumerate(clients):
        client.send(v2(("203.0.113.20", 50000 + number)))
    for number, client in enumerate(clients):
        assert client.seen(quiet=0.001).peer == ("203.0.113.20", 50000 + number)
        client.sock.close()
