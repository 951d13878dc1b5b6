"""The table of the annotations that srcip reads: name, type, default, meaning.

Parser, error messages, JSON schema and docs/annotations.md all come from TABLE; nothing about an annotation is said
anywhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from srcip_proxy.headers import HEADERS, Pairs
from srcip_proxy.plan import (
    CLIENT_FROM,
    DELIVERIES,
    EMITTED,
    FIDELITIES,
    FORWARDED_FOR,
    LIMITS,
    OTHERS,
    POLICIES,
    Plan,
    PortRange,
)
from srcip_webhook.header_values import HeaderName, NotYet, TlvHeaders, WordList
from srcip_webhook.quantities import Quantity
from srcip_webhook.values import (
    Duration,
    Flag,
    Kind,
    NetworkList,
    Number,
    PortList,
    Versions,
    Word,
    duration_text,
)

PREFIX = "srcip.io/"


@dataclass(frozen=True)
class Intent:
    """What the annotations of one Pod ask for. None: not said, so that the webhook's settings or the Pod decide."""

    mode: str | None
    inject: bool
    inbound_ports: tuple[PortRange | str, ...] | None
    exclude_inbound_ports: tuple[PortRange | str, ...]
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
    client_from: str
    outbound_ports: None
    outbound_headers: None
    set_forwarded_for: None
    set_client_hostname: None
    proxy_cpu: str | None
    proxy_memory: str | None
    proxy_cpu_limit: str | None
    proxy_memory_limit: str | None


@dataclass(frozen=True)
class Annotation:
    """One row: the name after the prefix, the Intent's field, how it is read, what holds without it, and why."""

    name: str
    field: str
    kind: Kind
    default: Any
    default_text: str
    doc: str

    @property
    def key(self) -> str:
        return PREFIX + self.name


def _planned(name: str, field: str, kind: Kind, doc: str) -> Annotation:
    """A row that becomes the Plan's field of the same name, with the Plan's default."""
    default = _PLAN_DEFAULTS[field]
    text = ",".join(map(str, default)) or "none" if isinstance(default, tuple) else str(default)
    if isinstance(kind, Duration):
        text = duration_text(default * kind.unit_ms)
    return Annotation(name, field, kind, default, text, doc)


def _number(name: str, field: str, unit: str, doc: str) -> Annotation:
    return _planned(name, field, Number(*LIMITS[field], unit), doc)


def _quantity(name: str, kind: Quantity, doc: str) -> Annotation:
    return Annotation(name, name.replace("-", "_"), kind, None, "the webhook's setting", doc)


def _later(name: str, doc: str) -> Annotation:
    return Annotation(name, name.replace("-", "_"), NotYet(), None, "none", doc)


CPU = Quantity("1m", "64", "100m")
MEMORY = Quantity("1Mi", "64Gi", "64Mi")
MEMORY_LIMIT = Quantity("32Mi", "64Gi", "256Mi")
"""The sidecar takes up to 20 MiB when idle; a lower limit would kill it at once."""

_PLAN_DEFAULTS: dict[str, Any] = {f.name: f.default for f in fields(Plan)}

TABLE: tuple[Annotation, ...] = (
    Annotation(
        "mode",
        "mode",
        Word(("tproxy", "redirect"), later=("ebpf",)),
        None,
        "none: the Pod is left alone",
        "Asks for the sidecar. `tproxy`: the application sees the client's IP and port as its TCP peer. `redirect`: in "
        "HTTP headers or in a PROXY header of its own, and the sidecar has no capability.",
    ),
    Annotation(
        "inject", "inject", Flag(), True, "true", "`false` opts the Pod out, whatever else its annotations say."
    ),
    Annotation(
        "inbound-ports",
        "inbound_ports",
        PortList(),
        None,
        "every TCP port that the Pod's containers declare",
        "The ports whose connections from trusted sources are intercepted. Each must be declared by a container.",
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
    _planned(
        "proxy-protocol",
        "proxy_protocol",
        Word(POLICIES),
        "What a trusted source must send. `optional` takes connections with and without a header; `off` takes none.",
    ),
    _planned(
        "node-proxy-protocol",
        "node_proxy_protocol",
        Word(POLICIES),
        "The same for the node's own address, where it is trusted: kubelet, the host network, traffic after SNAT.",
    ),
    _planned(
        "proxy-protocol-versions",
        "proxy_protocol_versions",
        Versions(),
        "The versions of the PROXY protocol that are accepted.",
    ),
    _planned(
        "header-timeout",
        "header_timeout_ms",
        Duration(*LIMITS["header_timeout_ms"]),
        "How long a trusted connection may take to send its whole header.",
    ),
    _number("max-header-size", "max_header_bytes", "bytes", "The longest accepted header."),
    _planned(
        "deliver-to",
        "deliver_to",
        Word(DELIVERIES),
        "Where the application is reached. `loopback`: an address of srcip's own on lo; `pod`: the Pod's address, for "
        "applications bound to it; `auto`: the first, and the second where the first is refused.",
    ),
    _planned(
        "client-address",
        "client_address",
        Word(FIDELITIES),
        "When the exact address and port can't be had: `best-effort` delivers with what can be had, `ip` insists on "
        "the address, `exact` on address and port; otherwise the connection is refused.",
    ),
    _number("max-connections", "max_connections", "connections", "Open connections through the sidecar."),
    _number(
        "max-connections-per-client",
        "max_connections_per_client",
        "connections",
        "Open connections of one client address; 0 means no limit.",
    ),
    _planned(
        "drain-timeout",
        "drain_timeout_s",
        Duration(*LIMITS["drain_timeout_s"], unit_ms=1000),
        "How long open connections may go on when the Pod is stopped.",
    ),
    _number("proxy-threads", "threads", "threads", "Threads of the sidecar."),
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
    _planned(
        "http-headers", "http_headers", WordList(HEADERS), "Which headers are written; all of them are taken out first."
    ),
    _planned(
        "forwarded-for",
        "forwarded_for",
        Word(FORWARDED_FOR),
        "What becomes of a list of addresses that comes in. `replace`: it goes. `append`: the client is put behind it. "
        "`trusted`: where a trusted network states it, its right-most address that is not trusted is the client.",
    ),
    _planned("forwarded-for-header", "forwarded_for_header", HeaderName(), "The name of the header of this list."),
    _planned(
        "http-other",
        "http_other",
        Word(OTHERS),
        "What an HTTP port does with what is not HTTP, TLS among it: `pass` leads it to the application as it is.",
    ),
    _planned(
        "emit-proxy-protocol",
        "emit_proxy_protocol",
        Word(EMITTED),
        "`redirect`: a fresh PROXY header begins each connection to a port that is not in `http-ports`.",
    ),
    _planned(
        "tlv-headers",
        "tlv_headers",
        TlvHeaders(),
        "`redirect`: what the PROXY header says besides addresses, as HTTP headers.",
    ),
    _planned(
        "client-from",
        "client_from",
        Word(CLIENT_FROM),
        "`tproxy`: what states the client on `http-ports`. `x-forwarded-for` is for balancers that speak HTTP and no "
        "PROXY protocol: each request has its own client; these ports take HTTP alone.",
    ),
    _later("outbound-ports", "Destination ports whose outgoing HTTP requests get headers."),
    _later("outbound-headers", "Headers of outgoing requests."),
    _later("set-forwarded-for", "X-Forwarded-For of outgoing requests."),
    _later("set-client-hostname", "X-Client-Hostname of outgoing requests."),
    _quantity("proxy-cpu", CPU, "CPU request of the sidecar."),
    _quantity("proxy-memory", MEMORY, "Memory request of the sidecar."),
    _quantity("proxy-cpu-limit", CPU, "CPU limit of the sidecar."),
    _quantity("proxy-memory-limit", MEMORY_LIMIT, "Memory limit of the sidecar."),
)

OF_REDIRECT = (
    "http_headers",
    "forwarded_for",
    "forwarded_for_header",
    "http_other",
    "emit_proxy_protocol",
    "tlv_headers",
)
"""Fields of Intent and Plan that only redirect mode goes by."""
