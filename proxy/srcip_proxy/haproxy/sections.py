"""What the sections of HAProxy's configuration share, whatever the mode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from srcip_proxy.haproxy import fallback
from srcip_proxy.plan import Plan, PortRange
from srcip_proxy.pod import Pod
from srcip_proxy.quoting import word, words

HEALTH_CONNECTIONS = 100
"""Room of its own for kubelet and Prometheus, whatever else is taken, and no more than that."""
HEALTH_OF_ONE_SOURCE = 20
"""Of these, what one address can have: nobody keeps kubelet out."""
WAIT_FOR_MORE = "  tcp-request content accept if { req.len gt 0 }\n  tcp-request content accept if WAIT_END"
"""A header that nothing follows yet is given 2 milliseconds. HAProxy takes a FIN that arrives while it connects, and no
data before it, for an abort, and would reset the application's connection; a FIN that is there before is passed on."""
PIPES = 64
"""Connections that move bulk data at the same time without copying; more of them are copied through buffers."""
REFUSED = "{ var(txn.srcip_refused) -m bool }"
ANYWHERE = {4: "0.0.0.0", 6: "[::]"}
"""Every address of an IP version."""
POD_FIRST = (21, 554, 990, 1720, 5060, 5061, 8554)
"""Ports of protocols in which a server names the address that it was reached at (getsockname()), or connects from it:
FTP (RFC 959, RFC 4217), RTSP (RFC 7826), H.323, SIP (RFC 3261). srcip's own address would be of no use to anybody."""
WORDS_OF_A_LINE = 32
"""HAProxy takes 64 words in a line of its configuration (MAX_LINE_ARGS)."""
NOBODY = {False: "abns@srcip-undelivered", True: "abns@srcip-undelivered-http"}
"""Abstract sockets of unix(7), of this network namespace alone: where a connection, or a request, ends undelivered."""
TOOK_NOBODY = "{ srv_name -m beg nobody }"
UNDELIVERED = {
    False: ("tcp-response content lua.srcip_undelivered", "tcp-response content silent-drop rst-ttl 64"),
    True: ("http-response lua.srcip_undelivered_request",),
}
"""What is said of a connection, or a request, that came there, and how a connection ends."""
END = "tcp-request content silent-drop rst-ttl 64"
"""Ends a connection with a RST; `reject` would send a FIN, which looks like an answer."""


def connections(plan: Plan, pod: Pod) -> int:
    """How many connections the sidecar takes each way and by each IP version: as planned, or fewer where the runtime
    gives it fewer files.

    Two files a connection; HAProxy would not start with a number that it has no files for.
    """
    files = pod.max_files // 2 - 2 * HEALTH_CONNECTIONS - PIPES
    return max(1, min(plan.max_connections, files // max(1, frontends(plan, pod))))


def frontends(plan: Plan, pod: Pod) -> int:
    """How many frontends have as many connections each: one for each way and IP version, and that of `fallback`."""
    return directions(plan) * len(pod.versions) + fallback.is_needed(plan, pod)


def directions(plan: Plan) -> int:
    """How many ways there are, each with as many connections: inbound, outbound."""
    return bool(plan.inbound_ports) + bool(plan.outbound_ports)


def client_limit(plan: Plan, where: str = "") -> Iterator[str]:
    """Rules that refuse a connection that counts (`count_client`): one client has only so many."""
    if plan.max_connections_per_client:
        over = f"{{ sc0_conn_cur gt {word(plan.max_connections_per_client)} }}{where}"
        yield f"  tcp-request content lua.srcip_too_many if {over}\n  {END} if {over}"


def count_client(plan: Plan) -> Iterator[str]:
    """From this rule on the connection, whose source is the client, counts as one of its."""
    if plan.max_connections_per_client:
        yield "  tcp-request content track-sc0 src table clients"


def clients(plan: Plan) -> Iterator[str]:
    """The table that `client_limit` counts in."""
    if plan.max_connections_per_client:
        yield "# how many connections each client has"
        yield f"backend clients\n  stick-table type ipv6 size {word(plan.max_connections)} expire 1h store conn_cur"


def only_port(plan: Plan) -> int | None:
    """The single intercepted port. Known beforehand, it need not be asked of the kernel for each connection."""
    first = plan.inbound_ports[0]
    return first.first if plan.inbound_ports == (PortRange(first.first, first.first),) else None


def intercepted_alone(ports: tuple[PortRange, ...]) -> Iterator[str]:
    """The first rules of a frontend that the kernel leads connections to: they keep the port they came to. Whoever
    connects to the frontend itself could state any client."""
    yield from acl("intercepted dst_port", port_ranges(ports))
    yield "  tcp-request connection silent-drop rst-ttl 64 if !intercepted"


def host(address: object) -> str:
    """An address as HAProxy writes it before a port."""
    address = word(address)
    return f"[{address}]" if ":" in address else address


def http_port(ports: tuple[PortRange, ...]) -> Iterator[str]:
    """The condition `http_port`: the connection came to one of these."""
    yield from acl("http_port dst_port", port_ranges(ports))


def http_timeouts(plan: Plan) -> Iterator[str]:
    """Of a frontend whose connections may become HTTP ones: nobody holds one with half a request, or with none."""
    if plan.http_ports:
        yield f"  timeout http-request {word(plan.request_timeout_ms)}ms"
        yield f"  timeout http-keep-alive {word(plan.keep_alive_timeout_s)}s"


def port_ranges(ports: tuple[PortRange, ...]) -> list[str]:
    """Ports as HAProxy matches them."""
    return [f"{r.first}:{r.last}" if r.first != r.last else str(r.first) for r in ports]


def acl(name_and_fetch: str, values: Sequence[str]) -> Iterator[str]:
    """A condition that holds for any of these values, however many there are."""
    for start in range(0, len(values), WORDS_OF_A_LINE):
        yield f"  acl {name_and_fetch} {words(values[start : start + WORDS_OF_A_LINE], ' ')}"


def pod_first(plan: Plan) -> list[str]:
    """Those of POD_FIRST that count for this plan."""
    held = [str(port) for port in POD_FIRST if any(port in ports for ports in plan.inbound_ports)]
    return held if plan.deliver_to == "auto" else []


def use_pod_first(plan: Plan, *backends: str) -> Iterator[str]:
    """On the ports of POD_FIRST one of these backends follows, each with its condition so far."""
    if ports := pod_first(plan):
        yield from acl("pod_first dst_port", ports)
        yield from (f"  use_backend {backend} pod_first" for backend in backends)


def delivery(plan: Plan, prefix: str) -> str:
    """In which order the backends whose names begin so try the application: `pod-` is for POD_FIRST."""
    return "pod-first" if prefix == "pod-" else plan.deliver_to


def reached(pod: Pod, version: int, is_check: bool = False) -> str | None:
    """The server that is the address which a connection came to, or that `set-dst` has put there: the Pod may have more
    than one. None without an address of this IP version. The check comes to none of the Pod's own."""
    own = pod.own(version)
    return None if own is None else str(own) if is_check else ANYWHERE[version].strip("[]")


def servers(targets: Sequence[tuple[str, str]], port: str, is_http: bool = False, spare: str = "") -> Iterator[str]:
    """The servers of a backend, as pairs of address and options: the first by rule, the others one after the other when
    it fails, then the `spare` one where that is of use (lua/srcip.lua), and then nobody (see `undelivered`). No `port`
    means the one that the connection came to.

    What comes after the first is chosen by a number that grows with each try: HAProxy's own ways of choosing another
    server have no order. It tries the next one at once only while two are left to choose from: the last is there twice.
    """
    (address, options), *others = targets
    spare_is = f"({len(others)})" if spare else ""
    yield f"  balance hash lua.srcip_next{spare_is}\n  hash-type map-based none\n  retries {len(targets) + bool(spare)}"
    yield "  use-server first if TRUE"
    yield f"  server first {host(address)}{port} weight 0{options}"
    for number, (address, options) in enumerate(others, start=2):
        yield f"  server try{number} {host(address)}{port}{options}"
    if spare:
        yield f"  server {spare}"
    # two, as HAProxy retries at once only while it has two to choose from (see above)
    for name in ("nobody", "nobody2"):
        yield f"  server {name} {NOBODY[is_http]}"
    yield from (f"  {rule} if {TOOK_NOBODY}" for rule in UNDELIVERED[is_http])


def undelivered(plan: Plan) -> Iterator[str]:
    """Where a connection that nobody takes is led to, as the last of its servers: it is over at once, or each request
    of it is answered. HAProxy itself would end it by a FIN, without a word, and that would look like an answer."""
    yield "# the last server of each backend: the application accepts the connection at none of its addresses"
    yield f"frontend undelivered\n  bind {NOBODY[False]}\n  tcp-request connection reject"
    if plan.http_ports:
        yield f"frontend undelivered-http\n  mode http\n  bind {NOBODY[True]}"
        yield "  http-request return status 503"
