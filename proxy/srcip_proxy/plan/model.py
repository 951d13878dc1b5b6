"""The contract between the webhook and the data plane: what one Pod's sidecar does.

The webhook writes a Plan into the environment of the init container (`SRCIP_PLAN`, JSON); `srcip-proxy init`
reads it back. Both sides use this module, and a property test ties `to_env` to `from_env`. Whatever is not
exactly understood is refused: a guess here would become a wrong address later.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from srcip_proxy.plan import codec, headers
from srcip_proxy.plan.codec import Aliases, Choice, Flag, Number, Ports, Text, TextPairs, Texts, Users, Versions, of
from srcip_proxy.plan.headers import HEADERS
from srcip_proxy.plan.ports import PortRange, ProbeAlias, holds

ENV = "SRCIP_PLAN"
VERSION = 3

MODES = ("tproxy", "redirect", "ebpf")
FALLBACKS = ("", "tproxy")
"""What can take the place of ebpf mode: nothing, or this mode."""
FALLBACK = "ebpf,tproxy"
WRITTEN_MODES = {**{mode: (mode, "") for mode in MODES}, FALLBACK: ("ebpf", "tproxy")}
"""How annotations and JSON write a mode, and the mode and the fallback that it stands for."""
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


class PlanError(ValueError):
    """The plan is not one this version understands; `errors` names every fault."""

    def __init__(self, errors: Iterable[str]) -> None:
        self.errors = tuple(errors)
        super().__init__(f"{ENV}: " + "; ".join(self.errors))


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the owner of a Pod can choose for its data plane, each with the default. Every field has an annotation of
    its own (the fallback is part of the mode's), and each is part of the Plan as it is."""

    mode: str = of(Choice(MODES), "tproxy")
    """How the application learns the client. The properties below say what each mode means."""
    fallback: str = of(Choice(FALLBACKS), "")
    """The mode where the node can't have ebpf mode: init decides, as nobody knows the node before."""
    proxy_protocol: str = of(Choice(POLICIES), "required")
    """What a trusted source must send. `off` means that its connections stay native."""
    node_proxy_protocol: str = of(Choice(POLICIES), "optional")
    """The same for the node's own address, where it is trusted: kubelet, host network, SNAT."""
    proxy_protocol_versions: tuple[int, ...] = of(Versions(), (1, 2))
    """Versions of the PROXY protocol that are accepted."""
    header_timeout_ms: int = of(Number(100, 60_000, "ms"), 5000)
    """How long a trusted connection may take to send its complete header."""
    max_header_bytes: int = of(Number(536, 16_384, "bytes"), 4096)
    """Longest accepted header; a version 1 line is never longer than 107 bytes."""
    deliver_to: str = of(Choice(DELIVERIES), "auto")
    """Where the application is reached. `auto` tries the loopback address, then the Pod's own."""
    client_address: str = of(Choice(FIDELITIES), "best-effort")
    """What to do when the exact client address and port cannot be had."""
    max_connections: int = of(Number(1, 1_000_000, "connections"), 10000)
    """Open connections through the sidecar; more wait in the kernel's queue."""
    max_connections_per_client: int = of(Number(0, 1_000_000, "connections"), 2500)
    """Open connections of one client address; more are refused. 0 means no limit."""
    drain_timeout_s: int = of(Number(0, 86_400, "s"), 30)
    """How long open connections may go on after SIGUSR1."""
    threads: int = of(Number(1, 64, "threads"), 1)
    """Threads of the sidecar."""
    http_headers: tuple[str, ...] = of(Texts(), HEADERS)
    """Which headers are written: some of HEADERS, in their order."""
    forwarded_for: str = of(Choice(FORWARDED_FOR), "replace")
    """What happens to an incoming X-Forwarded-For."""
    forwarded_for_header: str = of(Text(), "X-Forwarded-For")
    """The name of the header that lists the addresses."""
    http_other: str = of(Choice(OTHERS), "refuse")
    """What happens on an HTTP port to what is not HTTP."""
    emit_proxy_protocol: str = of(Choice(EMITTED), "off")
    """The header that begins a connection to a port that is not in http_ports. Redirect mode only."""
    tlv_headers: tuple[tuple[str, str], ...] = of(TextPairs(), ())
    """Pairs of a TLV (one of headers.TLVS) and the name of the HTTP header that holds its value."""
    remove_headers: tuple[str, ...] = of(Texts(), ())
    """Further names of HTTP headers that no request may bring, in any spelling."""
    request_timeout_ms: int = of(Number(100, 3_600_000, "ms"), 10_000)
    """How long the headers of an HTTP request may take."""
    keep_alive_timeout_s: int = of(Number(1, 86_400, "s"), 75)
    """How long an HTTP connection may be idle between two requests."""
    tcp_keepalive_s: int = of(Number(5, 7_200, "s"), 120)
    """After how long a silence TCP asks a balancer whether it is still there."""
    client_from: str = of(Choice(CLIENT_FROM), "proxy-protocol")
    """What states the client, on HTTP ports in tproxy mode and on all in ebpf mode."""
    outbound_ports: tuple[PortRange, ...] = of(Ports(), ())
    """Destination ports whose outgoing HTTP requests get headers: sorted, disjoint."""
    outbound_headers: tuple[tuple[str, str], ...] = of(TextPairs(), ())
    """Pairs of a header's name and its value for outgoing requests."""
    outbound_forwarded_for: str = of(Text(), "")
    """X-Forwarded-For of outgoing requests: nothing, `default` (the Pod's address) or a value."""
    outbound_client_hostname: str = of(Text(), "")
    """X-Client-Hostname of outgoing requests: nothing, `default` (the Pod's host name) or a value."""

    mesh_proxy_uids: tuple[int, ...] = of(Users(), ())
    """Users of a mesh's proxy in the Pod: what they open is the mesh's own, and gets no headers."""

    @property
    def attaches_programs(self) -> bool:
        """Programs in the kernel tell the application its client; init attaches them."""
        return self.mode == "ebpf"

    @property
    def may_fall_back(self) -> bool:
        """A sidecar does it where the node can't have these programs."""
        return bool(self.fallback)

    @property
    def has_sidecar(self) -> bool:
        """A proxy runs in the Pod, and has ports of its own there."""
        return not self.attaches_programs or self.may_fall_back

    @property
    def spoofs_source(self) -> bool:
        """The sidecar connects to the application from the client's address."""
        return "tproxy" in (self.mode, self.fallback)

    @property
    def redirects(self) -> bool:
        """Connections are redirected to the sidecar, and the bytes that it sends tell the application its client."""
        return self.mode == "redirect"

    @property
    def reserved_ports(self) -> tuple[int, ...]:
        """The ports that no application of the Pod can have: those of the sidecar, if there is one."""
        return RESERVED_PORTS if self.has_sidecar else ()

    @property
    def written_mode(self) -> str:
        """The mode and its fallback as people write them."""
        return f"{self.mode},{self.fallback}" if self.fallback else self.mode


@dataclass(frozen=True)
class Plan(Options):
    """Everything the data plane of one Pod is told. Immutable; equal plans render equal texts."""

    inbound_ports: tuple[PortRange, ...] = field(metadata={"kind": Ports()})
    """Intercepted destination ports: sorted, disjoint."""
    trusted_cidrs: tuple[str, ...] = field(metadata={"kind": Texts()})
    """Who may state a client address: canonical networks of either family."""
    probe_aliases: tuple[ProbeAlias, ...] = of(Aliases(), ())
    """Ports for kubelet's probes: sorted, distinct."""
    mesh: bool = of(Flag(), False)
    """Whether a mesh's sidecar is in the Pod. What is not intercepted stays tracked then, so that the mesh takes it."""
    http_ports: tuple[PortRange, ...] = of(Ports(), ())
    """Intercepted ports that speak HTTP: sorted, disjoint. In redirect mode their requests get headers."""
    is_idle: bool = of(Flag(), False)
    """Programs in the kernel have all that comes in, and the sidecar only stands by. init says so, no JSON does."""
    version: int = of(Number(VERSION, VERSION), VERSION)

    def __post_init__(self) -> None:
        if errors := [message for check, message in _checks(self) if not check]:
            raise PlanError(errors)

    def to_env(self) -> str:
        """This plan as the value of `SRCIP_PLAN`: JSON in one line, sorted keys, nothing that Kubernetes expands."""
        plain = {name: kind.plain(getattr(self, name)) for name, kind in _WRITTEN.items()}
        plain["mode"] = self.written_mode
        return json.dumps(plain, sort_keys=True, separators=(",", ":")).replace("$", "\\u0024")

    @classmethod
    def from_env(cls, text: str) -> Plan:
        """Read a plan back. Raises PlanError on bad JSON, an unknown version or field, or a bad value."""
        raw = _object(text)
        if raw.get("version") != VERSION:
            found = f"version {raw.get('version')!r} is not supported; this image supports version {VERSION}"
            raise PlanError([f"{found}; use the image that the Pod was created with, or create the Pod anew"])
        return cls(**_typed(raw))

    def for_sidecar(self, attached: bool) -> Plan:
        """What is left for the sidecar of a plan that may fall back: nothing of what comes in where the programs are
        attached, else all of it."""
        fallen = replace(self, mode=self.fallback, fallback="")
        return replace(fallen, inbound_ports=(), http_ports=(), is_idle=True) if attached else fallen


KINDS = codec.kinds(Plan)
"""The kind of each field of a plan, by its name."""
_WRITTEN = {name: kind for name, kind in KINDS.items() if name not in ("fallback", "is_idle")}
"""Those that JSON has a field for."""


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
    errors = [f"unknown field {name!r}" for name in sorted(raw.keys() - _WRITTEN.keys())]
    errors += [f"missing field {name!r}" for name in ("inbound_ports", "trusted_cidrs") if name not in raw]
    typed: dict[str, Any] = {}
    for name in raw.keys() & _WRITTEN.keys():
        try:
            typed[name] = KINDS[name].read(raw[name])
        except (TypeError, ValueError) as error:
            errors.append(f"{name}: {error}")
    if errors:
        raise PlanError(errors)
    if typed.get("mode") in WRITTEN_MODES:
        typed["mode"], typed["fallback"] = WRITTEN_MODES[typed["mode"]]
    return typed


def _canonical(cidr: str) -> bool:
    try:
        return str(ipaddress.ip_network(cidr)) == cidr
    except ValueError:
        return False


def _checks(plan: Plan) -> Iterable[tuple[bool, str]]:
    """Each rule a plan must hold, with the message when it does not."""
    for name, kind in KINDS.items():
        if fault := kind.fault(getattr(plan, name)):
            yield False, f"{name}: {fault}"
    yield bool(plan.inbound_ports or plan.outbound_ports or plan.is_idle), "inbound_ports: none"
    for name in (name for name, kind in KINDS.items() if isinstance(kind, Ports)):
        ranges = getattr(plan, name)
        for port in plan.reserved_ports:
            yield not holds(ranges, (PortRange(port, port),)), f"{name}: {port} is the sidecar's own port"
    most = MOST_REDIRECTED if plan.redirects else 65535
    yield sum(r.last - r.first + 1 for r in plan.inbound_ports) <= most, f"inbound_ports: more than {most} ports"
    few = sum(r.last - r.first + 1 for r in plan.outbound_ports) <= MOST_REDIRECTED
    yield few, f"outbound_ports: more than {MOST_REDIRECTED} ports"
    yield holds(plan.inbound_ports, plan.http_ports), "http_ports: must be part of inbound_ports"
    yield bool(plan.trusted_cidrs or not plan.inbound_ports), "trusted_cidrs: none"
    for cidr in plan.trusted_cidrs:
        yield _canonical(cidr), f"trusted_cidrs: {cidr!r} is not a network such as 192.0.2.0/24"
    yield from ((False, fault) for fault in _header_faults(plan))
    if plan.attaches_programs:
        short = plan.max_header_bytes <= LONGEST_IN_KERNEL
        yield (
            short,
            (f"max_header_bytes: {plan.max_header_bytes} is more than the limit of ebpf mode, {LONGEST_IN_KERNEL}"),
        )
    sees_options = plan.client_from != TOA or not plan.has_sidecar
    yield sees_options, f"client_from: {TOA} needs ebpf mode, not {plan.written_mode}"
    yield not plan.may_fall_back or plan.attaches_programs, f"fallback: not available in {plan.mode} mode"
    if not plan.has_sidecar:
        yield not plan.outbound_ports, "outbound_ports: not available in ebpf mode"
        yield not plan.probe_aliases, "probe_aliases: not available in ebpf mode"


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
    for name, texts in values.items():
        yield from (f"{name}: {fault}" for text in texts if (fault := headers.value_fault(text)))
