"""HAProxy's configuration in tproxy mode: the application sees the client as its TCP peer. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from srcip_proxy.haproxy import fallback, fast_path, http_headers
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
    http_port,
    http_timeouts,
    intercepted_alone,
    only_port,
    pod_first,
    reached,
    servers,
    undelivered,
    use_pod_first,
)
from srcip_proxy.network import LOOPBACK
from srcip_proxy.plan import CHECK_PORT, CHECK_PROXY_PORT, PROXY_PORT, Plan, PortRange
from srcip_proxy.pod import Pod
from srcip_proxy.quoting import word, words


def sections(plan: Plan, pod: Pod) -> Iterator[Iterator[str]]:
    """Everything between `defaults` and the health frontend."""
    yield _inbound(plan, pod)
    yield _backends(plan, pod, "", only_port(plan))
    if pod_first(plan):
        yield _backends(plan, pod, "pod-", only_port(plan))
    if plan.http_ports:
        yield _web(plan, pod)
    if fallback.is_needed(plan, pod):
        yield fallback.frontend(connections(plan, pod), _onward(plan, 6, ""))
    yield clients(plan)
    yield undelivered(plan)
    yield _check(plan, pod)


def _inbound(plan: Plan, pod: Pod) -> Iterator[str]:
    # where a header must come, the kernel may as well wait for it before it wakes the sidecar
    bind = "transparent defer-accept" if plan.proxy_protocol == "required" else "transparent"
    for version in pod.versions:
        yield f"# IPv{version} connections that nftables leads here: who the client is, and which backend follows"
        yield f"frontend inbound{version}"
        yield f"  maxconn {word(connections(plan, pod))}"
        yield f"  bind {'127.0.0.1' if version == 4 else '[::1]'}:{PROXY_PORT} {bind}"
        yield from http_timeouts(plan)
        yield from intercepted_alone(plan.inbound_ports)
        yield from _requests(plan)
        yield from _decisions(plan, pod, version, "")


def lua_settings(plan: Plan) -> dict[str, object]:
    """What Lua needs to know besides, where a balancer states clients by X-Forwarded-For."""
    if not plan.http_ports:
        return {}
    trusted = words(plan.trusted_cidrs, ",")
    return {"client_from": plan.client_from, "list": plan.forwarded_for_header.lower(), "trusted": trusted}


def _requests(plan: Plan) -> Iterator[str]:
    """Ports whose balancer speaks HTTP alone: no PROXY header, and each request has a client of its own."""
    if not plan.http_ports:
        return
    yield from http_port(plan.http_ports)
    yield "  tcp-request content switch-mode http if http_port"
    yield f"  http-request del-header {http_headers.names(http_headers.HOPS)} -m reg"
    yield from http_headers.upgrade()
    yield f"  http-request lua.srcip_request\n  http-request deny deny_status 400 if {REFUSED}"
    yield "  http-request deny deny_status 500 if !{ var(txn.srcip_web) -m found }"
    yield "  http-request set-src var(txn.srcip_walked) if { var(txn.srcip_walked) -m found }"
    yield "  http-request set-dst var(txn.srcip_to) if { var(txn.srcip_to) -m found }"
    yield from http_headers.limit(plan)
    yield "  use_backend http2-%[var(txn.srcip_web)] if http_port { fc_http_major 2 }"
    yield "  use_backend http%[var(txn.srcip_web)] if http_port"


def _web(plan: Plan, pod: Pod) -> Iterator[str]:
    """The application's connections for requests: one belongs to one client on one connection of the balancer. Nobody
    knows the client's port."""
    for version in pod.versions:
        for name, options in (("http", ""), ("http2-", " proto h2")):
            yield f"# requests to the application, over IPv{version}, with the client that a header states as source"
            yield f"backend {name}{version}\n  mode http\n  http-reuse never"
            yield "  option abortonclose\n  option http-no-delay"
            places = [place for place in ("loopback", "pod") if plan.deliver_to in ("auto", place)]
            targets = _targets(tuple(f"{place} clientip" for place in places), plan, pod, version)
            targets = [(address, f"{source}{options}") for address, source in targets]
            yield from servers(targets, "", is_http=True, spare=_spare(plan, pod, version, options))


def _decisions(plan: Plan, pod: Pod, version: int, prefix: str) -> Iterator[str]:
    """How connections of one IP version are decided, and the backend that follows: its name begins with `prefix`."""
    yield f"  tcp-request inspect-delay {word(plan.header_timeout_ms)}ms"
    yield from fast_path.rules(plan, pod, version)
    yield "  tcp-request content lua.srcip_header if { req.len gt 0 }"
    undecided = f"!{fallback.FOUND} !{REFUSED}"
    yield f"  tcp-request content lua.srcip_late if {undecided} WAIT_END"
    yield f"  {END} if {REFUSED}"
    # what nobody has decided goes nowhere; only a plain header comes past these rules without a decision of Lua's
    yield f"  {END} if !{fallback.FOUND}"
    yield from _onward(plan, version, prefix)


def _onward(plan: Plan, version: int, prefix: str) -> Iterator[str]:
    """With what source and to which backend a connection goes on: as Lua has said, or that of a plain header."""
    yield "  tcp-request content set-src var(txn.srcip_client),field(1,/)"
    yield "  tcp-request content set-src-port var(txn.srcip_client),field(2,/)"
    yield "  tcp-request content set-dst var(txn.srcip_to) if { var(txn.srcip_to) -m found }"
    named = f"%[var(txn.srcip_backend)] if {fallback.FOUND}"
    if not prefix:
        yield from use_pod_first(plan, f"pod-{named}", f"pod-client{version} if")
    yield f"  use_backend {prefix}{named}"
    yield f"  default_backend {prefix}client{version}"


def _check(plan: Plan, pod: Pod) -> Iterator[str]:
    """The way of `srcip-proxy check`: the same decisions, but its own port of the application."""
    yield f"# srcip-proxy check\nfrontend check\n  bind 127.0.0.1:{CHECK_PROXY_PORT} transparent"
    yield from intercepted_alone((PortRange(CHECK_PORT, CHECK_PORT),))
    yield from _decisions(plan, pod, 4, "check-")
    yield from _backends(plan, pod, "check-", CHECK_PORT)


SERVERS: dict[str, dict[str, tuple[str, ...]]] = {
    "loopback": {"client": ("loopback client", "loopback clientip"), "own": ("loopback client", "loopback clientip")},
    "pod": {"client": ("pod client", "pod clientip"), "own": ("pod clientip",)},
    "auto": {
        "client": ("loopback client", "pod client", "pod clientip"),
        "own": ("loopback client", "pod clientip"),
    },
    "pod-first": {
        "client": ("pod client", "pod clientip", "loopback client"),
        "own": ("pod clientip", "loopback client"),
    },
}
"""Where the application is tried, in this order, for each `srcip.io/deliver-to`, and for POD_FIRST in `auto`. `pod` is
the address that the connection came to, or the Pod's own one where the client's IP version is another.

`client` connections show the stated client; `own` ones the address that the connection itself has, whose port must not
be repeated at the Pod's own address: the inner connection would be taken for the outer one. `client` binds address and
port; `clientip` the address only, for when the port is taken.
"""


SOURCES = {"client": "with the client as source", "own": "with the balancer itself as source"}
"""What the application sees of each kind of SERVERS."""


def _backends(plan: Plan, pod: Pod, prefix: str, port: int | None) -> Iterator[str]:
    for version in pod.versions:
        for kind, order in SERVERS[delivery(plan, prefix)].items():
            yield f"# to the application, over IPv{version}, {SOURCES[kind]}"
            yield f"backend {prefix}{kind}{version}\n  tcp-request inspect-delay 2ms"
            if kind == "client":
                yield from count_client(plan)
                yield from client_limit(plan)
            yield WAIT_FOR_MORE
            spare = _spare(plan, pod, version) if kind == "client" and prefix != "check-" else ""
            targets = _targets(order, plan, pod, version, is_check=prefix == "check-")
            yield from servers(targets, f":{port}" if port else "", spare=spare)
            yield from fallback.ending() if spare else ()


def _spare(plan: Plan, pod: Pod, version: int, options: str = "") -> str:
    """The server for an IPv4 client that only listeners for IPv6 alone are there for."""
    return f"{fallback.NAME} {fallback.SERVER}{options}" if version == 4 and fallback.is_needed(plan, pod) else ""


def _targets(
    order: tuple[str, ...], plan: Plan, pod: Pod, version: int, is_check: bool = False
) -> list[tuple[str, str]]:
    """Pairs of address and source to try: the application sees the client as the source of the connection. Without an
    address of the Pod in this family, on loopback only."""
    places = {"loopback": LOOPBACK[version], "pod": reached(pod, version, is_check)}
    pairs = [server.split() for server in order]
    # `clientip` has another port, which `exact` refuses; the only server of `own` connections is kept
    if plan.client_address == "exact":
        pairs = [p for p in pairs if p[1] == "client"] or pairs
    targets = [(str(places[place] or places["loopback"]), use) for place, use in pairs]
    return [(address, f" source {ANYWHERE[version]} usesrc {word(use)}") for address, use in dict.fromkeys(targets)]
