"""What works, but is probably not what the owner expects; the API server shows it to whoever creates the Pod."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from srcip_proxy.plan import OUTBOUND_WAIT_MS, TOA, Plan
from srcip_webhook import pods
from srcip_webhook.annotation_table import PREFIX, TABLE, Intent, Scope
from srcip_webhook.annotations import INJECTED, MODE, row_of
from srcip_webhook.pods import Pod
from srcip_webhook.ports import Ports, covers, subtract
from srcip_webhook.values import everyone


def warnings_about(pod: Pod, intent: Intent, ports: Ports, plan: Plan) -> Iterator[str]:
    """Each warning in one short line (the API server cuts long ones)."""
    yield from _inbound_warnings(intent, ports, plan) if plan.inbound_ports else _idle_inbound(intent)
    yield from _outbound_warnings(plan)
    if pods.spec(pod).get("shareProcessNamespace") and plan.has_sidecar:
        yield (
            "srcip: with shareProcessNamespace other containers see the sidecar's processes, and as root can kill them"
        )
    if _guaranteed(pod) and not pods.has_resources(pod) and not (intent.proxy_cpu_limit and intent.proxy_memory_limit):
        yield f"srcip: the QoS class is no longer Guaranteed; set {PREFIX}proxy-cpu-limit and -memory-limit to keep it"


def without_mode(pod: Pod) -> Iterator[str]:
    """About a Pod that says something of srcip's, and does not ask for it."""
    said = [key for key in pods.annotations_of(pod) if row_of(key)]
    said += [f"label {key}" for key in pods.labels_of(pod) if key.startswith(PREFIX) and key != INJECTED]
    if said:
        modes = "tproxy, redirect or ebpf"
        yield (
            f"srcip: nothing is injected; set the annotation {MODE} ({modes}), without which these "
            f"have no effect: {', '.join(said[:5])}"
        )


def _inbound_warnings(intent: Intent, ports: Ports, plan: Plan) -> Iterator[str]:
    yield from ports.idle
    other = [f"{port.number}/{port.protocol}" for port in ports.declared if port.protocol != "TCP"]
    if other:
        yield f"srcip: not intercepted, as the protocol is not TCP: {', '.join(other[:8])}"
    if ports.of_meshes:
        left = ", ".join(f"{port.number} of {port.container}" for port in ports.of_meshes[:8])
        yield f"srcip: not intercepted, as a mesh's sidecar owns it: {left}; to intercept it, set {PREFIX}inbound-ports"
    hosted = [
        str(p.host_port)
        for p in ports.declared
        if p.host_port and p.protocol == "TCP" and covers(plan.inbound_ports, p.number)
    ]
    if hosted:
        yield f"srcip: connections by hostPort {', '.join(hosted[:8])} are intercepted only from trusted sources"
    if cidrs := everyone(plan.trusted_cidrs):
        yield f"srcip: {' and '.join(cidrs)} is trusted: any source that reaches the Pod can claim any client address"
    yield from _policy_warnings(intent)
    yield from _redirect_warnings(plan) if plan.redirects else _idle_annotations(intent)


def _policy_warnings(intent: Intent) -> Iterator[str]:
    if intent.proxy_protocol == "off":
        yield f"srcip: {PREFIX}proxy-protocol: off: connections of trusted sources are not intercepted"
    elif intent.node_proxy_protocol == "required" and not intent.has_sidecar:
        yield "srcip: HTTP and gRPC probes send no header: they fail where the node's own address is trusted"
    elif intent.node_proxy_protocol == "required" and not intent.rewrite_probes:
        yield "srcip: kubelet's probes send no header: they fail where the node's own address is trusted"


def _redirect_warnings(plan: Plan) -> Iterator[str]:
    silent = [str(r) for r in subtract(plan.inbound_ports, plan.http_ports)]
    if silent and plan.emit_proxy_protocol == "off":
        yield (
            f"srcip: on port {', '.join(silent[:8])} the application sees the sidecar's address and no "
            f"client: add it to "
            f"{PREFIX}http-ports, or set {PREFIX}emit-proxy-protocol"
        )
    if plan.forwarded_for == "append" and plan.http_ports:
        yield f"srcip: {PREFIX}forwarded-for: append keeps addresses that clients claim; trust the last one only"


_SERVER_FIRST = (21, 22, 25, 110, 143, 587, 3306)
"""Ports of protocols in which the server speaks first: FTP, SSH, SMTP, POP3, IMAP, MySQL."""


def _outbound_warnings(plan: Plan) -> Iterator[str]:
    if covers(plan.outbound_ports, 443):
        yield "srcip: outbound port 443 usually carries TLS, which passes unchanged: no header can be added to it"
    if slow := [str(port) for port in _SERVER_FIRST if covers(plan.outbound_ports, port)]:
        later = f"connections start {OUTBOUND_WAIT_MS} ms late"
        yield f"srcip: on outbound port {', '.join(slow)} the server usually speaks first: {later}"


def _idle_inbound(intent: Intent) -> Iterator[str]:
    if idle := _changed(intent, Scope.INBOUND):
        yield f"srcip: without effect, as no inbound port is intercepted: {', '.join(idle)}"


def _idle_annotations(intent: Intent) -> Iterator[str]:
    by_header = intent.client_from == "x-forwarded-for"
    absent = {
        Scope.SIDECAR: not intent.has_sidecar,
        Scope.REDIRECT if by_header else Scope.REDIRECT | Scope.HTTP: True,
        Scope.HEADER: intent.client_from == TOA,
    }
    idle = [key for scope, is_absent in absent.items() if is_absent for key in _changed(intent, scope)]
    if idle:
        yield f"srcip: without effect in {intent.written_mode} mode: {', '.join(idle)}"


def _changed(intent: Intent, scope: Scope) -> list[str]:
    """The annotations of this scope that ask for something else than the default."""
    return [row.key for row in TABLE if row.scope & scope and getattr(intent, row.field) != row.default]


def _guaranteed(pod: Pod) -> bool:
    """Whether every container has limits for CPU and memory, and no request below them."""
    containers = (*pods.named(pod, "initContainers"), *pods.named(pod, "containers"))
    return all(_bounded(container.get("resources") or {}) for container in containers)


def _bounded(resources: dict[str, Any]) -> bool:
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    return all(limits.get(name) and requests.get(name, limits[name]) == limits[name] for name in ("cpu", "memory"))
