"""No delivery fails in silence: the balancer gets a RST or an answer, and there are a count and a line."""

import time

import pytest

from srcip_proxy.plan import PortRange
from support.rig import CLIENT4, CLIENT6, LB6, LOCAL, POD4, POD6, PORT, Rig, RigFactory, has_ended, plan, v1, v2
from support.waiting import AT_ONCE_S, until

pytestmark = pytest.mark.dataplane

COUNT = 'srcip_refused_connections_total{reason="undelivered"}'
FALLBACK = 'srcip_fallback_connections_total{reason="family"}'
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def is_told(rig: Rig, before: tuple[float, int], what: str = "connection") -> bool:
    """Whether there is one more count, and comes to be one more line."""
    until(lambda: rig.log().count(f"{what} from ") > before[1], rig.log)
    return told(rig, what) == (before[0] + 1, before[1] + 1)


def told(rig: Rig, what: str = "connection") -> tuple[float, int]:
    return rig.metric(COUNT), rig.log().count(f"{what} from ")


@pytest.mark.parametrize("mode", ["tproxy", "redirect"])
@pytest.mark.parametrize("header", [v1(), v2(), LOCAL], ids=["v1", "v2", "LOCAL"])
def test_an_application_that_delivery_does_not_reach_refuses(rigs: RigFactory, mode: str, header: bytes) -> None:
    """It is bound to the Pod's address, and is to be reached on loopback: a RST, without the time for a connection."""
    rig = rigs(plan(mode=mode, deliver_to="loopback"), app=("POD", str(PORT)))
    before, began = told(rig), time.monotonic()
    assert rig.seen(header + b"hello", to=POD4).refused
    assert time.monotonic() - began < AT_ONCE_S
    assert is_told(rig, before)
    assert (
        "did not reach the application; reason=undelivered; what to do: configure the application to listen"
        in rig.log()
    )


@pytest.mark.parametrize("deliver_to", ["auto", "loopback", "pod"])
def test_a_listener_for_ipv6_alone_is_shown_the_balancer(rigs: RigFactory, deliver_to: str) -> None:
    """Nothing but a try tells that it takes no IPv4 (IPV6_V6ONLY). IPv6 clients are delivered as ever."""
    rig = rigs(plan(deliver_to=deliver_to), app=("ONLY6", str(PORT), "ONLY6", "7002"))
    before = rig.metric(FALLBACK)
    with rig.connect(to=POD6) as client:
        client.send(v2(CLIENT4) + b"hello")
        seen = client.seen(rest=5)
        assert (seen.peer[0], seen.rest) == (LB6, b"hello")
        client.finish()
        assert client.seen(rest=10).rest == b"hello<end>"
    assert rig.metric(FALLBACK) == before + 1
    rig.waited(f"the application sees the balancer's address instead of client {CLIENT4[0]}; reason=family")
    with rig.connect(7002, to=POD6) as client:
        client.send(v2(CLIENT4))
        assert client.end().end == "end", "an end passes as an end"
    assert rig.seen(v2(CLIENT6) + b"hello", to=POD6).peer == CLIENT6


@pytest.mark.parametrize("client_address", ["ip", "exact"])
def test_a_listener_for_ipv6_alone_takes_no_ipv4_client(rigs: RigFactory, client_address: str) -> None:
    """Where the balancer may not take its place."""
    rig = rigs(plan(client_address=client_address), app=("ONLY6", str(PORT)))
    before = told(rig)
    assert rig.seen(v2(CLIENT4) + b"hello", to=POD6).refused
    assert is_told(rig, before)


def test_what_the_second_way_does_not_deliver_is_refused(rigs: RigFactory) -> None:
    """A firewall of the Pod refuses all that comes over IPv6: a RST, one count, and a line that names the balancer."""
    rig = rigs(plan(max_connections=97), app=("ONLY6", str(PORT)))
    rules = (
        "add table inet closed; add chain inet closed out { type filter hook output priority 0; };"
        f"add rule inet closed out meta nfproto ipv6 oif lo tcp dport {PORT} tcp flags syn reject with tcp reset"
    )
    rig.lab.pod.run(["nft", rules], check=True)
    before = rig.metric(COUNT)
    with rig.connect(to=POD6) as client:
        client.send(v2(CLIENT4) + b"hello")
        assert client.seen().refused
        port = client.sock.getsockname()[1] if client.sock.fileno() >= 0 else 0
    assert rig.metric(COUNT) == before + 1
    rig.waited(f"connection from [{LB6}]:{port} to port {PORT} did not reach the application")


@pytest.mark.parametrize("mode", ["tproxy", "redirect"])
def test_an_application_that_accepts_nothing_is_given_up(rigs: RigFactory, mode: str) -> None:
    """Its queue is full: after the time for a connection each one gets a RST."""
    rig = rigs(plan(mode=mode, deliver_to="loopback"), app=("DEAF", str(PORT)), own_times=True)
    before = told(rig)
    held = [rig.connect() for _ in range(4)]
    for number, client in enumerate(held):
        client.send(v1((f"203.0.113.{number + 1}", 3000)) + b"x")
    until(lambda: (given_up := told(rig)[0] - before[0]) and has_ended(held) == given_up)  # 5 s for each way to it
    given_up = told(rig)[0] - before[0]
    ends = [client.seen(timeout=0.01, quiet=0.05).end for client in held]
    for client in held:
        client.reset()
    assert ends.count("reset") == given_up > 0


def test_a_request_that_nobody_takes_is_answered(rigs: RigFactory) -> None:
    """503 for each, over HTTP/1; it is counted, and there is a line."""
    ports = (PortRange(PORT, PORT),)
    rig = rigs(plan(mode="redirect", deliver_to="loopback", http_ports=ports), app=("POD", str(PORT)))
    before = told(rig, "request")
    with rig.connect() as client:
        client.send(v1() + GET)
        client.seen(quiet=0.01)
        assert client.got.startswith(b"HTTP/1.1 503")
    assert is_told(rig, before, "request")
