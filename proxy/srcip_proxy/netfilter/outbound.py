"""The nftables rules of outgoing connections: those to the outbound ports are redirected to the sidecar. Pure.

HAProxy asks the kernel for the original destination of an IPv4 connection. For IPv6 it cannot, so the connection
carries it: it is led to an address whose last two bytes are the port, and seems to come from where it was to go.
"""

from __future__ import annotations

from collections.abc import Iterator

from srcip_proxy.netfilter.matches import RESET, SYN, chain, one_of, ports6, to_port6
from srcip_proxy.network import PORTS6
from srcip_proxy.plan import CHECK_PROXY_PORT, OUTBOUND_PORT, UID, Plan
from srcip_proxy.pod import Pod
from srcip_proxy.quoting import word

MAP = "outbound_ports6"
LINK_LOCAL = {4: "ip daddr 169.254.0.0/16", 6: "ip6 daddr fe80::/10"}
"""Never redirected: an IPv6 one needs its interface, and the metadata services of clouds refuse X-Forwarded-For."""


def rules(plan: Plan, pod: Pod) -> Iterator[str]:
    """All chains for outgoing connections."""
    if pod.ipv6:
        yield from ports6(MAP, plan.outbound_ports)
    yield from _guard(plan, pod)
    if not plan.mesh_proxy_uids:
        yield from _taken()
    comment = "the application's connections to outbound-ports: to the sidecar; not its own, nor those inside the Pod"
    # before a mesh's redirection, whichever of the two was loaded first
    yield chain("outbound", comment, "nat hook output priority -101")
    yield f"    oif lo accept\n    fib daddr type local accept\n    meta skuid {_proxies(plan)} accept"
    yield from (f"    {LINK_LOCAL[v]} accept" for v in pod.versions)
    to_proxy = {
        4: f"tcp dport {one_of(plan.outbound_ports)} redirect to :{OUTBOUND_PORT}",
        6: to_port6(MAP, OUTBOUND_PORT),
    }
    # a connection begins with a SYN; what else seems to begin one is of a connection that is not tracked
    yield from (f"    meta nfproto ipv{v} {SYN} {to_proxy[v]}" for v in pod.versions)
    yield "  }"
    if pod.ipv6:
        comment = "the original destination as source: HAProxy can't ask the kernel for it over IPv6"
        yield chain("outbound_source", comment, "nat hook postrouting priority srcnat")
        yield f"    oif lo ip6 daddr {PORTS6}/112 tcp dport {OUTBOUND_PORT} snat ip6 to ct original ip6 daddr\n  }}"


def _guard(plan: Plan, pod: Pod) -> Iterator[str]:
    """Nobody comes to the sidecar but by redirection, and what cannot be redirected goes nowhere."""
    comment = "no host outside the Pod reaches the sidecar's port for outgoing connections"
    yield chain("outbound_in", comment, "filter hook prerouting priority raw - 2")
    yield f"    iif != lo tcp dport {OUTBOUND_PORT} {RESET}\n  }}"
    comment = "no process inside either, but by redirection; what can't be redirected is refused"
    yield chain("outbound_out", comment, "filter hook output priority raw - 2")
    yield f"    oif lo tcp dport {OUTBOUND_PORT} {RESET}\n    oif lo accept"
    ports = f"tcp dport {one_of(plan.outbound_ports)}"
    refused = f"{SYN} {ports} meta skuid != {_proxies(plan)} {RESET}"
    if plan.inbound_ports:  # what leaves from there is a reply, and not tracked
        yield f"    tcp sport {one_of(plan.inbound_ports)} {refused}"
    if not pod.ipv6:
        yield f"    {LINK_LOCAL[6]} accept\n    meta nfproto ipv6 {refused}"
    yield "  }"


def _taken() -> Iterator[str]:
    """The sidecar's own connections, where another redirection of the Pod has taken them: those that its proxy makes in
    their place would be led to the sidecar, and go round for ever. So they are refused until its user is told. The
    check's connection is redirected by srcip itself."""
    comment = "a mesh whose user is not known has taken the sidecar's connection: see mesh-proxy-uids"
    yield chain("outbound_taken", comment, "filter hook output priority 0")
    taken = f"meta skuid {word(UID)} tcp dport != {CHECK_PROXY_PORT} ct status dnat"
    yield f"    {SYN} {taken} counter {RESET}\n  }}"


def _proxies(plan: Plan) -> str:
    """The right side of a match of users: srcip's, and those of a mesh, which takes the sidecar's connections and makes
    others in their place. Led to the sidecar, these would go round for ever."""
    return one_of((UID, *plan.mesh_proxy_uids))
