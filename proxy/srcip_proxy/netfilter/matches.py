"""Words of nftables that all rules share: families, sets and maps. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from srcip_proxy.network import LOOPBACK, PORTS6
from srcip_proxy.plan import PortRange
from srcip_proxy.quoting import word, words

FAMILIES = {
    4: {"ip": "ip", "type": "ipv4_addr", "proxy": "127.0.0.1", "loopback": LOOPBACK[4]},
    6: {"ip": "ip6", "type": "ipv6_addr", "proxy": "[::1]", "loopback": LOOPBACK[6]},
}
"""What differs between IPv4 and IPv6 in the rules."""
RESET = "reject with tcp reset"
SYN = "tcp flags & (fin | syn | rst | ack) == syn"


def one_of(values: Iterable[object]) -> str:
    """The right side of a match: one value, or an anonymous set of several; nft finds the fastest kind of set."""
    text = words(values)
    return f"{{ {text} }}" if ", " in text else text


def chain(name: str, comment: str, base: str = "") -> str:
    """The head of a chain, with a comment for whoever lists the rules in the Pod: nft keeps none that stands outside.
    `base` is the type, hook and priority of a base chain. Kernels before 5.10 drop the comment of a chain."""
    hook = f"\n    type {base}; policy accept;" if base else ""
    return f'  chain {name} {{\n    comment "{comment}"{hook}'


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
