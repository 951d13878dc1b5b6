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
from srcip_webhook.values import Flag, NetworkList, UserList, Versions, Word

__all__ = ["PREFIX", "TABLE", "Annotation", "Intent", "Scope"]

_INBOUND, _OUTBOUND, _SIDECAR = Scope.INBOUND, Scope.OUTBOUND, Scope.SIDECAR
_DELIVERY, _REDIRECT, _HTTP = _INBOUND | _SIDECAR, _INBOUND | Scope.REDIRECT, _INBOUND | Scope.HTTP
_HEADER = _INBOUND | Scope.HEADER

TABLE: tuple[Annotation, ...] = (
    Annotation(
        "mode",
        "mode",
        Word(tuple(WRITTEN_MODES)),
        "none: the Pod is not changed",
        "Asks for srcip. `tproxy`: the application sees the client's IP and port as its TCP peer. `redirect`: in "
        "HTTP headers or in a PROXY header of its own, and the sidecar has no capability. `ebpf`: as `tproxy`, by "
        "BPF programs that an init container attaches; there is no sidecar. `ebpf,tproxy`: `ebpf` where the "
        "node supports it, else `tproxy`; the sidecar is injected in either case.",
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
        "Ports that are not intercepted.",
    ),
    Annotation(
        "without-ports",
        "without_ports",
        Word(("refuse", "skip")),
        "refuse",
        "What happens to a Pod without a TCP port to intercept, and without `outbound-ports`. `skip` injects nothing: "
        "for helper Jobs of an operator that writes the same annotations on all its Pods. A port that is named and not "
        "declared is refused in either case.",
    ),
    Annotation(
        "trusted-cidrs",
        "trusted_cidrs",
        NetworkList(),
        "the webhook's setting; without one the Pod is refused",
        "The load balancers: the only sources whose PROXY header or X-Forwarded-For counts. Replaces the "
        "webhook's setting.",
        _INBOUND,
    ),
    Annotation(
        "trust-any-source",
        "trust_any_source",
        Flag(),
        "false",
        "`true` allows 0.0.0.0/0 or ::/0 in `trusted-cidrs`: any source that reaches the Pod can claim any address.",
        _INBOUND,
    ),
    planned(
        "proxy-protocol",
        "proxy_protocol",
        _INBOUND,
        "Whether a trusted source must send a header. `optional` accepts connections with and without; "
        "`off` intercepts none.",
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
        "How long a trusted connection may take to send its complete header.",
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
        "How exact the client must be: `best-effort` delivers with port or address replaced where they "
        "can't be used, `ip` "
        "requires the address, `exact` address and port; otherwise the connection is refused.",
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
        "Which headers are written; those of the request are removed first.",
        WordList(HEADERS),
    ),
    planned(
        "forwarded-for",
        "forwarded_for",
        _REDIRECT,
        "What happens to the list of addresses in a request. `replace`: it is removed. `append`: the "
        "client is appended. "
        "`trusted`: where a trusted network sends it, its right-most address that is not trusted is the client.",
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
        "What an HTTP port does with other protocols. `pass`, for ports that carry both, forwards TLS, "
        "and text that no "
        "server could mistake for a request, unchanged to the application.",
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
        "`redirect`: TLVs of the PROXY header as HTTP headers.",
        TlvHeaders(),
    ),
    planned(
        "remove-headers",
        "remove_headers",
        _REDIRECT,
        "`redirect`: further headers that are removed from requests, in any spelling: names from which "
        "this application "
        "reads a client. The usual ones are always removed.",
        HeaderNames(),
    ),
    planned(
        "http-request-timeout",
        "request_timeout_ms",
        _DELIVERY,
        "How long the headers of an HTTP request may take; then the connection is closed, with status "
        "408 if a request began.",
    ),
    planned(
        "http-keep-alive-timeout",
        "keep_alive_timeout_s",
        _DELIVERY,
        "How long an HTTP connection may be idle between requests. Set it longer than that of your load balancers.",
    ),
    planned(
        "tcp-keepalive",
        "tcp_keepalive_s",
        _DELIVERY,
        "Idle time after which TCP keep-alives are sent to the balancer: the application's own ones end "
        "at the sidecar. "
        "Without an answer the connection is closed after the same time again. Set it shorter than the idle timeout "
        "of the load balancer (350 s on AWS NLB, 240 s on Azure).",
    ),
    planned(
        "client-from",
        "client_from",
        _INBOUND,
        "`tproxy`: where the client's address comes from on `http-ports`. `x-forwarded-for` is for "
        "balancers that speak HTTP and no "
        "PROXY protocol: each request has its own client; these ports take HTTP alone. `toa` (`ebpf` alone): the TCP "
        "option of this name, in place of the PROXY protocol on every port.",
    ),
    planned(
        "outbound-ports",
        "outbound_ports",
        _OUTBOUND,
        "Destination ports: HTTP requests that the Pod's containers send to them get the headers of the next three "
        "annotations, of which one must be set. Not in `ebpf` mode.",
        PortNumbers(),
    ),
    planned(
        "outbound-headers",
        "outbound_headers",
        _OUTBOUND,
        "Headers of outgoing requests. They replace headers of the same name.",
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
    planned(
        "mesh-proxy-uids",
        "mesh_proxy_uids",
        _SIDECAR,
        "The users of another proxy that redirects the Pod's connections, as its container's `runAsUser` has them: a "
        "mesh's that srcip does not know by its container's name (Istio's, Linkerd's, Kuma's and Consul's it does). "
        "What is not intercepted is left to that proxy, its ports too, and what it opens gets no outbound headers.",
        UserList(),
    ),
    quantity("proxy-cpu", CPU, "CPU request of the sidecar."),
    quantity("proxy-memory", MEMORY, "Memory request of the sidecar."),
    quantity("proxy-cpu-limit", CPU, "CPU limit of the sidecar."),
    quantity("proxy-memory-limit", MEMORY_LIMIT, "Memory limit of the sidecar."),
)
