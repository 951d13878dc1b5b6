"""The table of the annotations that srcip reads: name, type, default, meaning.

Parser, error messages, JSON schema and docs/annotations.md all come from TABLE; nothing about an annotation is said
anywhere else.
"""

from __future__ import annotations

from dataclasses import dataclass

from srcip_proxy.headers import HEADERS, Pairs
from srcip_proxy.plan import (
    CLIENT_FROM,
    DELIVERIES,
    EMITTED,
    FALLBACK,
    FIDELITIES,
    FORWARDED_FOR,
    LIMITS,
    OTHERS,
    POLICIES,
    PortRange,
)
from srcip_webhook.annotation_rows import PREFIX, Annotation, number, planned, quantity
from srcip_webhook.header_values import HeaderLines, HeaderName, HeaderNames, HeaderValue, TlvHeaders, WordList
from srcip_webhook.port_values import InboundPorts, PortList, PortNumbers
from srcip_webhook.quantities import CPU, MEMORY, MEMORY_LIMIT
from srcip_webhook.values import Duration, Flag, NetworkList, Versions, Word

__all__ = ["INBOUND_ALONE", "OF_OUTBOUND", "OF_REDIRECT", "OF_SIDECAR", "PREFIX", "TABLE", "Annotation", "Intent"]


@dataclass(frozen=True)
class Intent:
    """What the annotations of one Pod ask for. None: not said, so that the webhook's settings or the Pod decide."""

    mode: str | None
    inject: bool
    inbound_ports: tuple[PortRange | str, ...] | None
    exclude_inbound_ports: tuple[PortRange | str, ...]
    without_ports: str
    trusted_cidrs: tuple[str, ...] | None
    trust_any_source: bool
    proxy_protocol: str
    node_proxy_protocol: str
    proxy_protocol_versions: tuple[int, ...]
    header_timeout_ms: int
    max_header_bytes: int
    deliver_to: str
    client_address: str
    max_connections: int
    max_connections_per_client: int
    drain_timeout_s: int
    threads: int
    rewrite_probes: bool
    http_ports: tuple[PortRange | str, ...] | None
    http_headers: tuple[str, ...]
    forwarded_for: str
    forwarded_for_header: str
    http_other: str
    emit_proxy_protocol: str
    tlv_headers: Pairs
    remove_headers: tuple[str, ...]
    request_timeout_ms: int
    keep_alive_timeout_s: int
    tcp_keepalive_s: int
    client_from: str
    outbound_ports: tuple[PortRange, ...]
    outbound_headers: Pairs
    outbound_forwarded_for: str
    outbound_client_hostname: str
    proxy_cpu: str | None
    proxy_memory: str | None
    proxy_cpu_limit: str | None
    proxy_memory_limit: str | None


TABLE: tuple[Annotation, ...] = (
    Annotation(
        "mode",
        "mode",
        Word(("tproxy", "redirect", "ebpf", FALLBACK)),
        None,
        "none: the Pod is left alone",
        "Asks for srcip. `tproxy`: the application sees the client's IP and port as its TCP peer. `redirect`: in "
        "HTTP headers or in a PROXY header of its own, and the sidecar has no capability. `ebpf`: as `tproxy`, by "
        "programs in the kernel that an init container attaches; there is no sidecar. `ebpf,tproxy`: `ebpf` where the "
        "node can have it, else `tproxy`; the sidecar is there in either case.",
    ),
    Annotation(
        "inject", "inject", Flag(), True, "true", "`false` opts the Pod out, whatever else its annotations say."
    ),
    Annotation(
        "inbound-ports",
        "inbound_ports",
        InboundPorts(),
        None,
        "every TCP port that the Pod's containers declare",
        "The ports whose connections from trusted sources are intercepted. Each must be declared by a container, but "
        "for those of a range. "
        "`none` is for Pods with `outbound-ports` alone: they need no trusted networks.",
    ),
    Annotation(
        "exclude-inbound-ports",
        "exclude_inbound_ports",
        PortList(),
        (),
        "none",
        "Ports taken out of the intercepted ones.",
    ),
    Annotation(
        "without-ports",
        "without_ports",
        Word(("refuse", "skip")),
        "refuse",
        "refuse",
        "What becomes of a Pod without a TCP port to intercept, and without `outbound-ports`. `skip` leaves it alone: "
        "for helper Jobs of an operator that writes the same annotations on all its Pods. A port that is named and not "
        "declared is refused all the same.",
    ),
    Annotation(
        "trusted-cidrs",
        "trusted_cidrs",
        NetworkList(),
        None,
        "the webhook's setting; without one the Pod is refused",
        "The load balancers: the only sources that may state a client's address. Replaces the webhook's setting.",
    ),
    Annotation(
        "trust-any-source",
        "trust_any_source",
        Flag(),
        False,
        "false",
        "`true` allows 0.0.0.0/0 or ::/0 in `trusted-cidrs`: then anybody who reaches the Pod can state any address.",
    ),
    planned(
        "proxy-protocol",
        "proxy_protocol",
        Word(POLICIES),
        "What a trusted source must send. `optional` takes connections with and without a header; `off` takes none.",
    ),
    planned(
        "node-proxy-protocol",
        "node_proxy_protocol",
        Word(POLICIES),
        "The same for the node's own address, where it is trusted: kubelet, the host network, traffic after SNAT.",
    ),
    planned(
        "proxy-protocol-versions",
        "proxy_protocol_versions",
        Versions(),
        "The versions of the PROXY protocol that are accepted.",
    ),
    planned(
        "header-timeout",
        "header_timeout_ms",
        Duration(*LIMITS["header_timeout_ms"]),
        "How long a trusted connection may take to send its whole header.",
    ),
    number("max-header-size", "max_header_bytes", "bytes", "The longest accepted header."),
    planned(
        "deliver-to",
        "deliver_to",
        Word(DELIVERIES),
        "Where the application is reached. `loopback`: an address of srcip's own on lo; `pod`: the Pod's address, for "
        "applications bound to it; `auto`: the first, and the second where the first is refused.",
    ),
    planned(
        "client-address",
        "client_address",
        Word(FIDELITIES),
        "When the exact address and port can't be had: `best-effort` delivers with what can be had, `ip` insists on "
        "the address, `exact` on address and port; otherwise the connection is refused.",
    ),
    number("max-connections", "max_connections", "connections", "Open connections through the sidecar."),
    number(
        "max-connections-per-client",
        "max_connections_per_client",
        "connections",
        "Open connections of one client address; 0 means no limit.",
    ),
    planned(
        "drain-timeout",
        "drain_timeout_s",
        Duration(*LIMITS["drain_timeout_s"], unit_ms=1000),
        "How long open connections may go on when the Pod is stopped.",
    ),
    number("proxy-threads", "threads", "threads", "Threads of the sidecar."),
    Annotation(
        "rewrite-probes",
        "rewrite_probes",
        Flag(),
        True,
        "true",
        "Whether kubelet's probes of intercepted ports go to alias ports, which the kernel redirects past the sidecar.",
    ),
    Annotation(
        "http-ports",
        "http_ports",
        PortList(),
        None,
        "ports named http, http2, grpc, h2c or ws, or so with a suffix (http-api); none with `emit-proxy-protocol`",
        "Intercepted ports that speak HTTP. `redirect`: their requests get headers.",
    ),
    planned(
        "http-headers", "http_headers", WordList(HEADERS), "Which headers are written; all of them are taken out first."
    ),
    planned(
        "forwarded-for",
        "forwarded_for",
        Word(FORWARDED_FOR),
        "What becomes of a list of addresses that comes in. `replace`: it goes. `append`: the client is put behind it. "
        "`trusted`: where a trusted network states it, its right-most address that is not trusted is the client.",
    ),
    planned("forwarded-for-header", "forwarded_for_header", HeaderName(), "The name of the header of this list."),
    planned(
        "http-other",
        "http_other",
        Word(OTHERS),
        "What an HTTP port does with what is not HTTP. `pass`, for ports that carry both, leads TLS and text that no "
        "server could take for a request to the application as it is; nothing is added to it or taken out.",
    ),
    planned(
        "emit-proxy-protocol",
        "emit_proxy_protocol",
        Word(EMITTED),
        "`redirect`: a fresh PROXY header begins each connection to a port that is not in `http-ports`.",
    ),
    planned(
        "tlv-headers",
        "tlv_headers",
        TlvHeaders(),
        "`redirect`: what the PROXY header says besides addresses, as HTTP headers.",
    ),
    planned(
        "remove-headers",
        "remove_headers",
        HeaderNames(),
        "`redirect`: further headers that no request may bring, in any spelling: names that this application reads a "
        "client from. The usual ones go anyhow.",
    ),
    planned(
        "http-request-timeout",
        "request_timeout_ms",
        Duration(*LIMITS["request_timeout_ms"]),
        "How long the headers of an HTTP request may take; then the connection ends, with status 408 where one began.",
    ),
    planned(
        "http-keep-alive-timeout",
        "keep_alive_timeout_s",
        Duration(*LIMITS["keep_alive_timeout_s"], unit_ms=1000),
        "How long an HTTP connection may be idle between requests. Longer than that of your load balancers.",
    ),
    planned(
        "tcp-keepalive",
        "tcp_keepalive_s",
        Duration(*LIMITS["tcp_keepalive_s"], unit_ms=1000),
        "After how long a silence TCP asks the balancer whether it is still there: the application's own keep-alives "
        "end at the sidecar. Without an answer the connection ends after as long again. Keep it shorter than the idle "
        "time-out of the load balancer (350 s on AWS NLB, 240 s on Azure).",
    ),
    planned(
        "client-from",
        "client_from",
        Word(CLIENT_FROM),
        "`tproxy`: what states the client on `http-ports`. `x-forwarded-for` is for balancers that speak HTTP and no "
        "PROXY protocol: each request has its own client; these ports take HTTP alone. `toa` (`ebpf` alone): the TCP "
        "option of this name, in place of the PROXY protocol on every port.",
    ),
    planned(
        "outbound-ports",
        "outbound_ports",
        PortNumbers(),
        "Destination ports: HTTP requests that the Pod's containers send to them get the headers of the next three "
        "annotations, of which there must be one. In both modes.",
    ),
    planned(
        "outbound-headers",
        "outbound_headers",
        HeaderLines(),
        "Headers of outgoing requests. Each replaces every line of its name.",
    ),
    planned(
        "set-forwarded-for",
        "outbound_forwarded_for",
        HeaderValue(),
        "X-Forwarded-For of outgoing requests. `default`: the Pod's address.",
    ),
    planned(
        "set-client-hostname",
        "outbound_client_hostname",
        HeaderValue(),
        "X-Client-Hostname of outgoing requests. `default`: the Pod's host name.",
    ),
    quantity("proxy-cpu", CPU, "CPU request of the sidecar."),
    quantity("proxy-memory", MEMORY, "Memory request of the sidecar."),
    quantity("proxy-cpu-limit", CPU, "CPU limit of the sidecar."),
    quantity("proxy-memory-limit", MEMORY_LIMIT, "Memory limit of the sidecar."),
)

OF_REDIRECT = (
    "http_headers",
    "forwarded_for",
    "forwarded_for_header",
    "http_other",
    "emit_proxy_protocol",
    "tlv_headers",
    "remove_headers",
)
"""Fields of Intent and Plan that only redirect mode goes by."""

OF_OUTBOUND = ("outbound_ports", "outbound_headers", "outbound_forwarded_for", "outbound_client_hostname")
"""Fields of Intent and Plan that are about what the Pod sends."""

OF_SIDECAR = (
    "deliver_to",
    "max_connections_per_client",
    "drain_timeout_s",
    "threads",
    "rewrite_probes",
    "request_timeout_ms",
    "keep_alive_timeout_s",
    "tcp_keepalive_s",
)
"""Fields that ebpf mode, which has no sidecar, does not go by."""

INBOUND_ALONE = (
    "trusted_cidrs",
    "trust_any_source",
    "proxy_protocol",
    "node_proxy_protocol",
    "proxy_protocol_versions",
    "header_timeout_ms",
    "max_header_bytes",
    "deliver_to",
    "client_address",
    "max_connections_per_client",
    "rewrite_probes",
    "http_ports",
    *OF_REDIRECT,
    "request_timeout_ms",
    "keep_alive_timeout_s",
    "client_from",
)
"""Fields without effect where no inbound port is intercepted."""
