"""The table of the annotations that srcip reads, and the reader that goes by it.

Parser, error messages, JSON schema and docs/annotations.md all come from TABLE; nothing about an annotation is said
anywhere else. What is read is an Intent: what the Pod's owner asked for, before the Pod itself is looked at.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

from srcip_proxy.plan import DELIVERIES, FIDELITIES, LIMITS, POLICIES, Plan, PortRange
from srcip_webhook.pods import shown
from srcip_webhook.quantities import Quantity
from srcip_webhook.values import (
    BadValue,
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
MODE = PREFIX + "mode"
INJECT = PREFIX + "inject"
STATUS = PREFIX + "status"
INJECTED = PREFIX + "injected"
"""Label of Pods that got the sidecar."""


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
    text = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
    if isinstance(kind, Duration):
        text = duration_text(default * kind.unit_ms)
    return Annotation(name, field, kind, default, text, doc)


def _number(name: str, field: str, unit: str, doc: str) -> Annotation:
    return _planned(name, field, Number(*LIMITS[field], unit), doc)


def _quantity(name: str, kind: Quantity, doc: str) -> Annotation:
    return Annotation(name, name.replace("-", "_"), kind, None, "the webhook's setting", doc)


CPU = Quantity("1m", "64", "100m")
MEMORY = Quantity("1Mi", "64Gi", "64Mi")
MEMORY_LIMIT = Quantity("32Mi", "64Gi", "256Mi")
"""The sidecar takes up to 20 MiB when idle; a lower limit would kill it at once."""

_PLAN_DEFAULTS: dict[str, Any] = {f.name: f.default for f in fields(Plan)}

TABLE: tuple[Annotation, ...] = (
    Annotation(
        "mode",
        "mode",
        Word(("tproxy",), later=("redirect", "ebpf")),
        None,
        "none: the Pod is left alone",
        "Asks for the sidecar. `tproxy`: the application sees the client's IP and port as its TCP peer.",
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
    _quantity("proxy-cpu", CPU, "CPU request of the sidecar."),
    _quantity("proxy-memory", MEMORY, "Memory request of the sidecar."),
    _quantity("proxy-cpu-limit", CPU, "CPU limit of the sidecar."),
    _quantity("proxy-memory-limit", MEMORY_LIMIT, "Memory limit of the sidecar."),
)

_BY_KEY = {row.key: row for row in TABLE}
_DEFAULTS = {row.field: row.default for row in TABLE}
_OWN = {STATUS}
_SHORT = 2048
"""Longest set of annotations that is remembered, in characters: the memory stays below a few MiB."""

Said = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Reading:
    """What the annotations of a Pod say."""

    intent: Intent
    """A row with a fault has its default here."""
    faults: tuple[str, ...]
    """A sentence for each value that is not allowed."""
    warnings: tuple[str, ...]
    """A sentence for each annotation with our prefix that TABLE does not know; most are typing errors."""


def read(annotations: Mapping[str, str]) -> Reading:
    """Read everything at once. Pods of one owner say the same, so short texts are remembered."""
    said = tuple((key, text) for key, text in annotations.items() if key.startswith(PREFIX) and key not in _OWN)
    short = sum(len(key) + len(text) for key, text in said) <= _SHORT
    return _remembered(said) if short else _read(said)


def _read(said: Said) -> Reading:
    values, faults = dict(_DEFAULTS), []
    for key, text in said:
        if row := _BY_KEY.get(key):
            try:
                values[row.field] = row.kind.parse(text)
            except BadValue as error:
                faults.append(f"{key}: {'; '.join(error.faults)}. Allowed: {row.kind.allowed}")
    strangers = sorted(key for key, _ in said if key not in _BY_KEY)[:10]
    warnings = (f"{shown(key, 80)} is not an annotation of srcip{_suggestion(key)}" for key in strangers)
    return Reading(Intent(**values), tuple(sorted(faults)), tuple(warnings))


_remembered = lru_cache(maxsize=512)(_read)


def _suggestion(key: str) -> str:
    close = difflib.get_close_matches(key[:80], _BY_KEY, n=1, cutoff=0.8)
    return f"; did you mean {close[0]}?" if close else ""


def schema() -> dict[str, Any]:
    """A JSON schema of the annotations as a whole; values that only the Pod can judge pass it."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Annotations of srcip",
        "type": "object",
        "properties": {
            row.key: {"description": f"{row.doc} Allowed: {row.kind.allowed}.", **row.kind.schema} for row in TABLE
        },
    }
