"""No setting is read and then forgotten: each annotation changes what the Pod gets, and each field of a plan changes
what the data plane is told. A new one is tried by itself, or fails here until it has an example."""

import ipaddress
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import pytest

from srcip_proxy import init
from srcip_proxy.ebpf import maps
from srcip_proxy.plan import KINDS, Options, Plan, PlanError, PortRange, ProbeAlias, codec
from srcip_proxy.pod import Pod
from srcip_webhook import values
from srcip_webhook.annotations import TABLE, Annotation
from srcip_webhook.intent import Intent
from srcip_webhook.mutate import Outcome, consider
from srcip_webhook.policy import Inject
from support.reviews import TRUSTING

TEXTS = {
    "mode": "redirect",
    "inbound-ports": "9000",
    "exclude-inbound-ports": "9000",
    "trusted-cidrs": "198.51.100.0/24",
    "proxy-protocol-versions": "2",
    "http-ports": "9000",
    "http-headers": "real-ip",
    "forwarded-for-header": "X-Client",
    "tlv-headers": "ssl-cn=X-Client-CN",
    "remove-headers": "X-Gone",
    "outbound-ports": "8081",
    "outbound-headers": "X-Team: blue",
    "set-forwarded-for": "192.0.2.1",
    "set-client-hostname": "default",
    "mesh-proxy-uids": "1500",
    "proxy-cpu": "250m",
    "proxy-memory": "128Mi",
    "proxy-cpu-limit": "500m",
    "proxy-memory-limit": "256Mi",
}
"""Values other than the default, where the row's kind does not tell one."""
PORT = {"containerPort": 8080, "name": "http"}
CONTAINER = {"name": "app", "ports": [PORT, {"containerPort": 9000}], "readinessProbe": {"httpGet": {"port": 8080}}}
BESIDE: dict[str, dict[str, str]] = {
    "privilege": {"mode": "ebpf"},
    "trust-any-source": {"trusted-cidrs": "0.0.0.0/0"},
    "outbound-ports": {"set-forwarded-for": "default", "outbound-ports": "80"},
    "outbound-headers": {"outbound-ports": "80", "set-client-hostname": "default"},
    "set-forwarded-for": {"outbound-ports": "80", "set-client-hostname": "default"},
    "set-client-hostname": {"outbound-ports": "80", "set-forwarded-for": "default"},
    "http-ports": {"mode": "redirect"},
    **{row.name: {"mode": "redirect"} for row in TABLE if "REDIRECT" in str(row.scope)},
}
"""What else must be said for an annotation to have an effect."""


def text_of(row: Annotation) -> str:
    """A valid value other than the default."""
    if row.name in TEXTS:
        return TEXTS[row.name]
    if isinstance(row.kind, values.Word):
        return next(word for word in row.kind.words if word != row.default)
    if isinstance(row.kind, values.Flag):
        return str(not row.default).lower()
    if isinstance(row.kind, values.Duration | values.Number):
        other = next(number for number in (row.kind.low, row.kind.high) if number != row.default)
        return values.duration_text(other * row.kind.unit_ms) if isinstance(row.kind, values.Duration) else str(other)
    pytest.fail(f"{row.name}: give a value other than the default in TEXTS")


def outcome(row: Annotation, **said: str) -> Outcome:
    """What becomes of a Pod that says what must be there for this row, and `said`."""
    annotations = {"mode": "tproxy", **BESIDE.get(row.name, {}), **said}
    containers = [CONTAINER] if row.name != "without-ports" else [{"name": "app"}]
    metadata = {"annotations": {f"srcip.io/{name}": text for name, text in annotations.items()}}
    return consider({"metadata": metadata, "spec": {"containers": containers}}, TRUSTING)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_each_annotation_changes_what_the_pod_gets(row: Annotation) -> None:
    """With a valid value other than the default; one that belongs to the plan is there just as it was read."""
    text = text_of(row)
    said, usual = outcome(row, **{row.name: text}), outcome(row)
    assert (said.verb, said.operations()) != (usual.verb, usual.operations()), f"{row.key}: {text} changes nothing"
    if row.is_planned:
        assert isinstance(said.decision, Inject), said.messages
        assert getattr(said.decision.plan, row.field) == row.kind.parse(text) != row.default


def test_the_fallback_is_part_of_the_mode() -> None:
    """One annotation says both, and the plan has a field for each."""
    (row,) = (row for row in TABLE if row.name == "mode")
    decision = outcome(row, mode="ebpf,tproxy").decision
    assert isinstance(decision, Inject)
    assert (decision.plan.mode, decision.plan.fallback) == ("ebpf", "tproxy")


def test_each_option_of_the_plan_has_an_annotation() -> None:
    """Nothing can be in the plan that nobody can ask for, and the webhook's own fields are not the plan's options."""
    options = {item.name for item in fields(Options)}
    assert {row.field for row in TABLE if row.is_planned} == options - {"fallback"}
    assert {item.name for item in fields(Intent)} - {row.field for row in TABLE} == {"stated", "fallback"}


OWN = {
    "fallback": "init goes by it before anything is rendered: tests/lab/test_ebpf.py, tests/cluster/test_ebpf.py",
    "is_idle": "it allows a plan without ports, of which nothing is rendered",
    "version": "it has one value alone; init refuses every other one",
}
"""Fields of the plan that change no text, each with the reason."""
POD = Pod(
    addresses=(ipaddress.ip_address("10.1.2.3"), ipaddress.ip_address("2001:db8:1::3")),
    node=(ipaddress.ip_address("10.1.0.1"),),
    stated=ipaddress.ip_address("10.1.2.3"),
    hostname="shop-0",
)
BOTH = (PortRange(25, 25), PortRange(8080, 8080))
TPROXY = Plan(BOTH, ("10.0.0.0/8",), http_ports=BOTH[1:], outbound_ports=(PortRange(80, 80),))
REDIRECT = replace(TPROXY, mode="redirect", outbound_headers=(("X-Team", "blue"),))
PLANS = (TPROXY, replace(TPROXY, client_from="x-forwarded-for"), REDIRECT, Plan(BOTH, ("10.0.0.0/8",), mode="ebpf"))
VALUES: dict[str, tuple[Any, ...]] = {
    "inbound_ports": (BOTH[1:],),
    "trusted_cidrs": (("10.1.0.0/16",),),
    "probe_aliases": ((ProbeAlias(15100, 8080),),),
    "http_ports": (BOTH[:1],),
    "proxy_protocol_versions": ((2,),),
    "http_headers": (("real-ip",),),
    "forwarded_for_header": ("X-Client",),
    "tlv_headers": ((("ssl-cn", "X-Client-CN"),),),
    "remove_headers": (("X-Gone",),),
    "outbound_ports": ((PortRange(81, 81),),),
    "outbound_headers": ((("X-Team", "red"),),),
    "outbound_forwarded_for": ("default",),
    "outbound_client_hostname": ("default",),
    "mesh_proxy_uids": ((1500,),),
}
"""Other values of fields whose kind does not tell any."""


def others(name: str, usual: object) -> tuple[Any, ...]:
    """Values of a field other than this one."""
    kind = KINDS[name]
    if isinstance(kind, codec.Choice):
        return tuple(word for word in kind.words if word != usual)
    if isinstance(kind, codec.Number):
        return tuple(number for number in (kind.low, kind.high) if number != usual)
    if isinstance(kind, codec.Flag):
        return (not usual,)
    assert name in VALUES, f"{name}: give another value in VALUES"
    return VALUES[name]


def told(plan: Plan) -> object:
    """All that the data plane is told of a plan: texts, or the entries of maps, without the number that tells plans
    apart."""
    if plan.mode == "ebpf":
        return maps.entries(plan, POD, 1, 1), plan.max_connections
    return init.render(plan, POD)


def changed(name: str) -> Iterator[bool]:
    """For each plan and each other value that it can have, whether the data plane is told something else."""
    for plan in PLANS:
        for value in others(name, getattr(plan, name)):
            try:
                yield told(replace(plan, **{name: value})) != told(plan)
            except PlanError:
                continue


@pytest.mark.parametrize("name", KINDS)
def test_each_field_of_a_plan_changes_what_the_data_plane_is_told(name: str) -> None:
    """nftables, routes, HAProxy, or the maps of ebpf mode; what changes none of them is listed with the reason."""
    assert any(changed(name)) == (name not in OWN), f"{name}: no text depends on it, and OWN does not say why"
