"""HAProxy's configuration in redirect mode: the application learns the client from headers. Pure.

The sidecar has no capability here: the kernel leads a connection to it (netfilter/redirect.py), and it makes an
ordinary one to the application. A connection begins as TCP: Lua takes the PROXY header out and keeps what it said in
variables of the *session*. On an HTTP port the connection then becomes an HTTP one; each of its requests is a stream of
its own, to which the rules of the frontend apply again, and gets the session's client.
"""

from __future__ import annotations

from collections.abc import Iterator

from srcip_proxy.haproxy import http_headers
from srcip_proxy.haproxy.sections import (
    ANYWHERE,
    END,
    REFUSED,
    WAIT_FOR_MORE,
    client_limit,
    clients,
    connections,
    count_client,
    delivery,
    host,
    http_port,
    http_timeouts,
    pod_first,
    reached,
    servers,
    undelivered,
    use_pod_first,
)
from srcip_proxy.network import LOOPBACK, PORTS6
from srcip_proxy.plan import CHECK_PORT, CHECK_PROXY_PORT, PROXY_PORT, Plan, PortRange
from srcip_proxy.pod import Pod
from srcip_proxy.quoting import word, words

READ = "{ var(sess.srcip_client) -m found }"
TLS = "{ var(sess.srcip_kind) -m str tls }"
KIND = "{ var(sess.srcip_kind) -m found }"
HTTP = "{ var(sess.srcip_kind) -m str http }"
REQUEST = "'^[A-Z]+ /[!-~]* HTTP/1\\.[01]\\r\\n'"
"""What nearly every request of HTTP/1 begins with. Lua says the same of it, at a sixth of a connection's whole cost."""
ENDED = "{ var(txn.srcip_first) -m reg '\\n\\r?\\n' }"
WHOLE = "{ var(txn.srcip_whole) -m bool }"
"""The end of a request's headers has come."""
PLACES = {"loopback": ("loopback",), "pod": ("pod",), "auto": ("loopback", "pod"), "pod-first": ("pod", "loopback")}
"""Where the application is tried, in this order, for each `srcip.io/deliver-to`, and for POD_FIRST in `auto`."""


def sections(plan: Plan, pod: Pod) -> Iterator[Iterator[str]]:
    """Everything between `defaults` and the health frontend."""
    for version in pod.versions:
        yield _inbound(plan, pod, version)
        yield _backends(plan, pod, version)
    yield clients(plan)
    yield undelivered(plan)
    yield _check(plan, pod)


def lua_settings(plan: Plan) -> dict[str, object]:
    """What Lua needs to know in this mode."""
    return {
        "mode": plan.mode,
        "other": plan.http_other,
        "emit": plan.emit_proxy_protocol,
        "tlvs": words((tlv for tlv, _ in plan.tlv_headers), ","),
        "ports6": PORTS6,
        "list": plan.forwarded_for_header.lower(),
        "trusted": words(plan.trusted_cidrs, ",") if plan.forwarded_for == "trusted" else "",
    }


def _inbound(plan: Plan, pod: Pod, version: int) -> Iterator[str]:
    # where a header must come, the kernel may as well wait for it before it wakes the sidecar
    defer = " defer-accept" if plan.proxy_protocol == "required" else ""
    # the kernel redirects to the address of the interface: binding to loopback would not do; nft keeps others out
    yield f"# IPv{version} connections that nftables leads here: who the client is, and whether it speaks HTTP"
    yield f"frontend inbound{version}"
    yield f"  maxconn {word(connections(plan, pod))}"
    yield f"  bind {ANYWHERE[version]}:{PROXY_PORT}{' v6only' if version == 6 else ''}{defer}"
    yield from http_timeouts(plan)
    yield from _decisions(plan, version, plan.http_ports, "")


def _decisions(plan: Plan, version: int, http_ports: tuple[PortRange, ...], prefix: str) -> Iterator[str]:
    yield f"  tcp-request inspect-delay {word(plan.header_timeout_ms)}ms"
    if version == 6:
        yield "  tcp-request content lua.srcip_port6 if !{ var(sess.srcip_to) -m found }"
        yield "  tcp-request content set-dst-port var(sess.srcip_to)"
    if http_ports:
        # the streams of a connection that has become an HTTP one pass these rules again, without its source
        if http_headers.needs_source(plan):
            yield from _client(f" if {HTTP}")
        yield f"  tcp-request content accept if {HTTP}"
    # nobody connects to the sidecar itself: without redirection there is no port to go to
    yield f"  {END} if {{ dst_port 0 {PROXY_PORT} }}"
    yield f"  tcp-request content lua.srcip_header if !{READ} {{ req.len gt 0 }}"
    yield f"  tcp-request content lua.srcip_late if !{READ} !{REFUSED} WAIT_END"
    yield f"  {END} if {REFUSED}\n  {END} if !{READ}"
    yield from _client()
    yield from count_client(plan)
    if http_ports:
        yield from _kind(plan, http_ports)
    if plan.emit_proxy_protocol != "off":
        yield f"  tcp-request content lua.srcip_emit\n  {END} if !{{ var(txn.srcip_emitted) -m bool }}"
    if http_ports:
        yield from http_headers.rules(plan)
        yield f"  use_backend {prefix}http2-{version} if {{ fc_http_major 2 }}"
        yield f"  use_backend {prefix}http{version} if {HTTP}"
        if plan.http_other == "pass":
            yield f"  use_backend {prefix}tls{version} if {TLS}"
    if not prefix:
        yield from use_pod_first(plan, f"pod-raw{version} if")
    yield f"  default_backend {prefix}raw{version}"


def _client(condition: str = "") -> Iterator[str]:
    yield f"  tcp-request content set-src var(sess.srcip_client),field(1,/){condition}"
    yield f"  tcp-request content set-src-port var(sess.srcip_client),field(2,/){condition}"


def _kind(plan: Plan, http_ports: tuple[PortRange, ...]) -> Iterator[str]:
    """HTTP, unless the first bytes cannot be. Whatever is late or unclear is HTTP too: passed on as it is, it could
    bring headers that the application would believe."""
    yield from http_port(http_ports)
    # a variable, as a fetch that lacks bytes would let the rules wait for them
    yield "  tcp-request content set-var(txn.srcip_first) req.payload(0,0) if http_port"
    first = f"{{ var(txn.srcip_first) -m reg {REQUEST} }}"
    yield f"  tcp-request content set-var(sess.srcip_kind) str(http) if http_port !{KIND} {first}"
    yield f"  tcp-request content lua.srcip_kind if http_port !{KIND} {{ req.len gt 0 }}"
    yield f"  tcp-request content set-var(sess.srcip_kind) str(http) if http_port !{KIND} WAIT_END"
    yield f"  {END} if {REFUSED}"
    yield f"  tcp-request content set-var(txn.srcip_whole) bool(true) if {HTTP} {ENDED}"
    yield "  tcp-request content unset-var(txn.srcip_first)"
    yield from http_headers.connection(plan, f"if {HTTP}")
    # a whole request is refused by the rules of requests, which can answer
    yield from client_limit(plan, f" {HTTP} !{WHOLE}")
    # half of one waits here, where it counts; once the connection is an HTTP one, it would not
    yield f"  tcp-request content switch-mode http if {HTTP} {WHOLE}"
    yield f"  tcp-request content switch-mode http if {HTTP} WAIT_END"


def _backends(plan: Plan, pod: Pod, version: int, prefix: str = "", port: str = "") -> Iterator[str]:
    yield f"# to the application, over IPv{version}, byte by byte"
    yield f"backend {prefix}raw{version}"
    yield from _raw(plan, pod, version, prefix, port)
    if not prefix and pod_first(plan):
        yield "# the same for servers that name the address that they were reached at"
        yield f"backend pod-raw{version}"
        yield from _raw(plan, pod, version, "pod-", port)
    if not plan.http_ports:
        return
    if plan.http_other == "pass":
        yield "# TLS on an HTTP port"
        yield f"backend {prefix}tls{version}\n  filter lua.srcip_held\n  {END} if !{{ var(txn.srcip_held) -m bool }}"
        yield from _raw(plan, pod, version, prefix, port)
    for name, options in (("http", ""), ("http2-", " proto h2")):
        yield f"# requests, over IPv{version}\nbackend {prefix}{name}{version}\n  mode http"
        # a connection to the application belongs to one connection of a client, and ends when that one does; pieces of
        # a stream are sent as they come
        yield "  http-reuse never\n  option abortonclose\n  option http-no-delay"
        yield from servers(_targets(plan, pod, version, prefix, options), port, is_http=True)


def _raw(plan: Plan, pod: Pod, version: int, prefix: str, port: str) -> Iterator[str]:
    """Of a backend that passes bytes as they are."""
    yield "  tcp-request inspect-delay 2ms"
    yield from client_limit(plan)
    yield WAIT_FOR_MORE
    yield from servers(_targets(plan, pod, version, prefix), port)


def _targets(plan: Plan, pod: Pod, version: int, prefix: str, options: str = "") -> list[tuple[str, str]]:
    """Pairs of address and options to try. HAProxy asks the kernel for the original destination over IPv4 alone."""
    # over IPv6 HAProxy has no original destination to connect to: the Pod's first address stands for all of them
    own = reached(pod, version, is_check=version == 6 or prefix == "check-")
    places = {"loopback": LOOPBACK[version], "pod": own or LOOPBACK[version]}
    order = PLACES[delivery(plan, prefix)]
    # One source has 28,232 ports. Of a socket that is bound to lo the kernel uses a port in TIME_WAIT again after a
    # second (tcp_tw_reuse, ip-sysctl.rst); only replies to an address of lo find such a socket
    source = f" source {host(LOOPBACK[version])} interface lo"
    return [(address, f"{source}{options}") for address in dict.fromkeys(str(places[place]) for place in order)]


def _check(plan: Plan, pod: Pod) -> Iterator[str]:
    """The way of `srcip-proxy check`: the same decisions, but its own port of the application."""
    ports = (PortRange(CHECK_PORT, CHECK_PORT),) if plan.http_ports else ()
    yield f"# srcip-proxy check\nfrontend check\n  bind 127.0.0.1:{CHECK_PROXY_PORT}"
    yield from _decisions(plan, 4, ports, "check-")
    yield from _backends(plan, pod, 4, "check-", f":{CHECK_PORT}")
