"""The Plan survives the way through the environment, and nothing unknown is ignored."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srcip_proxy.plan import (
    FALLBACK,
    KINDS,
    LONGEST_IN_KERNEL,
    MOST_REDIRECTED,
    RESERVED_PORTS,
    Plan,
    PlanError,
    PortRange,
    ProbeAlias,
    merge,
    port_range,
)
from srcip_proxy.plan.codec import Choice, Number
from srcip_proxy.plan.headers import HEADERS, TLVS

ports = st.integers(1, 65535)
ranges = st.tuples(ports, ports).map(lambda pair: PortRange(min(pair), max(pair)))
free_ranges = ranges.filter(lambda r: not any(port in r for port in RESERVED_PORTS))
networks = st.one_of(st.ip_addresses(v=4).map(lambda a: f"{a}/32"), st.ip_addresses(v=6).map(lambda a: f"{a}/128"))
port_lists = st.lists(free_ranges, min_size=1, max_size=5).map(merge)
few_ports = st.lists(ports.filter(lambda port: port not in RESERVED_PORTS), max_size=5)
values = st.lists(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1), max_size=4).map(" ".join)
inbound = port_lists.flatmap(
    lambda every: st.tuples(st.just(every), st.lists(st.sampled_from(every), unique=True).map(merge))
)
other_plans = st.builds(
    Plan,
    inbound_ports=st.just((PortRange(25, 25),)),
    http_headers=st.sets(st.sampled_from(HEADERS)).map(lambda chosen: tuple(n for n in HEADERS if n in chosen)),
    forwarded_for_header=st.sampled_from(["X-Forwarded-For", "X-Client", "a"]),
    tlv_headers=st.dictionaries(st.sampled_from(["X-One", "Two_2"]), st.sampled_from(TLVS)).map(
        lambda d: tuple((tlv, name) for name, tlv in d.items())
    ),
    outbound_ports=few_ports.map(lambda some: merge(PortRange(port, port) for port in some)),
    outbound_headers=values.map(lambda value: (("X-Pod", value), ("X-Odd", "$(POD_IP) \\ '\""))),
    outbound_forwarded_for=values,
    outbound_client_hostname=values,
    trusted_cidrs=st.lists(networks, min_size=1, max_size=5).map(tuple),
    proxy_protocol_versions=st.sampled_from([(1,), (2,), (1, 2)]),
    probe_aliases=st.dictionaries(ports, ports, max_size=3).map(
        lambda d: tuple(ProbeAlias(alias, port) for alias, port in sorted(d.items()))
    ),
    **{name: st.integers(kind.low, kind.high) for name, kind in KINDS.items() if isinstance(kind, Number)},
    **{
        name: st.sampled_from(kind.words)
        for name, kind in KINDS.items()
        if isinstance(kind, Choice) and name not in ("mode", "fallback", "client_from")
    },
    mode=st.sampled_from(["tproxy", "redirect"]),
    client_from=st.sampled_from(["proxy-protocol", "x-forwarded-for"]),
)


def together(pair: tuple[Plan, tuple[tuple[PortRange, ...], tuple[PortRange, ...]]]) -> Plan:
    other, (every, http) = pair
    few = sum(r.last - r.first + 1 for r in every) <= MOST_REDIRECTED
    return replace(other, inbound_ports=every, http_ports=http, mode=other.mode if few else "tproxy")


def in_kernel(plan: Plan) -> Plan:
    """The same in ebpf mode, which has less."""
    short = min(plan.max_header_bytes, LONGEST_IN_KERNEL)
    return replace(plan, mode="ebpf", outbound_ports=(), probe_aliases=(), max_header_bytes=short)


with_sidecar = st.tuples(other_plans, inbound).map(together)
in_either = with_sidecar.map(in_kernel).map(lambda plan: replace(plan, fallback="tproxy"))
plans = st.one_of(with_sidecar, with_sidecar.map(in_kernel), in_either)
SAMPLE = Plan((PortRange(25, 25),), ("192.0.2.0/24",))


@given(plans)
def test_every_plan_survives_the_environment(plan: Plan) -> None:
    assert Plan.from_env(plan.to_env()) == plan
    assert "$" not in plan.to_env(), "Kubernetes would expand it"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 1}, "version 1 is not supported"),
        ({"colour": "red"}, "unknown field 'colour'"),
        ({"inbound_ports": ["80-79"]}, "inbound_ports"),
        ({"inbound_ports": ["0"]}, "inbound_ports"),
        ({"inbound_ports": ["15301"]}, "sidecar's own port"),
        ({"inbound_ports": ["٨٠"]}, "not a port"),
        ({"inbound_ports": "80"}, "not a list"),
        ({"inbound_ports": []}, "inbound_ports: none"),
        ({"trusted_cidrs": ["10.0.0.1/8"]}, "trusted_cidrs"),
        ({"trusted_cidrs": ["10.0.0.0/8 } accept"]}, "trusted_cidrs"),
        ({"trusted_cidrs": []}, "trusted_cidrs: none"),
        ({"threads": True}, "not an integer"),
        ({"header_timeout_ms": 0}, "header_timeout_ms: 0 is not between"),
        ({"proxy_protocol": "maybe"}, "not one of required"),
        ({"probe_aliases": {"1": 70000}}, "probe_aliases"),
        ({"probe_aliases": {"x": 1}}, "probe_aliases"),
        ({"mode": "ebbf"}, "mode: 'ebbf' is not one of"),
        ({"mode": "ebpf,"}, "mode: 'ebpf,' is not one of"),
        ({"fallback": "tproxy"}, "unknown field 'fallback'"),
        ({"is_idle": True}, "unknown field 'is_idle'"),
        ({"mode": "ebpf", "outbound_ports": ["80"]}, "outbound_ports: not available in ebpf mode"),
        (
            {"mode": "ebpf", "max_header_bytes": 4097},
            "max_header_bytes: 4097 is more than the limit of ebpf mode, 4096",
        ),
        ({"mode": "ebpf", "probe_aliases": {"15100": 25}}, "probe_aliases: not available in ebpf mode"),
        ({"client_from": "toa"}, "client_from: toa needs ebpf mode, not tproxy"),
        ({"mode": "redirect", "client_from": "toa"}, "client_from: toa needs ebpf mode, not redirect"),
        ({"mode": FALLBACK, "client_from": "toa"}, "client_from: toa needs ebpf mode, not ebpf,tproxy"),
        ({"http_ports": ["26"]}, "http_ports: must be part of inbound_ports"),
        ({"http_headers": ["forwarded", "real-ip"]}, "in this order"),
        ({"http_headers": ["via"]}, "http_headers"),
        ({"forwarded_for_header": "X-A\r\nX-B"}, "not a header's name"),
        ({"forwarded_for_header": "%[src]"}, "not a header's name"),
        ({"forwarded_for_header": "Host"}, "can not be set"),
        ({"forwarded_for_header": "X_Real-IP"}, "given twice"),
        ({"tlv_headers": [["cookie", "X-A"]]}, "tlv_headers: 'cookie'"),
        ({"tlv_headers": [["alpn", "x-forwarded-for"]]}, "given twice"),
        ({"tlv_headers": [["alpn"]]}, "not a list of pairs"),
        ({"outbound_headers": [["X-A", "a\r\nb"]]}, "not a header's value"),
        ({"outbound_headers": [["X-A", " a"]]}, "not a header's value"),
        ({"outbound_headers": [["X-A", "ü"]]}, "not a header's value"),
        ({"outbound_headers": [["X-A", "a" * 1025]]}, "not a header's value"),
        ({"outbound_headers": [["Content-Length", "0"]]}, "can not be set"),
        ({"outbound_forwarded_for": "a\nb"}, "outbound_forwarded_for"),
        ({"outbound_client_hostname": "\u0000"}, "outbound_client_hostname"),
        ({"outbound_headers": [["X-A", "a  b"]]}, "not a header's value"),
        ({"outbound_headers": [["X-A", "a\tb"]]}, "not a header's value"),
        ({"outbound_headers": [["x_forwarded-for", "a"]], "outbound_forwarded_for": "default"}, "given twice"),
        ({"outbound_ports": ["15301"]}, "sidecar's own port"),
        ({"inbound_ports": ["15306"]}, "sidecar's own port"),
        ({"outbound_ports": ["1-4097"]}, "outbound_ports: more than 4096 ports"),
    ],
)
def test_what_is_not_understood_is_refused(change: dict[str, object], message: str) -> None:
    text = json.dumps({**json.loads(SAMPLE.to_env()), **change})
    with pytest.raises(PlanError, match=message):
        Plan.from_env(text)


def test_a_fallback_may_have_nothing_left_for_the_sidecar() -> None:
    """Where programs in the kernel have all that comes in, it is told of no port, and is there for probes' aliases."""
    either = replace(SAMPLE, mode="ebpf", fallback="tproxy", probe_aliases=(ProbeAlias(15100, 25),))
    assert json.loads(either.to_env())["mode"] == FALLBACK
    assert Plan.from_env(either.to_env()) == either
    idle = either.for_sidecar(attached=True)
    assert (idle.inbound_ports, idle.probe_aliases, idle.mode) == ((), either.probe_aliases, "tproxy")
    assert either.for_sidecar(attached=False) == replace(either, mode="tproxy", fallback="")
    with pytest.raises(PlanError, match="inbound_ports: none"):
        replace(SAMPLE, inbound_ports=())
    with pytest.raises(PlanError, match="limit of ebpf mode, 4096"):
        replace(SAMPLE, mode="ebpf", fallback="tproxy", max_header_bytes=4097)


@given(st.text())
def test_any_text_is_a_plan_or_a_plan_error(text: str) -> None:
    with pytest.raises(PlanError):
        Plan.from_env(text)


@given(st.lists(ranges, max_size=8))
def test_merge_keeps_the_ports_and_leaves_no_overlap(items: list[PortRange]) -> None:
    merged = merge(items)
    assert all(a.last + 1 < b.first for a, b in pairwise(merged))
    assert sum(r.last - r.first + 1 for r in merged) == len({p for r in items for p in range(r.first, r.last + 1)})


@pytest.mark.parametrize("text", ["", "-", "80-", "-80", "+80", "8_0", "0x50", "80-79", "0", "65536", "80 "])
def test_a_bad_port_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="port"):
        port_range(text)
