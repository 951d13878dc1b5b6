"""Words of nftables that all rules share: families, networks, and who is intercepted. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping

from srcip_proxy.network import LOOPBACK, PORTS6
from srcip_proxy.plan import Plan, PortRange
from srcip_proxy.pod import Address, Pod
from srcip_proxy.text import word, words

FAMILIES = {
    4: {"ip": "ip", "type": "ipv4_addr", "proxy": "127.0.0.1", "loopback": LOOPBACK[4]},
    6: {"ip": "ip6", "type": "ipv6_addr", "proxy": "[::1]", "loopback": LOOPBACK[6]},
}
"""What differs between IPv4 and IPv6 in the rules."""
RESET = "reject with tcp reset"
SYN = "tcp flags & (fin | syn | rst | ack) == syn"


def intercepted(plan: Plan, pod: Pod) -> dict[str, tuple[str, ...]]:
    """Who is intercepted: `trusted` networks, and the `native` addresses among them that are left alone."""
    node_off = plan.node_proxy_protocol == "off"
    if plan.proxy_protocol == "off":
        inside = [] if node_off else [a for a in pod.node if trusts(plan, a)]
        return {"trusted": tuple(map(str, inside)), "native": ()}
    return {"trusted": plan.trusted_cidrs, "native": tuple(map(str, pod.node)) if node_off else ()}


def trusts(plan: Plan, address: Address) -> bool:
    """Whether a trusted network holds `address`."""
    return any(address in ipaddress.ip_network(cidr) for cidr in plan.trusted_cidrs)


def one_of(values: Iterable[object]) -> str:
    """The right side of a match: one value, or an anonymous set of several; nft finds the fastest kind of set."""
    text = words(values)
    return f"{{ {text} }}" if ", " in text else text


def networks(texts: Iterable[str], version: int) -> list[str]:
    """The networks of one IP version, overlapping ones joined: a set takes none that overlap."""
    mine = [n for n in map(ipaddress.ip_network, texts) if n.version == version]
    return [str(n) for n in ipaddress.collapse_addresses(mine)]  # type: ignore[type-var]


def who(plan: Plan, pod: Pod, version: int) -> tuple[list[str], list[str]]:
    """The same of one IP version, as networks that do not overlap."""
    both = intercepted(plan, pod)
    return networks(both["trusted"], version), networks(both["native"], version)


def named_map(name: str, types: str, pairs: Mapping[int, object]) -> Iterator[str]:
    """A map with a name and `typeof`. nft 1.0 crashes when it lists any other map that a newer nft has written, and so
    does every program of the Pod that looks at its rules."""
    elements = ", ".join(f"{word(key)} : {word(value)}" for key, value in pairs.items())
    yield f"  map {name} {{\n    typeof {types}\n    elements = {{ {elements} }}\n  }}"


def ports6(name: str, intercepted_ports: Iterable[PortRange]) -> Iterator[str]:
    """For each port an address that says it: of IPv6, HAProxy cannot ask the kernel for the original port."""
    numbers = (number for item in intercepted_ports for number in range(item.first, item.last + 1))
    yield from named_map(name, "tcp dport : ip6 daddr", {number: f"{PORTS6}{number:x}" for number in numbers})


def to_port6(name: str, port: int) -> str:
    """Leads an IPv6 connection to the sidecar's `port`, at the address that the map `name` has for its port."""
    return f"dnat ip6 to tcp dport map @{name} : {word(port)}"
