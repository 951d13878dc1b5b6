"""What the programs are told: pure, and in step with the C."""

import ipaddress
import re
import struct

from hypothesis import given
from hypothesis import strategies as st

from srcip_lab import bpf
from srcip_proxy.ebpf import maps
from srcip_proxy.ebpf.counters import ADDRESS, COUNTERS, FINGERPRINT_PORT
from srcip_proxy.ebpf.maps import Entry, entries, fingerprint
from srcip_proxy.plan import PortRange, merge
from srcip_proxy.pod import Pod
from support.rig import plan

HERE = 9
"""The cookie of the network namespace."""
POD = Pod((ipaddress.ip_address("10.0.0.2"),))
STATE = (bpf.SOURCES / "state.h").read_text()
GETPEERNAME = (bpf.SOURCES / "getpeername.h").read_text()
PORTS = st.integers(1, 65535).filter(lambda port: not 15300 < port < 15330)


def of(name: str, found: list[Entry]) -> dict[bytes, bytes]:
    return {entry.key: entry.value for entry in found if entry.name == name}


def test_counters_have_the_order_of_the_c() -> None:
    """A name for each number: refused, malformed is REFUSED_MALFORMED."""
    body = re.search(r"enum counter \{(.*?)\};", STATE, re.DOTALL)
    assert body
    names = re.findall(r"^\t([A-Z_]+),", body[1], re.MULTILINE)
    assert names == [f"{series}_{label}".upper() for series, label in COUNTERS] + ["COUNTER_COUNT"]


def test_constants_are_those_of_the_c() -> None:
    assert f"#define STATS_ADDRESS {int(ipaddress.ip_address(ADDRESS)):#x}" in GETPEERNAME
    assert f"#define FINGERPRINT_PORT {FINGERPRINT_PORT}" in GETPEERNAME
    assert "enum { OFF, REQUIRED, OPTIONAL };" in STATE
    assert maps.POLICIES == {"off": 0, "required": 1, "optional": 2}
    header = (bpf.SOURCES / "header.h").read_text()
    assert f"#define SRCIP_MAX_HEADER {maps.MAX_HEADER}" in header


@given(st.lists(PORTS, min_size=1, max_size=20))
def test_exactly_the_ports_of_the_plan_are_intercepted(ports: list[int]) -> None:
    ranges = merge(PortRange(port, port) for port in ports)
    words = of("ports", entries(plan(inbound_ports=ranges), POD, 1, HERE))
    found = {
        struct.unpack("=I", key)[0] * 64 + bit
        for key, value in words.items()
        for bit in range(64)
        if struct.unpack("=Q", value)[0] >> bit & 1
    }
    assert found == set(ports)


def test_all_ports() -> None:
    ranges = (PortRange(1, 15300), PortRange(15330, 65535))
    words = of("ports", entries(plan(inbound_ports=ranges), POD, 1, HERE))
    assert sum(struct.unpack("=Q", value)[0].bit_count() for value in words.values()) == 15300 + 65535 - 15329


def test_the_node_has_its_own_policy_where_it_is_trusted() -> None:
    """Its address is a longer prefix than the network; a node that is not trusted gets none."""
    node = (ipaddress.ip_address("10.77.1.9"), ipaddress.ip_address("192.0.2.1"))
    networks = of("networks", entries(plan(), Pod(POD.addresses, node), 1, HERE))
    mapped = bytes(10) + b"\xff\xff"
    assert networks == {
        struct.pack("=I", 96 + 24) + mapped + bytes([10, 77, 1, 0]): struct.pack("=I", 1),
        struct.pack("=I", 128) + mapped + bytes([10, 77, 1, 9]): struct.pack("=I", 2),
        struct.pack("=I", 64) + ipaddress.ip_address("fd77:0:0:1::").packed: struct.pack("=I", 1),
    }


def test_the_option_is_asked_for_where_the_plan_says_so() -> None:
    """In the place that the C reads: behind the fingerprint, between what else is yes or no."""
    for changes, is_toa in (({}, 0), ({"mode": "ebpf", "client_from": "toa"}, 1)):
        (value,) = of("settings_map", entries(plan(**changes), POD, 7, HERE)).values()
        assert (value[:8], struct.unpack("=IBBxx", value[-8:])) == (struct.pack("=Q", HERE), (7, 0, is_toa))


def test_a_fingerprint_tells_plans_pods_and_programs_apart() -> None:
    other = Pod((ipaddress.ip_address("10.0.0.3"),))
    numbers = [
        fingerprint(plan(), POD, b"a"),
        fingerprint(plan(), POD, b"b"),
        fingerprint(plan(), other, b"a"),
        fingerprint(plan(proxy_protocol="optional"), POD, b"a"),
    ]
    assert len(set(numbers)) == len(numbers)
    assert 0 not in numbers
