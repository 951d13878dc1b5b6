"""The nftables rules of redirect mode: trusted connections are redirected to the sidecar's port. Pure.

Redirection needs connection tracking, so that HAProxy can ask for the original port; all other packets of the
intercepted ports are kept out of it. Beside a mesh they are not, or its own redirection could not take them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from srcip_proxy.netfilter.matches import FAMILIES, RESET, SYN, chain, one_of, ports6, to_port6
from srcip_proxy.network import CHECK4
from srcip_proxy.plan import CHECK_PORT, CHECK_PROXY_PORT, PROXY_PORT, UID, Plan
from srcip_proxy.pod import Pod
from srcip_proxy.quoting import word
from srcip_proxy.trust import who

MAP = "inbound_ports6"


def intercept(plan: Plan, pod: Pod, versions: Iterable[int]) -> Iterator[str]:
    """To the proxy, and nobody else there: a connection that was not redirected has no port to go to."""
    matches = [(v, match) for v in versions for match in _trusted(plan, pod, v)]
    if any(v == 6 for v, _ in matches):
        yield from ports6(MAP, plan.inbound_ports)
    comment = "connections of trusted networks to intercepted ports; all else passes without tracking"
    yield chain("intercept", comment, "filter hook prerouting priority raw")
    # what comes from lo keeps what was decided when it left (to_lo); the most frequent packets come first
    yield "    iif lo accept"
    yield from (f"    {match} goto intercept{v}" for v, match in matches)
    yield f"    tcp dport {PROXY_PORT} {RESET}"
    if plan.probe_aliases:
        yield from (f"    {FAMILIES[v]['ip']} saddr @probers{v} accept" for v in versions)
    yield "  }" if plan.mesh else f"    tcp dport {one_of(plan.inbound_ports)} notrack\n  }}"
    yield from (_listening(v, plan.mesh) for v in versions)
    # before a mesh's redirection, whichever of the two was loaded first
    yield chain("redirected", "new connections to the sidecar", "nat hook prerouting priority dstnat - 1")
    # a connection begins with a SYN; what else seems to begin one is of a connection that the Pod has opened itself
    to_proxy = {4: f"redirect to :{PROXY_PORT}", 6: to_port6(MAP, PROXY_PORT)}
    yield from (f"    iif != lo {match} {SYN} {to_proxy[v]}" for v, match in matches)
    yield "  }"
    # A segment that connection tracking calls invalid, such as one far outside the window, is not translated. It would
    # meet the application's listener, whose RST would end the connection that the sidecar has.
    comment = "segments that connection tracking calls invalid must not meet the application's listener"
    yield chain("strayed", comment, "filter hook prerouting priority mangle")
    yield from (f"    iif != lo {match} ct state invalid drop" for _, match in matches)
    yield "  }"
    yield from _leaving(plan, versions)


def _trusted(plan: Plan, pod: Pod, version: int) -> Iterator[str]:
    trusted, native = who(plan, pod, version)
    ip = FAMILIES[version]["ip"]
    unless = f" {ip} saddr != {one_of(native)}" if native else ""
    if trusted:
        yield f"{ip} saddr {one_of(trusted)} tcp dport {one_of(plan.inbound_ports)}{unless}"


def _listening(version: int, has_mesh: bool) -> str:
    """Where no socket is, the client is refused as without srcip: it must not find the proxy in its place."""
    found = "".join(f"    socket transparent {flag} accept\n" for flag in (0, 1))
    # the answer to a SYN of the Pod's own, which is not tracked
    answer = "" if has_mesh else "    tcp flags & (syn | ack) == (syn | ack) notrack accept\n"
    other = f"{answer}    tcp flags & (fin | syn | rst | ack) != syn accept\n"
    head = chain(f"intercept{version}", "tracked, and so redirected, where a socket listens; else the kernel refuses")
    return f"{head}\n{other}{found}    notrack\n  }}"


def _leaving(plan: Plan, versions: Iterable[int]) -> Iterator[str]:
    """What the Pod itself sends. srcip's loopback address is the sidecar's alone: an application may believe the
    headers of whoever comes from there."""
    ports = one_of(plan.inbound_ports)
    comment = "replies of connections that were not redirected: without connection tracking"
    yield chain("leaving", comment, "filter hook output priority raw")
    yield "    oif lo goto to_lo"
    if plan.probe_aliases:
        yield from (f"    {FAMILIES[v]['ip']} daddr @probers{v} accept" for v in versions)
    yield "  }" if plan.mesh else f"    tcp sport {ports} notrack\n  }}"
    yield chain("to_lo", "inside the Pod: only the sidecar has srcip's loopback address as source")
    yield f"    tcp dport {PROXY_PORT} {RESET}"
    # an application that binds to srcip's address and connects to a neighbour could state any client in headers
    for v in versions:
        own = f"{FAMILIES[v]['ip']} saddr {FAMILIES[v]['loopback']}"
        yield f"    {own} {SYN} tcp dport {ports} meta skuid != {word(UID)} {RESET}"
    yield f"    tcp sport {ports} notrack\n    tcp dport {ports} notrack\n  }}"
    check = f"ip saddr {CHECK4} tcp dport {CHECK_PORT} redirect to :{CHECK_PROXY_PORT}"
    yield chain("checked", "connections of srcip-proxy check", "nat hook output priority -100")
    yield f"    {check}\n  }}"
