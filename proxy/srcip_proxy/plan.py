"""The contract between the webhook and the data plane: what one Pod's sidecar does.

The webhook writes a Plan into the environment of the init container (`SRCIP_PLAN`, JSON); `srcip-proxy init`
reads it back. Both sides use this module, and a property test ties `to_env` to `from_env`. Whatever is not
exactly understood is refused: a guess here would become a wrong address later.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from srcip_proxy import headers
from srcip_proxy.headers import HEADERS, Pairs
from srcip_proxy.plan_json import PORTS, READ
from srcip_proxy.portranges import PortRange, ProbeAlias, holds, merge, port_range

__all__ = ["Plan", "PlanError", "PortRange", "ProbeAlias", "merge", "port_range"]

ENV = "SRCIP_PLAN"
VERSION = 3

FALLBACK = "ebpf,tproxy"
"""ebpf mode where the node can have it, else tproxy: init decides, as nobody knows the node before."""
MODES = ("tproxy", "redirect", "ebpf", FALLBACK)
POLICIES = ("required", "optional", "off")
DELIVERIES = ("auto", "loopback", "pod")
FIDELITIES = ("best-effort", "ip", "exact")
FORWARDED_FOR = ("replace", "append", "trusted")
OTHERS = ("refuse", "pass")
EMITTED = ("off", "v1", "v2")
TOA = "toa"
"""The client stands in a TCP option of its connection."""
CLIENT_FROM = ("proxy-protocol", "x-forwarded-for", TOA)

PROXY_PORT = 15301
"""Where the sidecar listens for intercepted connections, on loopback only."""
HEALTH_PORT = 15320
"""`/healthz`, `/readyz` and `/metrics` of the sidecar."""
CHECK_PORT = 15321
"""Used by `srcip-proxy check` alone."""
CHECK_PROXY_PORT = 15322
"""Where the sidecar listens for the check, on loopback only."""
OUTBOUND_PORT = 15306
"""Where the sidecar listens for the Pod's own connections to `outbound_ports`; only the Pod gets there."""
RESERVED_PORTS = (PROXY_PORT, OUTBOUND_PORT, HEALTH_PORT, CHECK_PORT, CHECK_PROXY_PORT)
OUTBOUND_WAIT_MS = 250
"""How long an outgoing connection may be silent before it passes untouched: the server may speak first."""
MOST_REDIRECTED = 4096
"""Most intercepted ports in redirect mode, and most outbound ports: the kernel needs an entry for each."""
LONGEST_IN_KERNEL = 4096
"""Longest header that ebpf mode can hold, in bytes."""
CGROUP_MOUNT = "/host/cgroup"
"""Where init finds the node's cgroups in ebpf mode."""
UID = 7363
"""User and group of the init container and of the sidecar."""


def reserved_ports(mode: str | None) -> tuple[int, ...]:
    """The ports that no application of a Pod in this mode can have: those of the sidecar, if there is one."""
    return () if mode == "ebpf" else RESERVED_PORTS


class PlanError(ValueError):
    """The plan is not one this version understands; `errors` names every fault."""

    def __init__(self, errors: Iterable[str]) -> None:
        self.errors = tuple(errors)
        super().__init__(f"{ENV}: " + "; ".join(self.errors))


@dataclass(frozen=True)
class Plan:
    """Everything the data plane of one Pod is told. Immutable; equal plans render equal texts."""

    inbound_ports: tuple[PortRange, ...]
    """Intercepted destination ports: sorted, disjoint."""
    trusted_cidrs: tuple[str, ...]
    """Who may state a client address: canonical networks of either family."""
    proxy_protocol: str = "required"
    """What a trusted source must send: one of POLICIES. `off` means that its connections stay native."""
    node_proxy_protocol: str = "optional"
    """The same for the node's own address, where it is trusted: kubelet, host network, SNAT."""
    proxy_protocol_versions: tuple[int, ...] = (1, 2)
    """Versions of the PROXY protocol that are accepted."""
    header_timeout_ms: int = 5000
    """How long a trusted connection may take to send its whole header, in milliseconds."""
    max_header_bytes: int = 4096
    """Longest accepted header, in bytes; a version 1 line is never longer than 107."""
    deliver_to: str = "auto"
    """Where the application is reached: one of DELIVERIES. `auto` tries the loopback address, then the Pod's own."""
    client_address: str = "best-effort"
    """What to do when the exact client address and port cannot be had: one of FIDELITIES."""
    max_connections: int = 10000
    """Open connections through the sidecar; more wait in the kernel's queue."""
    max_connections_per_client: int = 2500
    """Open connections of one client address; more are refused. 0 means no limit."""
    drain_timeout_s: int = 30
    """How long open connections may go on after SIGUSR1, in seconds."""
    threads: int = 1
    """Threads of the sidecar."""
    probe_aliases: tuple[ProbeAlias, ...] = ()
    """Ports for kubelet's probes: sorted, distinct."""
    mesh: bool = False
    """Whether a mesh's sidecar is in the Pod. What is not intercepted stays tracked then, so that the mesh takes it."""
    mode: str = "tproxy"
    """How the application learns the client: one of MODES."""
    http_ports: tuple[PortRange, ...] = ()
    """Intercepted ports that speak HTTP: sorted, disjoint. In redirect mode their requests get headers."""
    http_headers: tuple[str, ...] = HEADERS
    """Which headers are written: some of HEADERS, in their order."""
    forwarded_for: str = "replace"
    """What happens to an incoming X-Forwarded-For: one of FORWARDED_FOR."""
    forwarded_for_header: str = "X-Forwarded-For"
    """The name of the header that lists the addresses."""
    http_other: str = "refuse"
    """What happens on an HTTP port to what is not HTTP: one of OTHERS."""
    emit_proxy_protocol: str = "off"
    """The header that begins a connection to a port that is not in http_ports: one of EMITTED. Redirect mode only."""
    tlv_headers: Pairs = ()
    """Pairs of a TLV (one of headers.TLVS) and the name of the HTTP header that holds its value."""
    remove_headers: tuple[str, ...] = ()
    """Further names of HTTP headers that no request may bring, in any spelling."""
    request_timeout_ms: int = 10_000
    """How long the headers of an HTTP request may take, in milliseconds."""
    keep_alive_timeout_s: int = 75
    """How long an HTTP connection may be idle between two requests, in seconds."""
    client_from: str = "proxy-protocol"
    """What states the client, on HTTP ports in tproxy mode and on all in ebpf mode: one of CLIENT_FROM."""
    outbound_ports: tuple[PortRange, ...] = ()
    """Destination ports whose outgoing HTTP requests get headers: sorted, disjoint."""
    outbound_headers: Pairs = ()
    """Pairs of a header's name and its value for outgoing requests."""
    outbound_forwarded_for: str = ""
    """X-Forwarded-For of outgoing requests: nothing, `default` (the Pod's address) or a value."""
    outbound_client_hostname: str = ""
    """X-Client-Hostname of outgoing requests: nothing, `default` (the Pod's host name) or a value."""
    version: int = VERSION

    def __post_init__(self) -> None:
        if errors := [message for check, message in _checks(self) if not check]:
            raise PlanError(errors)

    def to_env(self) -> str:
        """This plan as the value of `SRCIP_PLAN`: JSON in one line, sorted keys, nothing that Kubernetes expands."""
        plain = asdict(self)
        for name in PORTS:
            plain[name] = [str(r) for r in getattr(self, name)]
        plain["probe_aliases"] = {str(a.alias): a.port for a in self.probe_aliases}
        return json.dumps(plain, sort_keys=True, separators=(",", ":")).replace("$", "\\u0024")

    @classmethod
    def from_env(cls, text: str) -> Plan:
        """Read a plan back. Raises PlanError on bad JSON, an unknown version or field, or a bad value."""
        raw = _object(text)
        if raw.get("version") != VERSION:
            found = f"version {raw.get('version')!r} is not known here; this data plane knows {VERSION}"
            raise PlanError([f"{found}: use the image that the Pod was created with"])
        return cls(**_typed(raw))


def _object(text: str) -> dict[str, object]:
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PlanError([f"not JSON: {error}"]) from None
    if not isinstance(raw, dict):
        raise PlanError([f"a JSON object is expected, not {type(raw).__name__}"])
    return raw


def _typed(raw: dict[str, object]) -> dict[str, Any]:
    """Each field of the JSON object in its Python type; all faults at once."""
    known = {f.name for f in fields(Plan)}
    errors = [f"unknown field {name!r}" for name in sorted(raw.keys() - known)]
    errors += [f"missing field {name!r}" for name in ("inbound_ports", "trusted_cidrs") if name not in raw]
    typed: dict[str, Any] = {}
    for name in raw.keys() & known:
        try:
            typed[name] = READ[name](raw[name])
        except (TypeError, ValueError) as error:
            errors.append(f"{name}: {error}")
    if errors:
        raise PlanError(errors)
    return typed


def _canonical(cidr: str) -> bool:
    try:
        return str(ipaddress.ip_network(cidr)) == cidr
    except ValueError:
        return False


def _checks(plan: Plan) -> Iterable[tuple[bool, str]]:
    """Each rule a plan must hold, with the message when it does not."""
    for name, (low, high) in LIMITS.items():
        value = getattr(plan, name)
        yield low <= value <= high, f"{name}: {value} is not between {low} and {high}"
    for name, allowed in CHOICES.items():
        value = getattr(plan, name)
        yield value in allowed, f"{name}: {value!r} is not one of {', '.join(allowed)}"
    versions = plan.proxy_protocol_versions
    yield versions in ((1,), (2,), (1, 2)), f"proxy_protocol_versions: {versions} is not 1, 2 or both"
    idle = plan.mode == FALLBACK  # what the sidecar is told when programs in the kernel have all that comes in
    yield bool(plan.inbound_ports or plan.outbound_ports or idle), "inbound_ports: none"
    for name in PORTS:
        ranges = getattr(plan, name)
        yield merge(ranges) == ranges, f"{name}: not sorted and disjoint"
        for port in reserved_ports(plan.mode):
            yield not any(port in r for r in ranges), f"{name}: {port} is the sidecar's own port"
    most = MOST_REDIRECTED if plan.mode == "redirect" else 65535
    yield sum(r.last - r.first + 1 for r in plan.inbound_ports) <= most, f"inbound_ports: more than {most} ports"
    few = sum(r.last - r.first + 1 for r in plan.outbound_ports) <= MOST_REDIRECTED
    yield few, f"outbound_ports: more than {MOST_REDIRECTED} ports"
    yield holds(plan.inbound_ports, plan.http_ports), "http_ports: not all of them are inbound_ports"
    yield bool(plan.trusted_cidrs or not plan.inbound_ports), "trusted_cidrs: none"
    for cidr in plan.trusted_cidrs:
        yield _canonical(cidr), f"trusted_cidrs: {cidr!r} is not a network such as 192.0.2.0/24"
    yield tuple(sorted(set(plan.probe_aliases))) == plan.probe_aliases, "probe_aliases: not sorted and distinct"
    for alias in plan.probe_aliases:
        yield 1 <= alias.alias <= 65535 and 1 <= alias.port <= 65535, f"probe_aliases: {alias} is not a pair of ports"
    yield from ((False, fault) for fault in _header_faults(plan))
    if plan.mode in ("ebpf", FALLBACK):
        short = plan.max_header_bytes <= LONGEST_IN_KERNEL
        yield short, f"max_header_bytes: ebpf mode holds at most {LONGEST_IN_KERNEL}, not {plan.max_header_bytes}"
    yield plan.client_from != TOA or plan.mode == "ebpf", f"client_from: {TOA} is for ebpf mode alone, not {plan.mode}"
    if plan.mode == "ebpf":
        yield not plan.outbound_ports, "outbound_ports: ebpf mode is for incoming connections alone"
        yield not plan.probe_aliases, "probe_aliases: ebpf mode has none"


def _header_faults(plan: Plan) -> Iterable[str]:
    """What no header can be."""
    chosen = tuple(name for name in HEADERS if name in plan.http_headers)
    if chosen != plan.http_headers:
        yield f"http_headers: {plan.http_headers} are not some of {', '.join(HEADERS)}, in this order"
    for tlv, _ in plan.tlv_headers:
        if tlv not in headers.TLVS:
            yield f"tlv_headers: {tlv!r} is not one of {', '.join(headers.TLVS)}"
    yield from (f"remove_headers: {fault}" for fault in headers.name_faults(plan.remove_headers))
    written = [plan.forwarded_for_header, *(name for _, name in plan.tlv_headers)]
    yield from (f"http_headers: {fault}" for fault in headers.name_faults(written, headers.FIXED))
    fixed = {field: name for field, name in headers.OUTBOUND.items() if getattr(plan, field)}
    names = [name for name, _ in plan.outbound_headers]
    yield from (f"outbound_headers: {fault}" for fault in headers.name_faults(names, fixed))
    values = {"outbound_headers": [value for _, value in plan.outbound_headers]}
    values |= {name: [getattr(plan, name)] for name in headers.OUTBOUND}
    for field, texts in values.items():
        yield from (f"{field}: {fault}" for text in texts if (fault := headers.value_fault(text)))


LIMITS = {
    "header_timeout_ms": (100, 60_000),
    "max_header_bytes": (536, 16_384),
    "max_connections": (1, 1_000_000),
    "max_connections_per_client": (0, 1_000_000),
    "drain_timeout_s": (0, 86_400),
    "request_timeout_ms": (100, 3_600_000),
    "keep_alive_timeout_s": (1, 86_400),
    "threads": (1, 64),
    "version": (VERSION, VERSION),
}
"""Smallest and largest allowed value of each number, in the units of their names."""

CHOICES = {
    "mode": MODES,
    "proxy_protocol": POLICIES,
    "node_proxy_protocol": POLICIES,
    "deliver_to": DELIVERIES,
    "client_address": FIDELITIES,
    "forwarded_for": FORWARDED_FOR,
    "http_other": OTHERS,
    "emit_proxy_protocol": EMITTED,
    "client_from": CLIENT_FROM,
}
"""The allowed words of each field that holds one."""
