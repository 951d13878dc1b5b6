"""The nftables rules of one Pod: what is intercepted, what is refused, how replies come back.

One `inet` table of our own, replaced in one transaction, so that a second run finds nothing to trip over. Pure: a plan
and a Pod in, text for `nft -f -` out.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from srcip_proxy.network import CHECK4, LOOPBACK4, LOOPBACK6, MARK
from srcip_proxy.plan import CHECK_PORT, PROXY_PORT, Plan, ProbeAlias
from srcip_proxy.pod import Address, Pod
from srcip_proxy.text import BANNER, word, words

FAMILIES = {
    4: {"ip": "ip", "type": "ipv4_addr", "proxy": "127.0.0.1", "loopback": LOOPBACK4},
    6: {"ip": "ip6", "type": "ipv6_addr", "proxy": "[::1]", "loopback": LOOPBACK6},
}
"""What differs between IPv4 and IPv6 in the rules."""


def render(plan: Plan, pod: Pod) -> str:
    """The whole text for `nft -f -`."""
    versions = (4, 6) if pod.ipv6 else (4,)
    parts: list[Iterable[str]] = [_sets(plan, pod, v) for v in versions]
    parts += [_port_sets(plan), _intercept(versions)]
    if plan.deliver_to != "loopback" or plan.probe_aliases:
        parts += [_untracked_in(plan, versions), _untracked_out(plan, versions)]
    if plan.deliver_to != "loopback":
        parts.append(_POD_DELIVERY)
    if plan.probe_aliases:
        parts.append(_probes(plan.probe_aliases))
    body = "\n".join(line for part in parts for line in part)
    return f"{BANNER}table inet srcip {{}}\ndelete table inet srcip\ntable inet srcip {{\n{body}\n}}\n"


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


def _sets(plan: Plan, pod: Pod, version: int) -> Iterator[str]:
    family = FAMILIES[version]
    for name, members in intercepted(plan, pod).items():
        mine = [m for m in members if ipaddress.ip_network(m).version == version]
        yield f"  set {name}{version} {{ type {family['type']}; flags interval; auto-merge; {_elements(mine)}}}"
    if plan.probe_aliases:
        # dynamic: who has used an alias port, and so needs connection tracking
        yield (f"  set probers{version} {{ type {family['type']}; flags dynamic, timeout; size 1024; timeout 10m; }}")


def _port_sets(plan: Plan) -> Iterator[str]:
    # the check's port is delivered like the others, so that the check proves their delivery
    yield f"  set ports {{ type inet_service; flags interval; {_elements((*plan.inbound_ports, CHECK_PORT))}}}"
    # dynamic: ports whose application is reached at the Pod's own address; only these are tracked
    yield "  set pod_ports { type inet_service; flags dynamic; size 65535; }"


def _elements(members: Iterable[object]) -> str:
    text = words(members)
    return f"elements = {{ {text} }} " if text else ""


def _intercept(versions: Iterable[int]) -> Iterator[str]:
    """To the proxy. lo is left out, or a connection that the proxy makes would meet the proxy again. The most frequent
    packets are decided by the first rules: each connection passes every chain some sixteen times."""
    yield "  chain intercept {\n    type filter hook prerouting priority mangle; policy accept;"
    yield '    iifname "lo" goto from_lo'
    yield from (f"    {_from_trusted(v)} goto intercept{v}" for v in versions)
    yield "  }"
    yield from (f"  chain intercept{v} {{\n{_INTERCEPT[v]}    reject with tcp reset\n  }}" for v in versions)
    check = f"ip saddr {CHECK4} ip daddr != {LOOPBACK4} tcp dport {CHECK_PORT}"
    yield f"  chain from_lo {{\n    {check} {_to_proxy(4)}\n  }}"


def _from_trusted(version: int) -> str:
    ip = FAMILIES[version]["ip"]
    return f"{ip} saddr @trusted{version} tcp dport @ports {ip} saddr != @native{version}"


def _to_proxy(version: int) -> str:
    """`tproxy` finds established connections by itself, and lets a SYN that reuses a port in TIME_WAIT begin anew; the
    usual `socket transparent 1 accept` before it would lead that SYN to the application."""
    family = FAMILIES[version]
    return f"meta l4proto tcp tproxy {family['ip']} to {family['proxy']}:{PROXY_PORT} accept"


# What matches no rule here is refused: the proxy is not running, and the application must not see the raw header with
# the balancer's address. So is a SYN to an IPv4 port where no socket is: the client is refused as without srcip, and a
# health check that only connects tells the truth. Over IPv6 the application may be an IPv4 one that has IPv4 clients.
_INTERCEPT = {
    4: f"    tcp flags & (fin | syn | rst | ack) != syn {_to_proxy(4)}\n"
    f"    socket transparent 0 {_to_proxy(4)}\n"
    f"    socket transparent 1 {_to_proxy(4)}\n",
    6: f"    {_to_proxy(6)}\n",
}


def _untracked_in(plan: Plan, versions: Iterable[int]) -> Iterator[str]:
    """Connection tracking is kept away from all that does not need it, so that a Pod cannot exhaust it."""
    yield "  chain untracked_in {\n    type filter hook prerouting priority raw; policy accept;"
    yield '    iifname "lo" accept'
    yield from (f"    {_from_trusted(v)} notrack accept" for v in versions)
    yield "    tcp dport != @ports accept"
    if plan.probe_aliases:
        yield from (f"    {FAMILIES[v]['ip']} saddr @probers{v} accept" for v in versions)
    yield "    tcp dport != @pod_ports notrack accept\n  }"


def _untracked_out(plan: Plan, versions: Iterable[int]) -> Iterator[str]:
    yield "  chain untracked_out {\n    type filter hook output priority raw; policy accept;"
    for v in versions:
        family = FAMILIES[v]
        yield f'    oifname "lo" {family["ip"]} daddr {family["loopback"]} notrack accept'
        yield f'    oifname "lo" {family["ip"]} saddr {family["loopback"]} notrack accept'
    # replies of the proxy itself leave from its transparent sockets
    yield '    oifname != "lo" socket transparent 1 notrack accept'
    yield '    oifname "lo" tcp dport @ports fib saddr type != local add @pod_ports { tcp dport } accept'
    yield "    tcp sport != @ports accept"
    if plan.probe_aliases:
        yield from (f"    {FAMILIES[v]['ip']} daddr @probers{v} accept" for v in versions)
    yield "    tcp sport != @pod_ports notrack accept\n  }"


# Replies of an application that is reached at the Pod's own address look like any other reply; connection tracking
# knows which of them answer the proxy. Only this delivery needs it.
_POD_DELIVERY = (
    "  chain deliver_to_pod {",
    "    type route hook output priority mangle; policy accept;",
    f'    oifname "lo" ct state new fib saddr type != local tcp dport @ports ct mark set {MARK}',
    f"    ct direction reply ct mark {MARK} meta mark set {MARK}",
    "  }",
)


def _probes(aliases: Iterable[ProbeAlias]) -> Iterator[str]:
    """kubelet sends no PROXY header: its probes have ports of their own, which the kernel leads to the real ones."""
    pairs = ", ".join(f"{word(a.alias)} : {word(a.port)}" for a in aliases)
    numbers = words(a.alias for a in aliases)
    yield "  chain probes {\n    type nat hook prerouting priority dstnat; policy accept;"
    for v in (4, 6):
        ip = FAMILIES[v]["ip"]
        yield f'    iifname != "lo" tcp dport {{ {numbers} }} update @probers{v} {{ {ip} saddr }}'
    yield f'    iifname != "lo" meta l4proto tcp redirect to :tcp dport map {{ {pairs} }}\n  }}'
