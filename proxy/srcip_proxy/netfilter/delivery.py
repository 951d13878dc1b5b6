"""The nftables rules of delivery to the Pod's own address: how the application's replies come back to the proxy. Pure.

A reply to a foreign address looks like any other reply of the Pod. Sets remember the proxy's connections, as connection
tracking would, but for these connections alone. An entry lives as long as its connection and some seconds: until both
sides have ended, the application may still send after any silence, and its packet must not leave the Pod.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from srcip_proxy.netfilter.matches import FAMILIES, RESET, SYN, chain
from srcip_proxy.network import MARK

MOST_CONNECTIONS = 1 << 20
"""Bound of each set, above the most that a plan allows (plan.Options). The kernel takes memory for what is in it."""
SILENCE = "5d"
"""How long a connection without any packet is remembered, as in nf_conntrack_proto_tcp.c; keep-alives are packets."""
UNANSWERED = "30s"
"""How long one that the application has not answered. HAProxy gives up after 5 s, and each further SYN counts anew."""
ENDED = "10s"
"""How long its last packets still find their way: on lo nothing is lost or comes late."""
SIDES = ("client", "application")


def rules(ports: str, versions: Iterable[int]) -> Iterator[str]:
    """All sets and chains. `versions` are those in which the Pod has an address; `ports` the right side of a match."""
    for v in versions:
        yield from _sets(v)
    # whether there are any connections: all that a Pod sends passes here, and most Pods are never reached like this
    yield "  set delivering {\n    typeof meta nfproto\n    flags dynamic, timeout"
    yield f"    size 16\n    timeout {SILENCE}\n  }}"
    comment = "replies of the application to clients: by mark back to the sidecar, not out of the Pod"
    yield chain("deliver_to_pod", comment, "route hook output priority mangle")
    yield "    oif lo goto to_lo\n    meta nfproto @delivering goto to_client\n  }"
    yield chain("to_client", "a reply on a connection of the sidecar, or on one that has just ended")
    for v in versions:
        yield f"    {_key(v, 'reply')} @delivered{v} goto from_application{v}"
        yield f"    {_key(v, 'reply')} @over{v} meta mark set {MARK:#x} accept"
    yield "  }"
    yield chain("to_lo", "connections of the sidecar to the application, at the Pod's address")
    yield from (f"    {family['ip']} daddr {family['loopback']} accept" for family in FAMILIES.values())
    for v in versions:
        yield f"    meta nfproto ipv{v} tcp dport {ports} fib saddr type != local goto to_application{v}"
    yield "  }"
    for v in versions:
        yield from _connection(v)
        yield from (*_end(v, *SIDES), *_end(v, *reversed(SIDES)))


def listening(ports: str) -> Iterator[str]:
    """For what comes in by lo: a SYN of the proxy is refused where no socket takes what comes from there.

    The kernel looks for a listener with the device of the route, which for the Pod's own address is not lo (rt_iif in
    ip_route_output_key_hash_rcu()). So it would find one that is bound to that device (SO_BINDTODEVICE), whose answer
    goes out by it, whatever the routes say. `socket` looks with lo, and does not find it.
    """
    yield f"    {SYN} tcp dport {ports} fib saddr type != local goto listening\n  }}"
    yield chain("listening", "a reset where the application listens on another device alone (SO_BINDTODEVICE)")
    yield f"    socket transparent 0 accept\n    socket transparent 1 accept\n    {RESET}"


def strayed(versions: Iterable[int]) -> Iterator[str]:
    """Replies to the proxy that would leave the Pod, as the application has bound its connection to a device: they go
    nowhere. A route could not say so: with a device given, the kernel takes any IPv4 address for a neighbour's where
    no route fits, and asks the network for it (ARP)."""
    comment = "replies for the sidecar that would leave the Pod, of an application that binds them to a device"
    yield chain("strayed", comment, "filter hook postrouting priority raw")
    yield f"    oif lo accept\n    meta mark {MARK:#x} counter drop"
    yield from (f"    {FAMILIES[v]['ip']} saddr {FAMILIES[v]['loopback']} counter drop" for v in versions)
    yield "  }"


def untracked(ports: str, versions: Iterable[int]) -> Iterator[str]:
    """Keeps these connections out of connection tracking. Replies have no mark yet, so they seem to leave the Pod."""
    yield f"    oif lo tcp dport {ports} fib saddr type != local notrack accept"
    for v in versions:
        for name in ("delivered", "over"):
            yield f"    tcp sport {ports} {_key(v, 'reply')} @{name}{v} notrack accept"


def _key(version: int, direction: str) -> str:
    """Client, its port and the application's port, as packets to the application or replies have them."""
    near, mine, other = ("saddr", "sport", "dport") if direction == "there" else ("daddr", "dport", "sport")
    return f"{FAMILIES[version]['ip']} {near} . tcp {mine} . tcp {other}"


def _sets(version: int) -> Iterator[str]:
    """`delivered` has the connections that may go on, `over` those that both sides have ended or one has reset, and the
    others those of which one side has sent its FIN."""
    timeouts = {"delivered": SILENCE, "over": ENDED, **{f"ended_by_{side}": SILENCE for side in SIDES}}
    for name, timeout in timeouts.items():
        # typeof, without which nft 1.0 cannot list what a newer one wrote
        yield f"  set {name}{version} {{\n    typeof {_key(version, 'there')}\n    flags dynamic, timeout"
        yield f"    size {MOST_CONNECTIONS}\n    timeout {timeout}\n  }}"


def _connection(version: int) -> Iterator[str]:
    """Packets of the proxy, and the application's replies to them.

    Only a SYN adds a connection, for a short time until there is an answer: an application whose queue is full would
    fill the set. Where it is full the connection is refused at once, as one that is over.
    """
    key = _key(version, "there")
    yield chain(f"to_application{version}", "a packet of the sidecar: its connection stays in the sets")
    yield f"    tcp flags & (syn | ack) == syn goto begin{version}"
    yield f"    tcp flags & rst == rst goto over_by_client{version}"
    yield f"    tcp flags & fin == fin goto end_by_client{version}"
    # `update` alone would add what is not there: a packet after the end would bring its connection back for five days
    yield f"    {key} @delivered{version} update @delivered{version} {{ {key} timeout {SILENCE} }}"
    yield "  }"
    yield chain(
        f"begin{version}", ("a new connection of the sidecar; the counter counts those refused as the set is full")
    )
    # the port may have had a connection before, whose FINs must not count for this one
    yield from (f"    delete @ended_by_{side}{version} {{ {key} }}" for side in SIDES)
    yield f"    update @delivering {{ meta nfproto timeout {SILENCE} }}"
    yield f"    update @delivered{version} {{ {key} timeout {UNANSWERED} }} accept"
    # only reached where the update above has found no room; without the entry in `over` the RST would leave the Pod, to
    # the client
    yield f"    counter update @over{version} {{ {key} timeout {ENDED} }} reject with tcp reset\n    drop\n  }}"
    yield chain(f"from_application{version}", "a reply on a connection of the sidecar: marked, and so routed to lo")
    yield f"    meta mark set {MARK:#x}"
    yield f"    tcp flags & rst == rst goto over_by_application{version}"
    yield f"    tcp flags & fin == fin goto end_by_application{version}"
    yield f"    update @delivered{version} {{ {_key(version, 'reply')} timeout {SILENCE} }}"
    yield f"    update @delivering {{ meta nfproto timeout {SILENCE} }}\n  }}"


def _end(version: int, side: str, other: str) -> Iterator[str]:
    """A FIN of this side. It may come again, so what counts is whose it is, and not that it is the second one."""
    key = _key(version, "there" if side == "client" else "reply")
    yield chain(f"end_by_{side}{version}", f"a FIN of the {side}")
    yield f"    {key} @ended_by_{other}{version} goto over_by_{side}{version}"
    yield f"    update @ended_by_{side}{version} {{ {key} timeout {SILENCE} }}"
    yield "  }"
    yield chain(f"over_by_{side}{version}", f"the connection has ended, by a RST or the last FIN of the {side}")
    yield f"    update @over{version} {{ {key} timeout {ENDED} }}"
    yield from (f"    delete @{name}{version} {{ {key} }}" for name in ("delivered", *map("ended_by_{}".format, SIDES)))
    yield "  }"
