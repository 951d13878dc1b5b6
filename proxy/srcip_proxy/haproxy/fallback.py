"""HAProxy's configuration for a client that cannot be shown, where only a try tells so. Pure.

A socket that listens at :: may take no IPv4 (IPV6_V6ONLY), and nothing in /proc says which one does. So an IPv4 client
that came over IPv6 is tried over IPv4; where that is refused, the connection goes through the sidecar once more, by an
abstract socket, and from there to the application over IPv6, with the balancer's address. HAProxy can't change the
source between two tries of one connection.

Who else connects to that socket learns nothing and gets nowhere: a TLV of the connection holds a random number, and Lua
keeps what belongs to it (lua/fallback.lua).
"""

from __future__ import annotations

from collections.abc import Iterator

from srcip_proxy.plan import Plan
from srcip_proxy.pod import Pod
from srcip_proxy.quoting import word

NAME = "shows-balancer"
SOCKET = "abns@srcip-fallback"
"""An abstract socket of unix(7), of this network namespace alone."""
TLV = "0xE0"
"""PP2_TYPE_MIN_CUSTOM of the PROXY protocol (section 2.2.7)."""
SERVER = f"{SOCKET} send-proxy-v2 set-proxy-v2-tlv-fmt({TLV}) %[var(txn.srcip_fallback)]"
FOUND = "{ var(txn.srcip_backend) -m found }"
"""Lua has chosen a backend."""


def is_needed(plan: Plan, pod: Pod) -> bool:
    """Whether there may be such a client, and it may be shown as its balancer."""
    has6 = pod.own(6) is not None if plan.deliver_to == "pod" else pod.ipv6
    return not plan.redirects and bool(plan.inbound_ports) and plan.client_address == "best-effort" and has6


def frontend(connections: int, onward: Iterator[str]) -> Iterator[str]:
    """The second way into the sidecar. `onward` are the rules by which any connection goes on that Lua has decided."""
    yield "# IPv4 clients that an IPv6-only listener has refused: a second try, with the balancer as source"
    yield f"frontend fallback\n  maxconn {word(connections)}\n  bind {SOCKET} accept-proxy"
    # a variable, as HAProxy 3.0 can't compare this fetch
    yield f"  tcp-request content set-var(txn.srcip_fallback) fc_pp_tlv({TLV})"
    yield "  tcp-request content lua.srcip_fallback"
    yield f"  tcp-request content reject if !{FOUND}"
    yield from onward


def ending() -> Iterator[str]:
    """Rules of the backend that a connection came from: where the application has not taken it on the second way
    either, it ends by a RST as on the first one. Nothing else that ends without a byte does."""
    yield "  tcp-response inspect-delay 1m"
    yield f"  tcp-response content accept if !{{ srv_name {NAME} }}"
    yield "  tcp-response content accept if { res.len gt 0 }"
    yield "  tcp-response content silent-drop rst-ttl 64 if WAIT_END { lua.srcip_is_lost -m bool }"
