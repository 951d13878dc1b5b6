"""A source is trusted by the same networks in each mode: in nftables, in Lua and in the maps of ebpf mode."""

import ipaddress
import random
import struct
import subprocess
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from srcip_proxy import ebpf_maps, nft_words
from srcip_proxy.plan import Plan, PortRange
from srcip_proxy.pod import Pod

LUA = Path(__file__).parents[2] / "proxy/srcip_proxy/lua"
POD = Pod((ipaddress.ip_address("10.0.0.9"),), (ipaddress.ip_address("10.0.0.1"),))
NESTS = ("::ffff:192.0.2.0", "64:ff9b::192.0.2.0", "::192.0.2.0", "2001:db8::", "192.0.2.0", "10.0.0.0")
"""Addresses that are near each other: mapped, NAT64, compatible, and of both families."""

addresses = st.one_of(
    st.ip_addresses(v=4),
    st.ip_addresses(v=6),
    st.builds(lambda base, low: ipaddress.ip_address(base) + low, st.sampled_from(NESTS), st.integers(0, 300)),
)


@st.composite
def networks(draw: st.DrawFn) -> str:
    address = draw(addresses)
    length = draw(st.integers(0, address.max_prefixlen))
    return str(ipaddress.ip_network((address, length), strict=False))


plans = st.builds(
    lambda cidrs: Plan(
        inbound_ports=(PortRange(25, 25),),
        trusted_cidrs=tuple(sorted(set(cidrs))),
        node_proxy_protocol="required",
    ),
    st.lists(networks(), min_size=1, max_size=6),
)


def by_nftables(plan: Plan, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """A rule for each IP version has the networks of that version."""
    trusted, _ = nft_words.who(plan, POD, address.version)
    return any(address in ipaddress.ip_network(network) for network in trusted)


def by_maps(plan: Plan, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """The longest prefix counts; IPv4 addresses are looked up as mapped ones (proxy/bpf/state.h)."""
    packed = address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed
    bits, best = int.from_bytes(packed, "big"), (-1, 0)
    for entry in ebpf_maps.entries(plan, POD, 1, 1):
        if entry.name == "networks":
            length, network = struct.unpack("=I16s", entry.key)
            if int.from_bytes(network, "big") >> (128 - length) == bits >> (128 - length):
                best = max(best, (length, struct.unpack("=I", entry.value)[0]))
    return best[1] != ebpf_maps.POLICIES["off"]


def is_mapped(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """No packet has such a source: the kernel drops it (ip6_rcv_core in net/ipv6/ip6_input.c)."""
    return address.version == 6 and address in ebpf_maps.MAPPED


@given(plans, addresses)
def test_nftables_and_the_maps_trust_the_same_sources(plan: Plan, address) -> None:
    if not is_mapped(address):
        assert by_nftables(plan, address) == by_maps(plan, address) == nft_words.trusts(plan, address)


def test_lua_trusts_the_same_sources() -> None:
    """For lists of addresses in headers, where a mapped address is an IPv4 one."""
    chance = random.Random(7)  # noqa: S311
    lines, wanted = [], []
    for _ in range(3000):
        base = ipaddress.ip_address(chance.choice(NESTS))
        near = ipaddress.ip_network((base, chance.randrange(base.max_prefixlen + 1)), strict=False)
        address = ipaddress.ip_address(chance.choice(NESTS)) + chance.randrange(300)
        if is_mapped(address) or (near.version == 6 and near.overlaps(ebpf_maps.MAPPED) and near.prefixlen > 96):
            continue
        packed = "".join(f"\\x{byte:02x}" for byte in address.packed)
        lines.append(f'print(networks("{near}")("{packed}") and 1 or 0)')
        wanted.append(str(int(address in near)))
    script = f'package.path = "{LUA}/?.lua;" .. package.path\nlocal networks = require("networks")\n' + "\n".join(lines)
    done = subprocess.run(["lua5.4", "-"], input=script, text=True, check=True, stdout=subprocess.PIPE)
    assert done.stdout.split() == wanted
