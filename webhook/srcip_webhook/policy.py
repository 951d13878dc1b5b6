"""Decides about one Pod: Inject, Skip or Refuse, each with a stable word for its reason.

Pure: the Pod and the settings come in, a decision goes out. Opt-outs are looked at before everything else, so that
they win over whatever is wrong elsewhere; a refusal holds every fault at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from srcip_proxy.plan import UID, Plan, PortRange, ProbeAlias, merge
from srcip_webhook import meshes, names, pods
from srcip_webhook.annotation_table import TABLE, Scope
from srcip_webhook.annotations import INJECT, MODE, PREFIX, Intent, read
from srcip_webhook.ebpf_faults import ebpf_faults, toa_faults
from srcip_webhook.header_faults import FOR_OUTBOUND_ALONE, outbound_faults, redirect_faults, stated_outbound
from srcip_webhook.pod_warnings import warnings_about, without_mode
from srcip_webhook.pods import Pod, printable
from srcip_webhook.ports import Ports, resolve
from srcip_webhook.privilege import is_by_agent, label_faults, privilege_faults
from srcip_webhook.probes import FIRST_ALIAS, NoAliasError, aliases
from srcip_webhook.quantities import amount
from srcip_webhook.reasons import REASONS, Fault, Reason, about
from srcip_webhook.settings import Settings
from srcip_webhook.values import everyone
from srcip_webhook.windows import windows_by

__all__ = ["REASONS", "Decision", "Fault", "Inject", "Reason", "Refuse", "Skip", "decide", "skip_reason"]

MIRROR = "kubernetes.io/config.mirror"
"""The annotation of mirror Pods (well-known labels and annotations of Kubernetes)."""


@dataclass(frozen=True)
class Inject:
    """The Pod gets this Plan."""

    plan: Plan
    intent: Intent
    shares_resources: bool = False
    """The Pod as a whole has resources (KEP-2837): what srcip's containers request would come out of these."""
    warnings: tuple[str, ...] = ()
    is_by_agent: bool = False
    """The agent on the Pod's node does what needs privilege."""


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
    reading = read(pods.annotations_of(pod))
    intent, warnings = reading.intent, reading.warnings
    if reason := skip_reason(pod):
        told = (*warnings, *without_mode(pod), *(f"srcip: {text}" for text in reading.faults))
        return Skip(reason, told if reason == Reason.NOT_REQUESTED else ())
    ports = resolve(pod, intent)
    outbound = bool(stated_outbound(intent))
    if intent.without_ports == "skip" and not reading.faults and _serves_nothing(pod, ports, outbound):
        return Skip(Reason.WITHOUT_PORTS, warnings)
    # a Pod with outbound-ports alone intercepts nothing, and so needs nobody to trust
    needs_trust = bool(ports.intercepted or ports.undeclared or not outbound)
    trusted = intent.trusted_cidrs if intent.trusted_cidrs is not None else settings.trusted_cidrs
    cidrs = trusted if needs_trust else None
    faults = list(reading.faults)
    faults += _pod_faults(pod, intent)
    faults += _port_faults(pod, ports, outbound)
    faults += _trust_faults(intent, cidrs) if cidrs is not None else ()
    faults += _resource_faults(intent, settings)
    faults += ebpf_faults(intent) if intent.attaches_programs else redirect_faults(intent, ports)
    faults += toa_faults(intent)
    faults += outbound_faults(intent) if outbound and intent.has_sidecar else ()
    faults += privilege_faults(intent, settings)
    try:
        probe_aliases = aliases(pod, intent, ports.intercepted)
    except NoAliasError as error:
        faults.append(_no_alias(error))
    if faults:
        return Refuse(tuple(faults), warnings)
    plan = _plan(intent, ports.intercepted, ports.http, cidrs or (), probe_aliases)
    if mesh := meshes.of(pod, intent.mesh_proxy_uids):
        plan = replace(plan, mesh=True, mesh_proxy_uids=mesh.users)
    told = (*warnings, *warnings_about(pod, intent, ports, plan))
    return Inject(plan, intent, pods.has_resources(pod), told, is_by_agent(intent, settings))


def _no_alias(error: NoAliasError) -> Fault:
    text = (
        f"{error.wanted} probed ports need alias ports, and {error.free} of the ports from {FIRST_ALIAS} on are free: "
        f'exclude {error.wanted} of them with {PREFIX}exclude-inbound-ports, or set {PREFIX}rewrite-probes: "false"'
    )
    return Fault(Reason.PORT_CLASH, text)


def skip_reason(pod: Pod) -> Reason | None:
    """Why a Pod is none of our business, or None if it asks for us. Takes a Pod of any shape, however wrong."""
    annotations, labels = (pods.lookup(pod, "metadata", field) for field in ("annotations", "labels"))
    if "false" in (pods.lookup(annotations, INJECT), pods.lookup(labels, INJECT)):
        return Reason.OPTED_OUT
    if pods.lookup(annotations, MIRROR) is not None:
        return Reason.MIRROR_POD
    return None if pods.lookup(annotations, MODE) is not None else Reason.NOT_REQUESTED


def _pod_faults(pod: Pod, intent: Intent) -> Iterable[Fault]:
    spec = pods.spec(pod)
    if spec.get("hostNetwork"):
        yield Fault(Reason.HOST_NETWORK, "spec.hostNetwork: true is not possible with srcip; remove one of the two")
    if reason := windows_by(pod):
        text = f"{reason}: the Pod is for Windows nodes, and srcip works on Linux only; remove {MODE} from it"
        yield Fault(Reason.WINDOWS, text)
    if spec.get("hostUsers") is False and not intent.has_sidecar:
        text = (
            "spec.hostUsers: false: the kernel loads no programs for a user namespace, whatever its capabilities; "
            f"use {MODE}: tproxy, or remove hostUsers"
        )
        yield Fault(Reason.INVALID_POD, text)
    label = pods.labels_of(pod).get(INJECT)
    if label not in (None, "true", "false"):
        text = f"label {INJECT}: {printable(label)} is not allowed. Allowed: true, false"
        yield Fault(Reason.INVALID_ANNOTATION, text)
    if not pods.named(pod, "containers"):
        yield Fault(Reason.NO_CONTAINERS, "spec.containers: none; a Pod needs at least one")
    yield from (*_name_faults(pod), *label_faults(pod))
    yield from _uid_faults(pod, intent) if intent.has_sidecar else ()


def _name_faults(pod: Pod) -> Iterable[Fault]:
    taken = {"containers": names.CONTAINERS, **names.OF_FIELD}
    for field, reserved in taken.items():
        for item in pods.named(pod, field):
            if item.get("name") in reserved:
                text = f"spec.{field}: {item['name']} has a name that is reserved for srcip; rename or remove it"
                yield Fault(Reason.NAME_CLASH, text)


def _uid_faults(pod: Pod, intent: Intent) -> Iterable[Fault]:
    mesh = meshes.of(pod, intent.mesh_proxy_uids)
    everywhere = meshes.own_user(pods.spec(pod))
    for container in (*pods.named(pod, "initContainers"), *pods.named(pod, "containers")):
        own, name = meshes.own_user(container), container.get("name")
        user = everywhere if own is None else own
        where = "the Pod's securityContext" if own is None else "its securityContext"
        text = f"container {printable(name)} runs as user {user} (runAsUser in {where}), reserved for"
        if user == UID:
            yield Fault(Reason.UID_CLASH, f"{text} srcip; choose another")
        elif user in mesh.users and name not in mesh.containers and intent.outbound_ports:
            yield Fault(Reason.UID_CLASH, f"{text} a mesh: it would send without headers; choose another")


def _port_faults(pod: Pod, ports: Ports, outbound: bool) -> Iterable[Fault]:
    yield from (*ports.undeclared, *ports.clashes)
    if _serves_nothing(pod, ports, outbound):
        text = (
            "no TCP port to intercept: declare containerPorts, or correct inbound-ports and exclude-inbound-ports; "
            f"for a Pod that serves nothing, such as a helper Job, set {PREFIX}without-ports: skip"
        )
        yield Fault(Reason.NO_PORTS, text)


def _serves_nothing(pod: Pod, ports: Ports, outbound: bool) -> bool:
    """Whether there is nothing to do for a Pod: no port to intercept, none meant, and no headers to set."""
    asked = ports.intercepted or ports.undeclared or ports.clashes or outbound
    return bool(pods.named(pod, "containers")) and not asked


def _trust_faults(intent: Intent, cidrs: tuple[str, ...]) -> Iterable[Fault]:
    key = PREFIX + "trusted-cidrs"
    if not cidrs and "trusted_cidrs" not in intent.stated:
        text = (
            f"missing, and the webhook's settings name no load balancers. Set yours, e.g. {key}: 192.0.2.0/24"
            f"{FOR_OUTBOUND_ALONE if stated_outbound(intent) else ''}"
        )
        yield about(key, Reason.NO_TRUSTED_CIDRS, text)
    for cidr in everyone(cidrs):
        if not intent.trust_any_source:
            text = f'{cidr} lets any source claim any client address; to allow it, set {PREFIX}trust-any-source: "true"'
            yield about(key, Reason.TRUSTS_EVERYONE, text)


def _resource_faults(intent: Intent, settings: Settings) -> Iterable[Fault]:
    for what in ("cpu", "memory"):
        request, limit = resource(intent, settings, f"proxy_{what}"), resource(intent, settings, f"proxy_{what}_limit")
        if request and limit and amount(request) > amount(limit):
            text = f"{request} is more than {PREFIX}proxy-{what}-limit: {limit}"
            yield about(f"{PREFIX}proxy-{what}", Reason.RESOURCES, text)


def resource(intent: Intent, settings: Settings, field: str) -> str | None:
    """A resource of the sidecar: the Pod's word, else the settings'."""
    said: str | None = getattr(intent, field)
    value: str | None = getattr(settings, field)
    return said if said is not None else value


_PLANNED = tuple(row for row in TABLE if row.is_planned)


def _plan(
    intent: Intent,
    ports: tuple[PortRange, ...],
    http: tuple[PortRange, ...],
    cidrs: tuple[str, ...],
    probe_aliases: tuple[ProbeAlias, ...],
) -> Plan:
    """Pods of one owner get the same, so the last ones are remembered, where they are short."""
    short = len(ports) + len(cidrs) + len(probe_aliases) <= MOST_REMEMBERED
    return (_remembered if short else _made)(intent, ports, http, cidrs, probe_aliases)


def _made(
    intent: Intent,
    ports: tuple[PortRange, ...],
    http: tuple[PortRange, ...],
    cidrs: tuple[str, ...],
    probe_aliases: tuple[ProbeAlias, ...],
) -> Plan:
    fields = (row.field for row in _PLANNED if intent.redirects or not row.scope & Scope.REDIRECT)
    return Plan(
        inbound_ports=merge(ports),
        trusted_cidrs=cidrs,
        probe_aliases=probe_aliases,
        fallback=intent.fallback,
        http_ports=http if intent.redirects or intent.client_from == "x-forwarded-for" else (),
        **{field: getattr(intent, field) for field in fields},
    )


MOST_REMEMBERED = 100
"""Ports, networks and aliases of a Plan that is remembered: some KiB."""
_remembered = lru_cache(maxsize=512)(_made)
