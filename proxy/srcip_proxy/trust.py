"""Which sources are trusted in one Pod, and with which policy. Pure.

The one owner of that: nftables takes `who`, the maps of ebpf mode `policies`, and HAProxy's Lua asks per connection, as
the settings name the node's addresses and both policies.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from srcip_proxy.plan import Plan
from srcip_proxy.pod import Address, Pod

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def intercepted(plan: Plan, pod: Pod) -> dict[str, tuple[str, ...]]:
    """Who is intercepted: `trusted` networks, and the `native` addresses among them that are left alone."""
    node_off = plan.node_proxy_protocol == "off"
    if plan.proxy_protocol == "off":
        inside = [] if node_off else [a for a in pod.node if trusts(plan, a)]
        return {"trusted": tuple(map(str, inside)), "native": ()}
    return {"trusted": plan.trusted_cidrs, "native": tuple(map(str, pod.node)) if node_off else ()}


def policies(plan: Plan, pod: Pod) -> dict[Network, str]:
    """The policy of each trusted network; of two that hold an address the longest prefix counts."""
    found: dict[Network, str] = dict.fromkeys(map(ipaddress.ip_network, plan.trusted_cidrs), plan.proxy_protocol)
    return found | {ipaddress.ip_network(a): plan.node_proxy_protocol for a in pod.node if trusts(plan, a)}


def trusts(plan: Plan, address: Address) -> bool:
    """Whether a trusted network holds `address`."""
    return any(address in ipaddress.ip_network(cidr) for cidr in plan.trusted_cidrs)


def who(plan: Plan, pod: Pod, version: int) -> tuple[list[str], list[str]]:
    """The same of one IP version, as networks that do not overlap."""
    both = intercepted(plan, pod)
    return networks(both["trusted"], version), networks(both["native"], version)


def networks(texts: Iterable[str], version: int) -> list[str]:
    """The networks of one IP version, overlapping ones joined: a set takes none that overlap."""
    mine = [n for n in map(ipaddress.ip_network, texts) if n.version == version]
    return [str(n) for n in ipaddress.collapse_addresses(mine)]  # type: ignore[type-var]
