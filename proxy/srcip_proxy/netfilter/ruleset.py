"""The nftables rules of one Pod: what is intercepted, what is refused, how replies come back.

One `inet` table of our own, replaced in one transaction, so that a second run finds nothing to trip over. Pure: a plan
and a Pod in, text for `nft -f -` out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from srcip_proxy.netfilter import delivery, outbound, redirect
from srcip_proxy.netfilter.matches import FAMILIES, RESET, chain, named_map, one_of
from srcip_proxy.network import CHECK4, LOOPBACK
from srcip_proxy.plan import CHECK_PORT, CHECK_PROXY_PORT, PROXY_PORT, Plan, ProbeAlias
from srcip_proxy.pod import Pod
from srcip_proxy.quoting import BANNER
from srcip_proxy.trust import who


def render(plan: Plan, pod: Pod) -> str:
    """The whole text for `nft -f -`."""
    parts = _redirected(plan, pod) if plan.redirects else _transparent(plan, pod)
    leaving = [outbound.rules(plan, pod)] if plan.outbound_ports else []
    body = "\n".join(line for part in (*parts, *leaving) for line in part)
    return f"{BANNER}table inet srcip {{}}\ndelete table inet srcip\ntable inet srcip {{\n{body}\n}}\n"


def _transparent(plan: Plan, pod: Pod) -> Iterator[Iterable[str]]:
    if not plan.inbound_ports:  # they may be in the kernel's hands (Plan.is_idle); probes go to their aliases still
        if plan.probe_aliases:
            yield _probes(plan.probe_aliases, pod.versions)
        return
    # the check's port is delivered like the others, so that the check proves their delivery
    ports = one_of((*plan.inbound_ports, CHECK_PORT))
    yield _intercept(plan, pod, pod.versions)
    yield delivery.strayed(pod.versions)
    if plan.deliver_to != "loopback":
        yield delivery.rules(ports, [v for v in pod.versions if pod.own(v)])
    if plan.probe_aliases:
        yield _probes(plan.probe_aliases, pod.versions)
    if _is_apart(plan):
        yield _untracked(ports, plan, pod.versions)


def _redirected(plan: Plan, pod: Pod) -> Iterator[Iterable[str]]:
    if not plan.inbound_ports:
        return
    if plan.probe_aliases:
        yield _probes(plan.probe_aliases, pod.versions)
    yield redirect.intercept(plan, pod, pod.versions)


def _intercept(plan: Plan, pod: Pod, versions: Iterable[int]) -> Iterator[str]:
    """To the proxy. lo is left out, or a connection that the proxy makes would meet the proxy again. Each connection
    passes here some sixteen times, so the most frequent packets are decided by the first rules."""
    members = {v: who(plan, pod, v) for v in versions}
    comment = "connections of trusted networks to intercepted ports; all else passes unchanged"
    yield chain("intercept", comment, "filter hook prerouting priority raw")
    yield "    iif lo goto from_lo"
    for v, (trusted, native) in members.items():
        ip = FAMILIES[v]["ip"]
        unless = f"{ip} saddr != {one_of(native)} " if native else ""
        if trusted:
            ports = one_of(plan.inbound_ports)
            yield f"    {ip} saddr {one_of(trusted)} tcp dport {ports} {unless}goto intercept{v}"
    yield "  }"
    # a mesh's redirection would take what is tracked
    untracked = "" if _is_apart(plan) else "    notrack\n"
    for v in versions:
        yield chain(f"intercept{v}", "to the sidecar; a reset where it does not run, never to the application")
        yield f"{untracked}{_INTERCEPT[v]}    {RESET}\n  }}"
    yield from _answered(plan, pod, {v: trusted for v, (trusted, _) in members.items() if trusted})
    check = f"ip saddr {CHECK4} ip daddr != {LOOPBACK[4]} tcp dport {CHECK_PORT}"
    yield chain(
        "from_lo", ("from inside the Pod: connections of srcip-proxy check, and of the sidecar to the application")
    )
    yield f"    {check} {_to_proxy(4, CHECK_PROXY_PORT)}"
    # what is intercepted keeps its port; whoever connects to the proxy's own ones would state any client
    yield f"    tcp dport {one_of((PROXY_PORT, CHECK_PROXY_PORT))} {RESET}"
    if plan.deliver_to != "loopback":
        yield from delivery.listening(one_of((*plan.inbound_ports, CHECK_PORT)))
    yield "  }"


def _is_apart(plan: Plan) -> bool:
    """Whether the Pod has connection tracking for srcip alone; then `_untracked` keeps all other traffic out of it. A
    mesh has the Pod track everything anyhow."""
    return bool(plan.probe_aliases or plan.outbound_ports) and not plan.mesh


def _answered(plan: Plan, pod: Pod, trusted: dict[int, list[str]]) -> Iterator[str]:
    """What goes back to a balancer is not tracked either, or the rest of an answer would look like a new connection."""
    if not trusted or _is_apart(plan):
        return
    comment = "replies to the load balancers: without connection tracking"
    yield chain("answered", comment, "filter hook output priority raw")
    yield from _delivered(plan, pod, trusted) if plan.mesh else ("    oif lo accept",)
    # a trusted node probes, too: what answers it is the application itself, and its alias needs tracking
    answers = "socket transparent 1 notrack" if plan.probe_aliases else "notrack"
    for v, networks in trusted.items():
        yield f"    tcp sport {one_of(plan.inbound_ports)} {FAMILIES[v]['ip']} daddr {one_of(networks)} {answers}"
    yield "  }"


def _delivered(plan: Plan, pod: Pod, versions: Iterable[int]) -> Iterator[str]:
    """The sidecar's connections to the application, both ways: a mesh may take what the Pod sends over lo (Consul's
    rules leave 127.0.0.1 alone there, and nothing else), but nothing that is not tracked."""
    ports = one_of((*plan.inbound_ports, CHECK_PORT))
    for family in (FAMILIES[v] for v in versions):
        yield f"    {family['ip']} daddr {family['loopback']} tcp dport {ports} notrack accept"
        yield f"    {family['ip']} saddr {family['loopback']} tcp sport {ports} notrack accept"
    if plan.deliver_to != "loopback":
        yield from delivery.untracked(ports, [v for v in versions if pod.own(v)])
    yield "    oif lo accept"


def _to_proxy(version: int, port: int = PROXY_PORT) -> str:
    """`tproxy` finds established connections by itself, and lets a SYN that reuses a port in TIME_WAIT begin anew; the
    usual `socket transparent 1 accept` before it would lead that SYN to the application."""
    family = FAMILIES[version]
    return f"meta l4proto tcp tproxy {family['ip']} to {family['proxy']}:{port} accept"


# The Pod may have opened the connection itself, from a port that is intercepted: `tproxy` finds its socket and passes
# it over, as it is not transparent. Only a SYN can begin a connection, so all else may meet the Pod's own sockets.
_OWN = "    tcp flags & (fin | syn | rst | ack) != syn socket transparent 0 accept\n"

# What matches no rule here is refused: the proxy is not running, and the application must not see the raw header with
# the balancer's address. So is a SYN to an IPv4 port where no socket is: the client is refused as without srcip, and a
# health check that only connects tells the truth. Over IPv6 the application may be an IPv4 one that has IPv4 clients.
_INTERCEPT = {
    4: f"    tcp flags & (fin | syn | rst | ack) != syn {_to_proxy(4)}\n"
    f"    socket transparent 0 {_to_proxy(4)}\n"
    f"    socket transparent 1 {_to_proxy(4)}\n{_OWN}",
    6: f"    {_to_proxy(6)}\n{_OWN}",
}


def _probes(aliases: Iterable[ProbeAlias], versions: Iterable[int]) -> Iterator[str]:
    """kubelet sends no PROXY header: its probes have ports of their own, which the kernel leads to the real ones."""
    pairs = {a.alias: a.port for a in aliases}
    # dynamic: who has used an alias port, and so needs connection tracking
    for v in versions:
        yield f"  set probers{v} {{\n    typeof {FAMILIES[v]['ip']} saddr\n    flags dynamic, timeout"
        yield "    size 1024\n    timeout 10m\n  }"
    yield from named_map("aliases", "tcp dport : tcp dport", pairs)
    # before a mesh's redirection, whichever of the two was loaded first
    comment = "kubelet's probes: from the alias ports to the application, past the sidecar"
    yield chain("probes", comment, "nat hook prerouting priority dstnat - 1")
    for v in versions:
        yield f"    iif != lo tcp dport {one_of(pairs)} update @probers{v} {{ {FAMILIES[v]['ip']} saddr }}"
    yield "    iif != lo meta l4proto tcp redirect to :tcp dport map @aliases\n  }"


def _untracked(ports: str, plan: Plan, versions: Iterable[int]) -> Iterator[str]:
    """The redirection of probes and of outgoing connections brings connection tracking with it; it is kept away from
    all other traffic of the intercepted ports, so that nobody outside can exhaust it."""
    comment = "only probes and redirected connections are tracked"
    for direction, hook, near, address, far, oif in (
        ("in", "prerouting", "dport", "saddr", "sport", "iif"),
        ("out", "output", "sport", "daddr", "dport", "oif"),
    ):
        yield chain(f"untracked_{direction}", comment, f"filter hook {hook} priority raw - 1")
        if plan.probe_aliases:
            yield from (f"    {FAMILIES[v]['ip']} {address} @probers{v} tcp {near} {ports} accept" for v in versions)
        yield f"    tcp {near} {ports} notrack accept"
        if plan.outbound_ports:
            yield f"    {oif} != lo tcp {far} {one_of(plan.outbound_ports)} accept"
        yield f"    tcp {far} {ports} notrack accept\n  }}"
