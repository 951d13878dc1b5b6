"""The table of the annotations that srcip reads: name, type, default, meaning.

Parser, error messages, JSON schema and docs/annotations.md all come from TABLE; nothing about an annotation is said
anywhere else.
"""

from __future__ import annotations

from srcip_proxy.plan import WRITTEN_MODES
from srcip_proxy.plan.headers import HEADERS
from srcip_webhook.annotation_rows import PREFIX, Annotation, Scope, planned, quantity
from srcip_webhook.header_values import HeaderLines, HeaderName, HeaderNames, HeaderValue, TlvHeaders, WordList
from srcip_webhook.intent import BY_AGENT, BY_POD, Intent
from srcip_webhook.port_values import InboundPorts, PortList, PortNumbers
from srcip_webhook.quantities import CPU, MEMORY, MEMORY_LIMIT
from srcip_webhook.values import Flag, NetworkList, Versions, Word

__all__ = ["PREFIX", "TABLE", "Annotation", "Intent", "Scope"]

_INBOUND, _OUTBOUND, _SIDECAR = Scope.INBOUND, Scope.OUTBOUND, Scope.SIDECAR
_DELIVERY, _REDIRECT, _HTTP = _INBOUND | _SIDECAR, _INBOUND | Scope.REDIRECT, _INBOUND | Scope.HTTP
_HEADER = _INBOUND | Scope.HEADER

TABLE: tuple[Annotation, ...] = (
    Annotation(
        "mode",
        "mode",
        Word(tuple(WRITTEN_MODES)),
        "none: the Pod is left alone",
        "Asks for srcip. `tproxy`: the application sees the client's IP and port as its TCP peer. `redirect`: in "
        "HTTP headers or in a PROXY header of its own, and the sidecar has no capability. `ebpf`: as `tproxy`, by "
        "programs in the kernel that an init container attaches; there is no sidecar. `ebpf,tproxy`: `ebpf` where the "
        "node can have it, else `tproxy`; the sidecar is there in either case.",
    ),
    Annotation("inject", "inject", Flag(), "true", "`false` opts the Pod out, whatever else its annotations say."),
    Annotation(
        "privilege",
        "privilege",
        Word((BY_AGENT, BY_POD)),
        "`agent` in mode `ebpf` where the chart's agent is enabled, else `pod`",
        "Who does what needs privilege. `agent`: the agent on the Pod's node, in mode `ebpf` alone; what srcip adds to "
        "the Pod has no privilege then, and the Pod Security level `restricted` takes it. `pod`: an init container.",
    ),
    Annotation(
        "inbound-ports",
        "inbound_ports",
        InboundPorts(),
        "every TCP port that the Pod's containers declare",
        "The ports whose connections from trusted sources are intercepted. Each must be declared by a container, but "
        "for those of a range. "
        "`none` is for Pods with `outbound-ports` alone: they need no trusted networks.",
    ),
    Annotation(
        "exclude-inbound-ports",
        "exclude_inbound_ports",
        PortList(),
        "none",
        "Ports taken out of the intercepted ones.",
    ),
    Annotation(
        "without-ports",
        "without_ports",
        Word(("refuse", "skip")),
        "refuse",
        "What becomes of a Pod without a TCP port to intercept, and without `outbound-ports`. `skip` leaves it alone: "
        "for helper Jobs of an operator that writes the same annotations on all its Pods. A port that is named and not "
        "declared is refused all the same.",
    ),
    Annotation(
        "trusted-cidrs",
        "trusted_cidrs",
        NetworkList(),
        "the webhook's setting; without one the Pod is refused",
        "The load balancers: the only sources that may state a client's address. Replaces the webhook's setting.",
        _INBOUND,
    ),
    Annotation(
        "trust-any-source",
        "trust_any_source",
        Flag(),
        "false",
        "`true` allows 0.0.0.0/0 or ::/0 in `trusted-cidrs`: then anybody who reaches the Pod can state any address.",
        _INBOUND,
    ),
    planned(
        "proxy-protocol",
        "proxy_protocol",
        _INBOUND,
        "What a trusted source must send. `optional` takes connections with and without a header; `off` takes none.",
    ),
    planned(
        "node-proxy-protocol",
        "node_proxy_protocol",
        _INBOUND,
        "The same for the node's own address, where it is trusted: kubelet, the host network, traffic after SNAT.",
    ),
    planned(
        "proxy-protocol-versions",
        "proxy_protocol_versions",
        _HEADER,
        "The versions of the PROXY protocol that are accepted.",
        Versions(),
    ),
    planned(
        "header-timeout",
        "header_timeout_ms",
        _INBOUND,
        "How long a trusted connection may take to send its whole header.",
    ),
    planned("max-header-size", "max_header_bytes", _HEADER, "The longest accepted header."),
    planned(
        "deliver-to",
        "deliver_to",
        _DELIVERY,
        "Where the application is reached. `loopback`: an address of srcip's own on lo; `pod`: the Pod's address, for "
        "applications bound to it; `auto`: the first, and the second where the first is refused.",
    ),
    planned(
        "client-address",
        "client_address",
        _INBOUND,
        "When the exact address and port can't be had: `best-effort` delivers with what can be had, `ip` insists on "
        "the address, `exact` on address and port; otherwise the connection is refused.",
    ),
    planned("max-connections", "max_connections", Scope.ALWAYS, "Open connections through the sidecar."),
    planned(
        "max-connections-per-client",
        "max_connections_per_client",
        _DELIVERY,
        "Open connections of one client address; 0 means no limit.",
    ),
    planned(
        "drain-timeout",
        "drain_timeout_s",
        _SIDECAR,
        "How long open connections may go on when the Pod is stopped.",
    ),
    planned("proxy-threads", "threads", _SIDECAR, "Threads of the sidecar."),
    Annotation(
        "rewrite-probes",
        "rewrite_probes",
        Flag(),
        "true",
        "Whether kubelet's probes of intercepted ports go to alias ports, which the kernel redirects past the sidecar.",
        _DELIVERY,
    ),
    Annotation(
        "http-ports",
        "http_ports",
        PortList(),
        "ports named http, http2, grpc, h2c or ws, or so with a suffix (http-api); none with `emit-proxy-protocol`",
        "Intercepted ports that speak HTTP. `redirect`: their requests get headers.",
        _HTTP,
    ),
    planned(
        "http-headers",
        "http_headers",
        _REDIRECT,
        "Which headers are written; all of them are taken out first.",
        WordList(HEADERS),
    ),
    planned(
        "forwarded-for",
        "forwarded_for",
        _REDIRECT,
        "What becomes of a list of addresses that comes in. `replace`: it goes. `append`: the client is put behind it. "
        "`trusted`: where a trusted network states it, its right-most address that is not trusted is the client.",
    ),
    planned(
        "forwarded-for-header",
        "forwarded_for_header",
        _HTTP,
        "The name of the header of this list.",
        HeaderName(),
    ),
    planned(
        "http-other",
        "http_other",
        _REDIRECT,
        "What an HTTP port does with what is not HTTP. `pass`, for ports that carry both, leads TLS and text that no "
        "server could take for a request to the application as it is; nothing is added to it or taken out.",
    ),
    planned(
        "emit-proxy-protocol",
        "emit_proxy_protocol",
        _REDIRECT,
        "`redirect`: a fresh PROXY header begins each connection to a port that is not in `http-ports`.",
    ),
    planned(
        "tlv-headers",
        "tlv_headers",
        _REDIRECT,
        "`redirect`: what the PROXY header says besides addresses, as HTTP headers.",
        TlvHeaders(),
    ),
    planned(
        "remove-headers",
        "remove_headers",
        _REDIRECT,
        "`redirect`: further headers that no request may bring, in any spelling: names that this application reads a "
        "client from. The usual ones go anyhow.",
        HeaderNames(),
    ),
    planned(
        "http-request-timeout",
        "request_timeout_ms",
        _DELIVERY,
        "How long the headers of an HTTP request may take; then the connection ends, with status 408 where one began.",
    ),
    planned(
        "http-keep-alive-timeout",
        "keep_alive_timeout_s",
        _DELIVERY,
        "How long an HTTP connection may be idle between requests. Longer than that of your load balancers.",
    ),
    planned(
        "tcp-keepalive",
        "tcp_keepalive_s",
        _DELIVERY,
        "After how long a silence TCP asks the balancer whether it is still there: the application's own keep-alives "
        "end at the sidecar. Without an answer the connection ends after as long again. Keep it shorter than the idle "
        "time-out of the load balancer (350 s on AWS NLB, 240 s on Azure).",
    ),
    planned(
        "client-from",
        "client_from",
        _INBOUND,
        "`tproxy`: what states the client on `http-ports`. `x-forwarded-for` is for balancers that speak HTTP and no "
        "PROXY protocol: each request has its own client; these ports take HTTP alone. `toa` (`ebpf` alone): the TCP "
        "option of this name, in place of the PROXY protocol on every port.",
    ),
    planned(
        "outbound-ports",
        "outbound_ports",
        _OUTBOUND,
        "Destination ports: HTTP requests that the Pod's containers send to them get the headers of the next three "
        "annotations, of which there must be one. In both modes.",
        PortNumbers(),
    ),
    planned(
        "outbound-headers",
        "outbound_headers",
        _OUTBOUND,
        "Headers of outgoing requests. Each replaces every line of its name.",
        HeaderLines(),
    ),
    planned(
        "set-forwarded-for",
        "outbound_forwarded_for",
        _OUTBOUND,
        "X-Forwarded-For of outgoing requests. `default`: the Pod's address.",
        HeaderValue(),
    ),
    planned(
        "set-client-hostname",
        "outbound_client_hostname",
        _OUTBOUND,
        "X-Client-Hostname of outgoing requests. `default`: the Pod's host name.",
        HeaderValue(),
    ),
    quantity("proxy-cpu", CPU, "CPU request of the sidecar."),
    quantity("proxy-memory", MEMORY, "Memory request of the sidecar."),
    quantity("proxy-cpu-limit", CPU, "CPU limit of the sidecar."),
    quantity("proxy-memory-limit", MEMORY_LIMIT, "Memory limit of the sidecar."),
)
