"""`client-from: x-forwarded-for`: behind a balancer that speaks HTTP alone, each request has its client as TCP peer."""

import threading

import pytest

from support.rig import CLIENT4, CLIENT6, HTTP_APP, LB4, LB6, LB_NETWORKS, POD4, POD6, Rig, RigFactory, plan, v2
from support.web import WEB, ask, get, read

pytestmark = pytest.mark.dataplane
HOPS = (*LB_NETWORKS, "198.51.100.0/24")


def pod(rigs: RigFactory, address: str = "::", **changes: object) -> Rig:
    wanted = plan(**{"http_ports": WEB, "client_from": "x-forwarded-for", "trusted_cidrs": HOPS, **changes})
    return rigs(wanted, app=(address, "7000", address, "7050"), program=HTTP_APP)


@pytest.mark.parametrize("to", [POD4, POD6])
@pytest.mark.parametrize(
    ("lines", "peer"),
    [
        (["X-Forwarded-For: 203.0.113.7"], "203.0.113.7"),
        (["X-Forwarded-For: 1.1.1.1, 203.0.113.7, 198.51.100.9"], "203.0.113.7"),
        (["X-Forwarded-For: 1.1.1.1", "X-Forwarded-For: 2001:db8::7"], "2001:db8::7"),
        (["X-Forwarded-For: 198.51.100.8"], "198.51.100.8"),
        (["X-Forwarded-For: 203.0.113.7, unknown"], None),
        (["X-Forwarded-For: 127.0.0.1"], None),
        ([f"X-Forwarded-For: {POD4}"], None),
        (["X-Forwarded-For: 169.254.77.1"], None),
        (["X-Real-IP: 203.0.113.7"], None),
        ([], None),
    ],
)
def test_the_peer_is_the_right_most_address_that_is_not_trusted(
    rigs: RigFactory, to: str, lines: list[str], peer
) -> None:
    """Without one it is the balancer; the headers stay as they were."""
    saw = ask(pod(rigs), get("/", *lines), b"", to=to)
    assert saw.facts["peer"][0] == (peer or (LB4 if to == POD4 else LB6))
    assert saw.headers[1:] == [(n.lower(), v) for n, v in (line.split(": ") for line in lines)]


def test_each_request_of_one_connection_has_its_own_client(rigs: RigFactory) -> None:
    """And a connection to the application never serves two of them."""
    rig = pod(rigs)
    served: dict[int, set[str]] = {}
    with rig.connect() as client:
        for number in range(60):
            address = f"203.0.113.{number % 12 + 1}"
            client.send(get("/", f"X-Forwarded-For: {address}"))
            saw = read(client)
            assert saw.facts["peer"][0] == address
            served.setdefault(saw.facts["connection"], set()).add(address)
    assert {len(addresses) for addresses in served.values()} == {1}


def test_clients_of_many_connections_do_not_meet(rigs: RigFactory) -> None:
    """The same client on two connections of the balancer is fine; no connection of the application has two clients."""
    rig = pod(rigs)
    served: dict[int, set[str]] = {}

    def one(start: int) -> None:
        with rig.connect() as client:
            for number in range(30):
                address = f"203.0.113.{(start + number) % 7 + 1}"
                client.send(get("/", f"X-Forwarded-For: {address}"))
                saw = read(client)
                assert saw.facts["peer"][0] == address
                served.setdefault(saw.facts["connection"], set()).add(address)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {len(addresses) for addresses in served.values()} == {1}


def test_an_untrusted_host_cannot_say_who_it_is(rigs: RigFactory) -> None:
    saw = ask(pod(rigs), get("/", "X-Forwarded-For: 1.1.1.1"), b"", host=pod(rigs).lab.other)
    assert saw.facts["peer"][0] == "10.77.2.2"


@pytest.mark.parametrize(("policy", "peer"), [("best-effort", LB4), ("ip", None)])
def test_an_ipv6_client_of_an_ipv4_application(rigs: RigFactory, policy: str, peer: str | None) -> None:
    saw = ask(pod(rigs, "0.0.0.0", client_address=policy), get("/", f"X-Forwarded-For: {CLIENT6[0]}"), b"")
    assert (saw.status, saw.facts.get("peer", [None])[0]) == (200 if peer else 400, peer)


@pytest.mark.parametrize("deliver_to", ["loopback", "pod"])
def test_however_it_is_delivered(rigs: RigFactory, deliver_to: str) -> None:
    saw = ask(pod(rigs, deliver_to=deliver_to), get("/", "X-Forwarded-For: 203.0.113.7"), b"")
    assert saw.facts["peer"][0] == "203.0.113.7"


def test_other_ports_have_the_proxy_protocol(rigs: RigFactory) -> None:
    saw = ask(pod(rigs), get("/", "X-Forwarded-For: 1.1.1.1"), v2(), port=7050)
    assert tuple(saw.facts["peer"]) == CLIENT4


@pytest.mark.parametrize("data", [v2() + get(), b"EHLO a\r\n", b"\x16\x03\x01"])
def test_these_ports_take_http_alone(rigs: RigFactory, data: bytes) -> None:
    rig = pod(rigs)
    before = rig.accepted()
    with rig.connect() as client:
        client.send(data + b"\r\n\r\n")
        client.finish()
        assert read(client).status == 400
    assert rig.accepted() == before
