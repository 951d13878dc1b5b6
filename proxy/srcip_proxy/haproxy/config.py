"""The HAProxy configuration of one sidecar. Pure: a plan and a Pod in, text out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from srcip_proxy.haproxy import outbound, redirect, tproxy
from srcip_proxy.haproxy.sections import HEALTH_CONNECTIONS, HEALTH_OF_ONE_SOURCE, PIPES, connections, frontends
from srcip_proxy.network import CHECK4, LOOPBACK
from srcip_proxy.plan import HEALTH_PORT, Plan
from srcip_proxy.pod import Pod
from srcip_proxy.quoting import BANNER, word, words

OLDEST = "3.0"
"""The oldest HAProxy that passes all tests; an older one refuses the configuration with a message."""
BUFFER, REWRITE = 16384, 1024
"""HAProxy's own tune.bufsize and tune.maxrewrite."""
KEEPALIVES = 4
"""Unanswered keep-alives after which a peer is dead; they take as long as the silence before the first one."""
LUA = Path(__file__).with_name("lua")


def render(plan: Plan, pod: Pod) -> str:
    """The whole configuration file."""
    traffic = _mode(plan).sections(plan, pod) if plan.inbound_ports else ()
    leaving = outbound.sections(plan, pod) if plan.outbound_ports else ()
    sections = (_global(plan, pod), _defaults(plan), *traffic, *leaving, _health(pod))
    return BANNER + "\n".join("\n".join(section) + "\n" for section in sections)


def _mode(plan: Plan) -> ModuleType:
    return redirect if plan.redirects else tproxy


def _global(plan: Plan, pod: Pod) -> Iterator[str]:
    yield f'.if !version_atleast({OLDEST})\n  .alert "srcip needs HAProxy {OLDEST} or newer"\n.endif'
    yield '.if !feature(LUA)\n  .alert "srcip needs a HAProxy built with Lua"\n.endif'
    yield "global"
    yield "  log stdout format raw local0 info"
    yield f"  maxconn {word(connections(plan, pod) * frontends(plan, pod) + HEALTH_CONNECTIONS)}"
    yield f"  nbthread {word(plan.threads)}"
    if plan.spoofs_source and plan.inbound_ports:
        yield "  setcap cap_net_raw"
    yield f"  hard-stop-after {word(max(plan.drain_timeout_s, 1))}s"
    # bulk data goes through pipes inside the kernel; few, as their memory is counted per user of the whole node
    yield f"  maxpipes {PIPES}\n  tune.pipesize 262144"
    yield from _room(outbound.room(plan, pod))
    yield f"  lua-prepend-path {word(LUA)}/?.lua"
    yield f"  lua-load {word(LUA)}/srcip.lua {' '.join(_lua_settings(plan, pod))}"


def _room(needed: int) -> Iterator[str]:
    """Space in each buffer for headers that are added, where HAProxy's own 1 of 16 kB might not do. It keeps no more
    than half of a buffer."""
    if needed > REWRITE // 2:
        rewrite = REWRITE + needed
        yield f"  tune.bufsize {word(max(BUFFER + needed, 2 * rewrite))}\n  tune.maxrewrite {word(rewrite)}"


def _lua_settings(plan: Plan, pod: Pod) -> Iterator[str]:
    settings = {
        "policy": plan.proxy_protocol,
        "node_policy": plan.node_proxy_protocol,
        "node": words(pod.node, ","),
        "never": words((*LOOPBACK.values(), CHECK4), ","),
        "own": words((address.exploded for address in pod.unusable), ","),
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
        **_mode(plan).lua_settings(plan),
    }
    return (word(f"{key}={value}") for key, value in settings.items())


def _defaults(plan: Plan) -> Iterator[str]:
    yield "defaults"
    yield "  mode tcp"
    yield "  timeout connect 5s"
    # as without a proxy, only the two ends decide how long a connection may be idle; keep-alives find dead peers
    yield "  timeout client 24d\n  timeout server 24d\n  option clitcpka"
    yield f"  clitcpka-idle {word(plan.tcp_keepalive_s)}s\n  clitcpka-cnt {KEEPALIVES}"
    yield f"  clitcpka-intvl {word(plan.tcp_keepalive_s // KEEPALIVES)}s"
    yield "  option splice-auto"
    yield "  option redispatch 1"
    yield "  balance first"


def _health(pod: Pod) -> Iterator[str]:
    yield "# for kubelet and Prometheus\nfrontend health"
    yield f"  mode http\n  maxconn {HEALTH_CONNECTIONS}"
    yield f"  stick-table type ipv6 size {HEALTH_CONNECTIONS} expire 1m store conn_cur"
    yield "  tcp-request connection track-sc0 src"
    yield f"  tcp-request connection reject if {{ sc0_conn_cur gt {HEALTH_OF_ONE_SOURCE} }}"
    yield "  timeout client 10s\n  timeout http-request 5s"
    yield f"  bind {'[::]' if pod.ipv6 else '0.0.0.0'}:{HEALTH_PORT}{' v4v6' if pod.ipv6 else ''}"
    yield '  http-request return status 200 content-type text/plain string "ok" if { path /healthz }'
    yield '  http-request return status 503 content-type text/plain string "stopping" if { path /readyz } { stopping }'
    yield '  http-request return status 200 content-type text/plain string "ready" if { path /readyz }'
    yield "  http-request use-service prometheus-exporter if { path /metrics/haproxy }"
    yield "  http-request use-service lua.srcip_metrics if { path /metrics }"
    yield "  http-request return status 404"
