"""The HAProxy configuration of one sidecar. Pure: a plan and a Pod in, text out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from srcip_proxy import plain
from srcip_proxy.network import CHECK4, LOOPBACK
from srcip_proxy.plan import CHECK_PORT, CHECK_PROXY_PORT, HEALTH_PORT, PROXY_PORT, Plan, PortRange
from srcip_proxy.pod import Pod
from srcip_proxy.text import BANNER, word, words

OLDEST = "3.0"
"""The oldest HAProxy that passes all tests; an older one refuses the configuration with a message."""
HEALTH_CONNECTIONS = 100
"""Room for kubelet and Prometheus when all other connections are taken."""
WAIT_FOR_MORE = "  tcp-request content accept if { req.len gt 0 }\n  tcp-request content accept if WAIT_END"
"""A header that nothing follows yet is given 2 milliseconds. HAProxy takes a FIN that arrives while it connects, and no
data before it, for an abort, and would reset the application's connection; a FIN that is there before is passed on."""
PIPES = 64
"""Connections that move bulk data at the same time without copying; more of them are copied through buffers."""
REFUSED = "{ var(txn.srcip_refused) -m bool }"
END = "tcp-request content silent-drop rst-ttl 64"
"""Ends a connection with a RST; `reject` would send a FIN, which looks like an answer."""
LUA = Path(__file__).with_name("lua")


def render(plan: Plan, pod: Pod) -> str:
    """The whole configuration file."""
    backends = _backends(plan, pod, "", _only_port(plan))
    traffic = (_inbound(plan, pod), backends, _clients(plan), _check(plan, pod))
    sections = (_global(plan, pod), _defaults(), *traffic, _health(pod))
    return BANNER + "\n".join("\n".join(section) + "\n" for section in sections)


def connections(plan: Plan, pod: Pod) -> int:
    """How many connections the sidecar takes: as planned, or fewer where the runtime gives it fewer files.

    Two files a connection; HAProxy would not start with a number that it has no files for.
    """
    return max(1, min(plan.max_connections, pod.max_files // 2 - 2 * HEALTH_CONNECTIONS - PIPES))


def _global(plan: Plan, pod: Pod) -> Iterator[str]:
    yield f'.if !version_atleast({OLDEST})\n  .alert "srcip needs HAProxy {OLDEST} or newer"\n.endif'
    yield '.if !feature(LUA)\n  .alert "srcip needs a HAProxy built with Lua"\n.endif'
    yield "global"
    yield "  log stdout format raw local0 info"
    yield f"  maxconn {word(connections(plan, pod) + HEALTH_CONNECTIONS)}"
    yield f"  nbthread {word(plan.threads)}"
    yield "  setcap cap_net_raw"
    yield f"  hard-stop-after {word(max(plan.drain_timeout_s, 1))}s"
    # bulk data goes through pipes inside the kernel; few, as their memory is counted per user of the whole node
    yield f"  maxpipes {PIPES}\n  tune.pipesize 262144"
    yield f"  lua-prepend-path {word(LUA)}/?.lua"
    yield f"  lua-load {word(LUA)}/srcip.lua {' '.join(_lua_settings(plan, pod))}"


def _lua_settings(plan: Plan, pod: Pod) -> Iterator[str]:
    own = (*pod.unusable, *LOOPBACK.values(), CHECK4)
    settings = {
        "policy": plan.proxy_protocol,
        "node_policy": plan.node_proxy_protocol,
        "node": words(pod.node, ","),
        "own": words((a if isinstance(a, str) else a.exploded for a in own), ","),
        "pod4": pod.own(4) or "",
        "pod6": (pod.own(6) or "") if pod.ipv6 else "",
        "loopback4": LOOPBACK[4],
        "loopback6": LOOPBACK[6],
        "ipv6": int(pod.ipv6),
        "versions": words(plan.proxy_protocol_versions, ","),
        "max_header": plan.max_header_bytes,
        "timeout": plan.header_timeout_ms,
        "deliver_to": plan.deliver_to,
        "client_address": plan.client_address,
        "health_port": HEALTH_PORT,
    }
    return (word(f"{key}={value}") for key, value in settings.items())


def _defaults() -> Iterator[str]:
    yield "defaults"
    yield "  mode tcp"
    yield "  timeout connect 5s"
    # as without a proxy, only the two ends decide how long a connection may be idle; keep-alives find dead peers
    yield "  timeout client 24d\n  timeout server 24d\n  option clitcpka"
    yield "  option splice-auto"
    yield "  option redispatch 1"
    yield "  balance first"


def _inbound(plan: Plan, pod: Pod) -> Iterator[str]:
    # where a header must come, the kernel may as well wait for it before it wakes the sidecar
    bind = "transparent defer-accept" if plan.proxy_protocol == "required" else "transparent"
    for version in pod.versions:
        yield f"frontend inbound{version}"
        yield f"  maxconn {word(connections(plan, pod))}"
        yield f"  bind {'127.0.0.1' if version == 4 else '[::1]'}:{PROXY_PORT} {bind}"
        yield from _decisions(plan, pod, version, "")


def _decisions(plan: Plan, pod: Pod, version: int, prefix: str) -> Iterator[str]:
    """How connections of one IP version are decided, and the backend that follows: its name begins with `prefix`."""
    backend = "{ var(txn.srcip_backend) -m found }"
    yield f"  tcp-request inspect-delay {word(plan.header_timeout_ms)}ms"
    yield from plain.rules(plan, pod, version)
    yield "  tcp-request content lua.srcip_header if { req.len gt 0 }"
    undecided = f"!{backend} !{REFUSED}"
    yield f"  tcp-request content lua.srcip_late if {undecided} WAIT_END"
    yield f"  {END} if {REFUSED}"
    # what nobody has decided goes nowhere; only a plain header comes past these rules without a decision of Lua's
    yield f"  {END} if !{backend}"
    yield "  tcp-request content set-src var(txn.srcip_client),field(1,/)"
    yield "  tcp-request content set-src-port var(txn.srcip_client),field(2,/)"
    yield f"  use_backend {prefix}%[var(txn.srcip_backend)] if {backend}"
    yield f"  default_backend {prefix}client{version}"


def _check(plan: Plan, pod: Pod) -> Iterator[str]:
    """The way of `srcip-proxy check`: the same decisions, but its own port of the application."""
    yield f"frontend check\n  bind 127.0.0.1:{CHECK_PROXY_PORT} transparent"
    yield from _decisions(plan, pod, 4, "check-")
    yield from _backends(plan, pod, "check-", CHECK_PORT)


SERVERS: dict[str, dict[str, tuple[str, ...]]] = {
    "loopback": {"client": ("loopback client", "loopback clientip"), "own": ("loopback client", "loopback clientip")},
    "pod": {"client": ("pod client", "pod clientip"), "own": ("pod clientip",)},
    "auto": {
        "client": ("loopback client", "pod client", "pod clientip"),
        "own": ("loopback client", "pod clientip"),
    },
}
"""Where the application is tried, in this order, for each `srcip.io/deliver-to`.

`client` connections show the stated client; `own` ones the address that the connection itself has, whose port must not
be repeated at the Pod's own address: the inner connection would be taken for the outer one. `client` binds address and
port; `clientip` the address only, for when the port is taken.
"""


def _only_port(plan: Plan) -> int | None:
    """The single intercepted port. Known beforehand, it need not be asked of the kernel for each connection."""
    first = plan.inbound_ports[0]
    return first.first if plan.inbound_ports == (PortRange(first.first, first.first),) else None


def _backends(plan: Plan, pod: Pod, prefix: str, port: int | None) -> Iterator[str]:
    for version in pod.versions:
        for kind, servers in SERVERS[plan.deliver_to].items():
            yield f"backend {prefix}{kind}{version}\n  tcp-request inspect-delay 2ms"
            if kind == "client":
                yield from _client_limit(plan)
            yield WAIT_FOR_MORE
            targets = _targets(servers, plan, pod, version)
            yield from _servers(targets, version, f":{port}" if port else "")


def _client_limit(plan: Plan) -> Iterator[str]:
    if plan.max_connections_per_client:
        over = f"{{ sc0_conn_cur gt {word(plan.max_connections_per_client)} }}"
        yield "  tcp-request content track-sc0 src table clients"
        yield f"  tcp-request content lua.srcip_too_many if {over}\n  {END} if {over}"


def _clients(plan: Plan) -> Iterator[str]:
    if plan.max_connections_per_client:
        yield f"backend clients\n  stick-table type ipv6 size {word(plan.max_connections)} expire 1h store conn_cur"


def _targets(servers: tuple[str, ...], plan: Plan, pod: Pod, version: int) -> list[tuple[str, str]]:
    """Pairs of address and `usesrc` to try; without an address of the Pod in this family, on loopback only."""
    places = {"loopback": LOOPBACK[version], "pod": pod.own(version)}
    pairs = [server.split() for server in servers]
    if plan.client_address == "exact":
        pairs = [p for p in pairs if p[1] == "client"] or pairs
    return list(dict.fromkeys((str(places[place] or places["loopback"]), use) for place, use in pairs))


def _servers(targets: list[tuple[str, str]], version: int, port: str) -> Iterator[str]:
    """The servers of a backend: the first target by rule, the others one after the other when it fails. No `port` means
    the one that the connection came to.

    HAProxy tries the next server at once only while two are left to choose from, so the last one is there twice.
    """
    anywhere = "0.0.0.0" if version == 4 else "[::]"
    first, *others = targets
    yield f"  retries {len(others)}"
    yield "  use-server first if TRUE"
    yield f"  server first {_host(first)}{port} weight 0 source {anywhere} usesrc {word(first[1])}"
    for number, target in enumerate([*others, *others[-1:]], start=2):
        yield f"  server try{number} {_host(target)}{port} source {anywhere} usesrc {word(target[1])}"


def _host(target: tuple[str, str]) -> str:
    address = word(target[0])
    return f"[{address}]" if ":" in address else address


def _health(pod: Pod) -> Iterator[str]:
    yield "frontend health"
    yield "  mode http"
    yield "  timeout client 10s\n  timeout http-request 5s"
    yield f"  bind {'[::]' if pod.ipv6 else '0.0.0.0'}:{HEALTH_PORT}{' v4v6' if pod.ipv6 else ''}"
    yield '  http-request return status 200 content-type text/plain string "ok" if { path /healthz }'
    yield '  http-request return status 503 content-type text/plain string "stopping" if { path /readyz } { stopping }'
    yield '  http-request return status 200 content-type text/plain string "ready" if { path /readyz }'
    yield "  http-request use-service prometheus-exporter if { path /metrics/haproxy }"
    yield "  http-request use-service lua.srcip_metrics if { path /metrics }"
    yield "  http-request return status 404"
