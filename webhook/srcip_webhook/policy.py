"""Decides about one Pod: Inject, Skip or Refuse, each with a stable word for its reason.

Pure: the Pod and the settings come in, a decision goes out. Opt-outs are looked at before everything else, so that
they win over whatever is wrong elsewhere; a refusal holds every fault at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from srcip_proxy.headers import FIXED, name_faults
from srcip_proxy.plan import MOST_REDIRECTED, UID, Plan, PortRange, ProbeAlias, merge
from srcip_webhook import pods
from srcip_webhook.annotation_table import OF_REDIRECT
from srcip_webhook.annotations import INJECT, MODE, PREFIX, Intent, read
from srcip_webhook.pods import Pod, shown
from srcip_webhook.ports import Ports, resolve
from srcip_webhook.probes import aliases
from srcip_webhook.quantities import amount
from srcip_webhook.settings import Settings
from srcip_webhook.surprises import surprises
from srcip_webhook.values import everyone

INIT = "srcip-init"
PROXY = "srcip-proxy"
VOLUME = "srcip-run"


class Reason(StrEnum):
    """Why a decision was taken. These words are labels of metrics and logs: they never change their meaning."""

    REQUESTED = "requested"
    UNCHANGED = "unchanged"
    CHANGED = "changed"
    NOT_CREATE = "not-create"
    NOT_A_POD = "not-a-pod"
    NOT_REQUESTED = "not-requested"
    OPTED_OUT = "opted-out"
    INVALID_POD = "invalid-pod"
    INVALID_ANNOTATION = "invalid-annotation"
    INVALID_STATUS = "invalid-status"
    HOST_NETWORK = "host-network"
    WINDOWS = "windows"
    NO_CONTAINERS = "no-containers"
    NAME_CLASH = "name-clash"
    UID_CLASH = "uid-clash"
    PORT_CLASH = "port-clash"
    UNDECLARED_PORT = "undeclared-port"
    NO_PORTS = "no-ports"
    NO_TRUSTED_CIDRS = "no-trusted-cidrs"
    TRUSTS_EVERYONE = "trusts-everyone"
    RESOURCES = "resources"
    NO_HEADERS = "no-headers"
    TOO_MANY_PORTS = "too-many-ports"


REASONS: dict[Reason, str] = {
    Reason.REQUESTED: "The Pod asks for the sidecar and gets it.",
    Reason.UNCHANGED: "The Pod already has exactly the sidecar it asks for; nothing is patched.",
    Reason.CHANGED: "The Pod has a sidecar but asks for another; what srcip added is rendered anew.",
    Reason.NOT_CREATE: "Only the creation of a Pod is looked at: a Pod's containers can't change later.",
    Reason.NOT_A_POD: "The object is not a Pod.",
    Reason.NOT_REQUESTED: "The Pod has no `srcip.io/mode`.",
    Reason.OPTED_OUT: '`srcip.io/inject: "false"`, as an annotation or a label. Wins over everything else.',
    Reason.INVALID_POD: "A field that srcip reads has a type that Kubernetes does not allow.",
    Reason.INVALID_ANNOTATION: "An annotation of srcip has a value that is not allowed.",
    Reason.INVALID_STATUS: "`srcip.io/status` was not written by srcip.",
    Reason.HOST_NETWORK: "The Pod uses the node's network, where rules would meet the node's own traffic.",
    Reason.WINDOWS: "The Pod is for Windows nodes.",
    Reason.NO_CONTAINERS: "The Pod has no containers.",
    Reason.NAME_CLASH: "A container or volume that srcip did not add has one of its names.",
    Reason.UID_CLASH: f"A container runs as user {UID}, which is the sidecar's.",
    Reason.PORT_CLASH: "A port is the sidecar's own.",
    Reason.UNDECLARED_PORT: "A port to be intercepted is declared by no container.",
    Reason.NO_PORTS: "No port is left to intercept.",
    Reason.NO_TRUSTED_CIDRS: "Neither the Pod nor the webhook's settings say which load balancers to trust.",
    Reason.TRUSTS_EVERYONE: "`trusted-cidrs` holds a whole address family without the acknowledgement.",
    Reason.RESOURCES: "A resource request is above its limit.",
    Reason.NO_HEADERS: "No port would tell the application its client, or state one, by HTTP headers.",
    Reason.TOO_MANY_PORTS: f"Redirect mode takes at most {MOST_REDIRECTED} ports.",
}
"""One line about each reason, for the reference page."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: a reason and a sentence that names value and way out."""

    reason: Reason
    message: str


@dataclass(frozen=True)
class Inject:
    """The Pod gets this Plan."""

    plan: Plan
    intent: Intent
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Skip:
    """The Pod is none of our business."""

    reason: Reason
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refuse:
    """The Pod must not start: every fault that was found, at least one."""

    faults: tuple[Fault, ...]
    warnings: tuple[str, ...] = ()


Decision = Inject | Skip | Refuse


def decide(pod: Pod, settings: Settings) -> Decision:
    """What happens to a Pod whose shape is right and that bears nothing of ours."""
    said = pods.annotations_of(pod)
    reading = read(said)
    intent, warnings = reading.intent, reading.warnings
    if reason := declined(pod):
        return Skip(reason, warnings if reason == Reason.NOT_REQUESTED else ())
    ports = resolve(pod, intent)
    cidrs = intent.trusted_cidrs if intent.trusted_cidrs is not None else settings.trusted_cidrs
    faults = [Fault(Reason.INVALID_ANNOTATION, text) for text in reading.faults]
    faults += _pod_faults(pod)
    faults += _port_faults(pod, ports)
    faults += _trust_faults(intent, cidrs, said)
    faults += _resource_faults(intent, settings)
    faults += _redirect_faults(intent, ports)
    if faults:
        return Refuse(tuple(faults), warnings)
    plan = _plan(intent, ports.intercepted, ports.http, cidrs, aliases(pod, intent, ports.intercepted))
    return Inject(plan, intent, (*warnings, *surprises(pod, intent, ports, plan)))


def declined(pod: Pod) -> Reason | None:
    """Why a Pod is none of our business, or None if it asks for us. Takes a Pod of any shape, however wrong."""
    annotations, labels = (pods.lookup(pod, "metadata", field) for field in ("annotations", "labels"))
    if "false" in (pods.lookup(annotations, INJECT), pods.lookup(labels, INJECT)):
        return Reason.OPTED_OUT
    return None if pods.lookup(annotations, MODE) is not None else Reason.NOT_REQUESTED


def _pod_faults(pod: Pod) -> Iterable[Fault]:
    spec = pods.spec(pod)
    if spec.get("hostNetwork"):
        yield Fault(Reason.HOST_NETWORK, "spec.hostNetwork: true is not possible with srcip; remove one of the two")
    system = (spec.get("os") or {}).get("name") or (spec.get("nodeSelector") or {}).get("kubernetes.io/os")
    if system == "windows":
        yield Fault(Reason.WINDOWS, "the Pod is for Windows; srcip works on Linux only")
    if not pods.named(pod, "containers"):
        yield Fault(Reason.NO_CONTAINERS, "spec.containers: none; a Pod needs at least one")
    yield from _name_faults(pod)
    yield from _uid_faults(pod)


def _name_faults(pod: Pod) -> Iterable[Fault]:
    taken = {"containers": (INIT, PROXY), "initContainers": (INIT, PROXY), "volumes": (VOLUME,)}
    for field, names in taken.items():
        for item in pods.named(pod, field):
            if item.get("name") in names:
                text = (
                    f"spec.{field}: {item['name']} has a name of srcip's but was not added by it; rename or remove it"
                )
                yield Fault(Reason.NAME_CLASH, text)


def _uid_faults(pod: Pod) -> Iterable[Fault]:
    everywhere = (pods.spec(pod).get("securityContext") or {}).get("runAsUser")
    for container in (*pods.named(pod, "initContainers"), *pods.named(pod, "containers")):
        own = (container.get("securityContext") or {}).get("runAsUser")
        if (everywhere if own is None else own) == UID:
            where = "the Pod's securityContext" if own is None else "its securityContext"
            text = (
                f"container {shown(container.get('name'))} runs as user {UID} (runAsUser in {where}), which is srcip's"
            )
            yield Fault(Reason.UID_CLASH, f"{text}; choose another")


def _port_faults(pod: Pod, ports: Ports) -> Iterable[Fault]:
    yield from (Fault(Reason.UNDECLARED_PORT, text) for text in ports.undeclared)
    yield from (Fault(Reason.PORT_CLASH, text) for text in ports.clashes)
    if pods.named(pod, "containers") and not ports.intercepted and not ports.undeclared:
        text = "no TCP port to intercept: declare containerPorts, or look at inbound-ports and exclude-inbound-ports"
        yield Fault(Reason.NO_PORTS, text)


def _trust_faults(intent: Intent, cidrs: tuple[str, ...], said: dict[str, str]) -> Iterable[Fault]:
    key = PREFIX + "trusted-cidrs"
    if not cidrs and key not in said:
        text = (
            f"{key}: missing, and the webhook's settings name no load balancers. Name yours, e.g. {key}: 192.0.2.0/24"
        )
        yield Fault(Reason.NO_TRUSTED_CIDRS, text)
    for cidr in everyone(cidrs):
        if not intent.trust_any_source:
            text = (
                f'{key}: {cidr} lets anybody state any address; if that is meant, add {PREFIX}trust-any-source: "true"'
            )
            yield Fault(Reason.TRUSTS_EVERYONE, text)


def _resource_faults(intent: Intent, settings: Settings) -> Iterable[Fault]:
    for what in ("cpu", "memory"):
        request, limit = resource(intent, settings, f"proxy_{what}"), resource(intent, settings, f"proxy_{what}_limit")
        if request and limit and amount(request) > amount(limit):
            text = f"{PREFIX}proxy-{what}: {request} is more than {PREFIX}proxy-{what}-limit: {limit}"
            yield Fault(Reason.RESOURCES, text)


def _redirect_faults(intent: Intent, ports: Ports) -> Iterable[Fault]:
    by_header = intent.client_from == "x-forwarded-for"
    if intent.mode != "redirect":
        if by_header and ports.intercepted and not ports.http and not ports.undeclared:
            text = f"{PREFIX}client-from: x-forwarded-for is for HTTP ports, and there is none: see {PREFIX}http-ports"
            yield Fault(Reason.NO_HEADERS, text)
        return
    if by_header:
        text = f"{PREFIX}client-from: x-forwarded-for is for tproxy mode; here {PREFIX}forwarded-for: trusted does it"
        yield Fault(Reason.INVALID_ANNOTATION, text)
    names = [intent.forwarded_for_header, *(name for _, name in intent.tlv_headers)]
    for text in name_faults(names, FIXED):
        yield Fault(Reason.INVALID_ANNOTATION, f"{PREFIX}forwarded-for-header and tlv-headers: {text}")
    if sum(r.last - r.first + 1 for r in ports.intercepted) > MOST_REDIRECTED:
        text = f"{PREFIX}inbound-ports: redirect mode takes at most {MOST_REDIRECTED} ports"
        yield Fault(Reason.TOO_MANY_PORTS, text)
    if ports.intercepted and not ports.http and intent.emit_proxy_protocol == "off" and not ports.undeclared:
        text = (
            f"{MODE}: redirect tells the client in HTTP headers or in a PROXY header, and no port has either: name "
            f"HTTP ports in {PREFIX}http-ports, or set {PREFIX}emit-proxy-protocol"
        )
        yield Fault(Reason.NO_HEADERS, text)


def resource(intent: Intent, settings: Settings, field: str) -> str | None:
    """A resource of the sidecar: the Pod's word, else the settings'."""
    said: str | None = getattr(intent, field)
    value: str | None = getattr(settings, field)
    return said if said is not None else value


_SAME = (
    "proxy_protocol",
    "node_proxy_protocol",
    "proxy_protocol_versions",
    "header_timeout_ms",
    "max_header_bytes",
    "deliver_to",
    "client_address",
    "max_connections",
    "max_connections_per_client",
    "drain_timeout_s",
    "threads",
    "client_from",
    "forwarded_for_header",
)
"""Fields that Intent and Plan share."""


@lru_cache(maxsize=512)
def _plan(
    intent: Intent,
    ports: tuple[PortRange, ...],
    http: tuple[PortRange, ...],
    cidrs: tuple[str, ...],
    probe_aliases: tuple[ProbeAlias, ...],
) -> Plan:
    redirect = intent.mode == "redirect"
    return Plan(
        inbound_ports=merge(ports),
        trusted_cidrs=cidrs,
        probe_aliases=probe_aliases,
        mode=intent.mode or "tproxy",
        http_ports=http if redirect or intent.client_from == "x-forwarded-for" else (),
        **{field: getattr(intent, field) for field in (*_SAME, *(OF_REDIRECT if redirect else ()))},
    )
