"""The header that nearly every balancer sends, read by HAProxy itself. Pure: a plan and a Pod in, rules out.

A Lua action sees every header, but costs more than all else that happens to a connection. So the plain header (version
2, PROXY, TCP, no TLV, the family of the connection itself) is read by HAProxy's own fetches, and Lua only takes it out.
Whatever is unusual is left to the whole parser: there is no second opinion about what is allowed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from srcip_proxy.haproxy.sections import END, acl
from srcip_proxy.network import CHECK4, LOOPBACK
from srcip_proxy.plan import Plan
from srcip_proxy.pod import Pod
from srcip_proxy.trust import networks

SIGNATURE = "0d0a0d0a000d0a515549540a"


@dataclass(frozen=True)
class Plain:
    """The plain header of one IP version: proxy-protocol.txt, section 2.2."""

    head: str
    """Its first 16 bytes: signature, version and command, family and protocol, length."""
    length: int
    """All of it, in bytes."""
    address: str
    """How HAProxy reads the source address."""
    port: str
    """How HAProxy reads the source port."""
    unusual: tuple[str, ...]
    """Where addresses lie that no client can have, or that are written in another way."""


PLAIN = {
    4: Plain(
        SIGNATURE + "2111000c",
        28,
        "req.payload(16,4),be2dec(.,1)",
        "req.payload(24,2),be2dec(,2)",
        ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"),
    ),
    6: Plain(
        SIGNATURE + "21210024",
        52,
        "req.payload(16,16),be2hex(:,2)",
        "req.payload(48,2),be2dec(,2)",
        ("::/8", "fe80::/10", "ff00::/8"),
    ),
}


def rules(plan: Plan, pod: Pod, version: int) -> Iterator[str]:
    """Rules of a frontend whose connections are of this IP version, before all others. For a plain header they end the
    evaluation, with the client as source and the header taken out, or, where Lua fails, the connection; after any other
    header they leave all as it was."""
    if 2 not in plan.proxy_protocol_versions or (plan.deliver_to == "pod" and pod.own(version) is None):
        return
    plain = PLAIN[version]
    yield f"  acl plain var(txn.srcip_head),bytes(0,16) -m bin {plain.head}"
    # a second look: addresses that no client can have, the Pod's own, and the balancers', which may send a header about
    # connections of their own
    own = (*map(str, pod.unusable), *LOOPBACK.values(), CHECK4)
    yield from acl("unusual src", networks([*PLAIN[version].unusual, *own, *plan.trusted_cidrs], version))
    yield "  acl unusual src_port lt 1024"
    # a variable, as a fetch that lacks bytes would let the rules wait for them, and a short other header be late
    yield f"  tcp-request content set-var(txn.srcip_head) req.payload(0,{plain.length})"
    yield f"  tcp-request content set-src {plain.address}"
    yield f"  tcp-request content set-src-port {plain.port}"
    yield f"  tcp-request content lua.srcip_plain{version} if plain !unusual\n  {END} if plain !unusual"
    yield "  tcp-request content set-src fc_src"
    yield "  tcp-request content set-src-port fc_src_port"
