"""Says in plain words what happens to a Pod, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from srcip_proxy.plan import Plan
from srcip_proxy.plan.headers import DEFAULT, FIXED, OUTBOUND
from srcip_webhook.containers import capabilities
from srcip_webhook.intent import BY_AGENT, BY_POD
from srcip_webhook.mutate import Outcome
from srcip_webhook.policy import REASONS, Inject
from srcip_webhook.ports import subtract
from srcip_webhook.values import duration_text

_VERBS = {"inject": "gets the sidecar", "skip": "is not changed", "refuse": "is refused"}
_REQUIRED = {
    "required": "must send a PROXY header",
    "optional": "may send a PROXY header",
    "off": "reach the application without the sidecar",
}
_DELIVERY = {
    "auto": "over a loopback address, or over the Pod's own where the application is bound to it",
    "loopback": "over a loopback address",
    "pod": "over the Pod's own address",
}
_FIDELITY = {
    "best-effort": "as exact as possible: address and port, else the address, else the load balancer's",
    "ip": "the exact address, or the connection is refused",
    "exact": "the exact address and port, or the connection is refused",
}


_CLAIMS = {
    "replace": "addresses in a request's headers are removed",
    "append": "the list in a request is kept, and the client appended",
    "trusted": "the list in a request counts where a trusted network sends it, from the right to the "
    "first untrusted address",
}
_OTHER = {
    "pass": "what is not HTTP on an HTTP port, such as TLS, passes unchanged",
    "refuse": "what is not HTTP on an HTTP port, such as TLS, is refused",
}
_EMITTED = {
    "off": "the application learns no client address",
    "v1": "each connection begins with a PROXY header of version 1",
    "v2": "each connection begins with a PROXY header of version 2",
}


_KERNEL = "Linux 5.17, cgroup v2, sch_ingress, cls_bpf"
_OWN = {"outbound_forwarded_for": "(the Pod's address)", "outbound_client_hostname": "(the Pod's host name)"}
"""What `default` stands for."""


def explained(owner: str, outcome: Outcome, line_of: Callable[[str], int], level: str | None = None) -> str:
    """Some lines about one Pod. `line_of` tells the line of the manifest that a sentence is about, `level` what the Pod
    Security level of its namespace says."""
    said = [f"  level:     {level}"] if level else []
    return "\n".join([f"{owner} {_verb(outcome)} ({outcome.reason})", *_body(outcome, line_of), *said]) + "\n"


def _verb(outcome: Outcome) -> str:
    is_attached = isinstance(outcome.decision, Inject) and not outcome.decision.plan.has_sidecar
    return "gets an init container, and no sidecar" if is_attached else _VERBS[outcome.verb]


def _body(outcome: Outcome, line_of: Callable[[str], int]) -> Iterator[str]:
    if isinstance(outcome.decision, Inject):
        yield from _plan(outcome.decision.plan, outcome.decision.is_by_agent)
    elif outcome.messages:
        for line, message in sorted((line_of(message), message) for message in outcome.messages):
            yield f"  error:     line {line}: {message}"
    else:
        yield f"  why:       {REASONS[outcome.reason]}"
    yield from (f"  warning:   {warning}" for warning in outcome.decision.warnings)


def _plan(plan: Plan, is_by_agent: bool) -> Iterator[str]:
    yield from (
        _inbound(plan) if plan.inbound_ports else ("  ports:     none; incoming connections are not intercepted",)
    )
    yield from _outbound(plan) if plan.outbound_ports else ()
    if not plan.has_sidecar:
        yield from _of_the_agent() if is_by_agent else _of_the_node()
        return
    if plan.may_fall_back:
        yield (
            "  kernel:    where the node supports it, BPF programs do all this without a second "
            "connection, and the sidecar is inactive"
        )
        yield "  which:     see the log of the init container"
        yield "  hostPath:  the node's /sys/fs/cgroup, read-only, and BPF, both for the init container alone"
    later = " and ".join(capabilities(plan)) or "nothing"
    yield f"  needs:     NET_ADMIN at its start, then {later}; Pod Security baseline and restricted refuse it"


def _inbound(plan: Plan) -> Iterator[str]:
    yield f"  ports:     {', '.join(map(str, plan.inbound_ports))}"
    yield f"  trusted:   {', '.join(plan.trusted_cidrs)}; they {_REQUIRED[plan.proxy_protocol]}"
    yield f"  node:      its own address, where trusted: connections {_REQUIRED[plan.node_proxy_protocol]}"
    yield "  others:    are not intercepted and reach the application at full speed"
    versions = " and ".join(map(str, plan.proxy_protocol_versions))
    yield (
        f"  header:    version {versions}, within {duration_text(plan.header_timeout_ms)}, "
        f"at most {plan.max_header_bytes} bytes"
    )
    if not plan.has_sidecar:
        yield from _in_kernel(plan)
        return
    yield f"  delivery:  {_DELIVERY[plan.deliver_to]}"
    yield from _client_delivery(plan) if plan.redirects else (f"  client:    {_FIDELITY[plan.client_address]}",)
    if plan.spoofs_source and plan.http_ports:
        ports = ", ".join(map(str, plan.http_ports))
        yield f"  HTTP:      ports {ports}: the client is what trusted networks send in {plan.forwarded_for_header}"
    limit = plan.max_connections_per_client
    yield f"  limits:    {plan.max_connections} connections{f', {limit} of one client' if limit else ''}"
    if plan.probe_aliases:
        yield f"  probes:    {', '.join(f'of port {item.port} at {item.alias}' for item in plan.probe_aliases)}"


def _in_kernel(plan: Plan) -> Iterator[str]:
    """What differs where programs in the kernel do it all."""
    without = (
        "the connection is refused"
        if plan.client_address != "best-effort"
        else "the application sees the load balancer's"
    )
    yield "  client:    address and port, by accept() and getpeername(); ss and NetworkPolicy see the load balancer"
    yield f"  family:    where an IPv4 socket can't represent an IPv6 client, {without}"
    yield f"  limits:    {plan.max_connections} connections with a header; more are refused"
    yield "  probes:    stay as they are; one that only connects is answered by the kernel"
    yield "  down:      no process of srcip runs in the Pod, so none can be down"


def _of_the_node() -> Iterator[str]:
    yield f"  privilege: {BY_POD}: the init container attaches the programs"
    yield "  needs:     BPF and NET_ADMIN at its start, then nothing; Pod Security baseline and restricted refuse it"
    yield "  hostPath:  the node's /sys/fs/cgroup, read-only, for the init container alone; the same levels refuse it"
    yield f"  node:      {_KERNEL}; else the init container fails and names what is missing"


def _of_the_agent() -> Iterator[str]:
    yield f"  privilege: {BY_AGENT}: the agent on the node attaches the programs; the init container waits for them"
    yield "  needs:     nothing; Pod Security restricted allows what srcip adds"
    yield f"  node:      an agent, {_KERNEL}; else the init container waits, and no application starts"


def _outbound(plan: Plan) -> Iterator[str]:
    """What the Pod's own requests get."""
    yield (
        f"  outbound:  HTTP requests to ports {', '.join(map(str, plan.outbound_ports))} of other "
        f"hosts get these headers"
    )
    said = [(name, _OWN[field], getattr(plan, field)) for field, name in OUTBOUND.items()]
    own = [(name, default if value == DEFAULT else value) for name, default, value in said]
    written = (*plan.outbound_headers, *own)
    yield from (f"  header:    {name}: {value}" for name, value in written if value)
    yield "  TLS:       and other protocols pass unchanged, without headers"
    yield "  down:      while the sidecar is down, connections to these ports are refused, not sent without headers"


def _client_delivery(plan: Plan) -> Iterator[str]:
    """How the application learns its client in redirect mode."""
    if plan.http_ports:
        names = {**FIXED, "forwarded-for": plan.forwarded_for_header}
        written = [names[header] for header in plan.http_headers] + [name for _, name in plan.tlv_headers]
        yield f"  HTTP:      ports {', '.join(map(str, plan.http_ports))}: {', '.join(written) or 'no header'}"
        yield f"  claims:    {_CLAIMS[plan.forwarded_for]}"
        yield f"  TLS:       {_OTHER[plan.http_other]}; no header can be added to TLS"
    others = subtract(plan.inbound_ports, plan.http_ports)
    if others:
        yield f"  other:     ports {', '.join(map(str, others))}: {_EMITTED[plan.emit_proxy_protocol]}"
