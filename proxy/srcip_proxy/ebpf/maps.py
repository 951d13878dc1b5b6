"""The plan and the Pod as entries of the maps of ebpf mode (proxy/bpf/state.h). Pure."""

from __future__ import annotations

import hashlib
import ipaddress
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from srcip_proxy import trust
from srcip_proxy.plan import TOA, Plan
from srcip_proxy.plan.ports import PortRange
from srcip_proxy.pod import Pod
from srcip_proxy.trust import Network

POLICIES = {"off": 0, "required": 1, "optional": 2}
MAX_HEADER = 4096
MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
IPV4 = ipaddress.IPv4Network("0.0.0.0/0")
"""The same addresses."""
_ZERO = struct.pack("=I", 0)


@dataclass(frozen=True)
class Entry:
    """One entry of one map."""

    name: str
    key: bytes
    value: bytes


def entries(plan: Plan, pod: Pod, fingerprint: int, netns_cookie: int) -> list[Entry]:
    """All entries, in the order in which they are written: the last one makes the programs start.

    `netns_cookie` is that of the Pod's network namespace (SO_NETNS_COOKIE).
    """
    found = [Entry("ports", struct.pack("=I", i), word) for i, word in _ports(plan.inbound_ports)]
    found += [Entry("networks", _trie_key(n), struct.pack("=I", POLICIES[p])) for n, p in _policies(plan, pod).items()]
    return [*found, Entry("settings_map", _ZERO, _settings(plan, fingerprint, netns_cookie))]


def fingerprint(plan: Plan, pod: Pod, program: bytes) -> int:
    """A number that tells this configuration from any other; never 0."""
    return int.from_bytes(hashlib.sha256(f"{plan.to_env()} {pod}".encode() + program).digest()[:4], "big") | 1


def plan_fingerprint(plan: Plan) -> int:
    """The same of a plan alone: what a gate can tell, which has neither the programs nor the node's addresses."""
    return int.from_bytes(hashlib.sha256(f"gate {plan.to_env()}".encode()).digest()[:4], "big") | 1


def _settings(plan: Plan, number: int, netns_cookie: int) -> bytes:
    versions = sum(plan.proxy_protocol_versions)  # a bit for each
    is_exact = plan.client_address != "best-effort"
    is_toa = plan.client_from == TOA
    limits = struct.pack("=HBx", min(plan.max_header_bytes, MAX_HEADER), versions)
    numbers = struct.pack("=II", plan.header_timeout_ms, number)
    flags = struct.pack("=??xx", is_exact, is_toa)
    return struct.pack("=Q", netns_cookie) + limits + numbers + flags


def _ports(ranges: tuple[PortRange, ...]) -> Iterator[tuple[int, bytes]]:
    """A bitmap of ports in words of 64 bits; the words that are not zero."""
    bits = 0
    for r in ranges:
        bits |= ((1 << (r.last - r.first + 1)) - 1) << r.first
    for index in range(1024):
        if word := bits >> (64 * index) & (2**64 - 1):
            yield index, struct.pack("=Q", word)


def _policies(plan: Plan, pod: Pod) -> dict[Network, str]:
    """The programs write IPv4 addresses as IPv6 ones, but an IPv6 network trusts none of them."""
    given = trust.policies(plan, pod).items()
    found = {network: policy for network, policy in given if not (network.version == 6 and network.subnet_of(MAPPED))}
    holds_ipv4 = any(network.version == 6 and network.supernet_of(MAPPED) for network in found)
    return ({IPV4: "off"} if holds_ipv4 else {}) | found


def _trie_key(network: Network) -> bytes:
    """A key of a map of type LPM_TRIE; IPv4 is in ::ffff:0:0/96."""
    first, length = network.network_address.packed, network.prefixlen
    if network.version == 4:
        first, length = bytes(10) + b"\xff\xff" + first, length + 96
    return struct.pack("=I16s", length, first)
