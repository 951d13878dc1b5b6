"""The plain header has a way of its own through HAProxy (fast_path.py): it must end where the whole parser ends."""

import ipaddress

import pytest

from srcip_proxy.haproxy import config, fast_path
from srcip_proxy.plan import Plan, PortRange
from srcip_proxy.pod import Pod
from support.rig import LB4, LB6, POD4, POD6, Rig, RigFactory, plan, v1, v2

NOOP = b"\x04\0\x01\0"
"""A TLV that says nothing, but makes a header one that the whole parser reads."""
CLIENTS = [
    "0.0.0.0",
    "127.0.0.1",
    "169.254.77.1",
    "169.254.7.7",
    "224.0.0.1",
    "240.1.2.3",
    "255.255.255.255",
    POD4,
    LB4,
]
CLIENTS6 = ["::", "::1", "::ffff:203.0.113.7", "64:ff9b::1", "fe80::7", "ff02::1", "fd73:7263:6970::1", POD6, LB6]
POD = Pod((ipaddress.ip_address("10.1.2.3"),), unusable=(ipaddress.ip_address("10.1.2.3"),), ipv6=False)


@pytest.mark.dataplane
@pytest.mark.parametrize("to", [POD4, POD6])
@pytest.mark.parametrize("address", ["203.0.113.9", *CLIENTS, "2001:db8::9", *CLIENTS6])
def test_the_same_client_is_shown_with_and_without_a_tlv(rig: Rig, address: str, to: str) -> None:
    """Plain or not, over the client's own family or the other, each client has the same fate."""
    fates = []
    for number, tlvs in enumerate((b"", NOOP)):
        seen = rig.seen(v2((address, 50000 + number), tlvs=tlvs) + b"x", to=to)
        port_follows = seen.peer is not None and seen.peer[1] == 50000 + number
        fates.append((seen.peer and seen.peer[0], port_follows, seen.rest, seen.refused))
    assert fates[0] == fates[1]


@pytest.mark.dataplane
@pytest.mark.parametrize("behind", [v2(("198.51.100.1", 40000)), v1(("198.51.100.1", 40000))])
def test_a_header_behind_a_plain_header_is_the_applications_data(rig: Rig, behind: bytes) -> None:
    """Nothing looks at the bytes again once the header is out."""
    assert rig.seen(v2(("203.0.113.9", 50100)) + behind).rest == behind


@pytest.mark.dataplane
def test_the_limit_counts_plain_headers_and_others_together(rigs: RigFactory) -> None:
    """One client has one budget, however its balancers write the header."""
    rig = rigs(plan(max_connections_per_client=2))
    headers = [v2(("203.0.113.30", 51000)), v2(("203.0.113.30", 51001), tlvs=NOOP), v1(("203.0.113.30", 51002))]
    clients = []
    for header in headers:
        clients.append(rig.connect())
        clients[-1].send(header + b"x")
    assert [client.seen().refused for client in clients] == [False, False, True]
    for client in clients:
        client.sock.close()


def test_without_version_2_there_is_no_plain_header() -> None:
    """A version that the Pod leaves out is never read."""
    only_1 = Plan((PortRange(25, 25),), ("192.0.2.0/24",), proxy_protocol_versions=(1,))
    assert list(fast_path.rules(only_1, POD, 4)) == []


def test_no_line_has_more_words_than_haproxy_takes() -> None:
    """As many trusted networks as a plan may hold do not break the configuration."""
    many = Plan((PortRange(25, 25),), tuple(f"198.51.{n}.0/25" for n in range(200)))
    assert max(len(line.split()) for line in config.render(many, POD).splitlines() if "lua-load" not in line) <= 64
