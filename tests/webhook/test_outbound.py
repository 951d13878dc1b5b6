"""What a Pod sends: which annotations go together, what reaches the plan, and what the sidecar may do."""

from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from srcip_proxy.plan import Plan, PortRange
from srcip_proxy.plan.headers import FRAMING, name_fault, same
from srcip_proxy.quoting import quoted
from srcip_webhook.cli import main
from srcip_webhook.mutate import consider
from srcip_webhook.policy import Inject, Refuse
from support.reviews import SETTINGS, TRUSTING, pod

ALONE = {"srcip.io/inbound-ports": "none", "srcip.io/trusted-cidrs": None, "srcip.io/outbound-ports": "80"}
LISTED, FORWARDED, HOSTNAME = (
    f"srcip.io/{name}" for name in ("outbound-headers", "set-forwarded-for", "set-client-hostname")
)
names = st.from_regex(r"\A[A-Za-z0-9]([A-Za-z0-9_-]{0,20}[A-Za-z0-9])?\Z").filter(lambda n: not name_fault(n))
values = st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=60).filter(
    lambda text: text == text.strip() and "  " not in text
)
nasty = st.one_of(
    st.text(),
    st.text(alphabet="aZ0:-_ \t\r\n\x00\x0b\x85\u2028'\"%[]{}$\\#"),
    st.lists(st.tuples(names, values), max_size=40).map(lambda pairs: "\n".join(f"{n}:{v}" for n, v in pairs)),
)


def planned(annotations: dict[str, Any], settings: Any = SETTINGS, **spec: Any) -> Plan:
    decision = consider(pod({**ALONE, **annotations}, **spec), settings).decision
    assert isinstance(decision, Inject), decision
    return decision.plan


def sidecar(annotations: dict[str, Any]) -> dict[str, Any]:
    after = consider(pod({**ALONE, **annotations}), SETTINGS).after
    (found,) = (c for c in after["spec"]["initContainers"] if c["name"] == "srcip-proxy")
    return dict(found["securityContext"]["capabilities"])


@given(st.lists(st.tuples(names, values), min_size=1, max_size=8, unique_by=lambda pair: same(pair[0])))
def test_each_header_reaches_the_plan_as_it_was_written(pairs: list[tuple[str, str]]) -> None:
    text = "".join(f"{name}: {value} \n\n" for name, value in pairs)
    assert planned({LISTED: text}).outbound_headers == tuple(pairs)


@given(st.sampled_from([LISTED, FORWARDED, HOSTNAME]), nasty)
def test_any_text_ends_in_headers_that_can_be_written_or_in_a_refusal(key: str, text: str) -> None:
    """What the webhook lets through never ends the init container, and never becomes a second header."""
    outcome = consider(pod({**ALONE, key: text}), SETTINGS)
    if isinstance(outcome.decision, Refuse):
        assert any(key in message for message in outcome.messages)
        return
    assert isinstance(outcome.decision, Inject)
    plan = outcome.decision.plan
    assert Plan.from_env(plan.to_env()) == plan
    said = [value for _, value in plan.outbound_headers] + [plan.outbound_forwarded_for, plan.outbound_client_hostname]
    written = [value for value in said if value]
    assert written
    assert all(quoted(value) and not set(value) & set("\r\n\0") for value in written)


@pytest.mark.parametrize("name", sorted(FRAMING))
def test_no_header_that_frames_messages_can_be_set(name: str) -> None:
    for spelling in (name, name.upper(), name.title()):
        outcome = consider(pod({**ALONE, LISTED: f"{spelling}: x"}), SETTINGS)
        assert spelling in "".join(outcome.messages)


@pytest.mark.parametrize(
    ("annotations", "capabilities"),
    [
        ({"srcip.io/mode": "tproxy"}, {"drop": ["ALL"]}),
        ({"srcip.io/mode": "redirect"}, {"drop": ["ALL"]}),
        (
            {"srcip.io/mode": "tproxy", "srcip.io/inbound-ports": None, "srcip.io/trusted-cidrs": "192.0.2.0/24"},
            {"drop": ["ALL"], "add": ["NET_RAW"]},
        ),
    ],
)
def test_only_inbound_ports_in_tproxy_mode_need_a_capability(
    annotations: dict[str, Any], capabilities: dict[str, Any]
) -> None:
    assert sidecar({FORWARDED: "default", **annotations}) == capabilities


def test_outbound_alone_trusts_nobody_whatever_the_settings_say() -> None:
    plan = planned({FORWARDED: "default"}, TRUSTING)
    assert (plan.inbound_ports, plan.trusted_cidrs, plan.probe_aliases) == ((), (), ())
    assert plan.outbound_ports == (PortRange(80, 80),)


def test_a_pod_that_declares_no_port_may_send() -> None:
    containers = [{"name": "job", "image": "example.org/job:1"}]
    plan = planned({"srcip.io/inbound-ports": None, FORWARDED: "default"}, containers=containers)
    assert plan.inbound_ports == ()


def test_both_ways_together_keep_what_each_alone_would_be() -> None:
    """Outbound changes nothing about inbound ports, trust and probes."""
    probed = {
        "name": "app",
        "image": "example.org/app:1",
        "ports": [{"containerPort": 8080}],
        "readinessProbe": {"tcpSocket": {"port": 8080}},
    }
    inbound = {"srcip.io/inbound-ports": None, "srcip.io/trusted-cidrs": "192.0.2.0/24"}
    both = planned({**inbound, "srcip.io/outbound-ports": "8080", HOSTNAME: "default"}, containers=[probed])
    alone = planned({**inbound, "srcip.io/outbound-ports": None}, containers=[probed])
    assert (both.inbound_ports, both.trusted_cidrs, both.probe_aliases) == (
        alone.inbound_ports,
        alone.trusted_cidrs,
        alone.probe_aliases,
    )
    assert both.probe_aliases
    assert (both.outbound_ports, both.outbound_client_hostname) == ((PortRange(8080, 8080),), "default")


def test_the_largest_plan_fits_into_one_environment_variable() -> None:
    """The kernel takes 128 KiB; a dollar sign takes six characters there."""
    networks = ",".join(f"2001:db8:{n:x}:ffff:ffff:ffff:ffff:ffff/128" for n in range(1024))
    ports = ",".join(f"{n}-{n + 1}" for n in range(20000, 20768, 3))
    lines = "\n".join(f"X-{n}: {'$' * 1000}" for n in range(4))
    said = {
        "srcip.io/inbound-ports": "8080",
        "srcip.io/trusted-cidrs": networks,
        "srcip.io/outbound-ports": ports,
        LISTED: lines,
        FORWARDED: "$" * 1024,
        HOSTNAME: "$" * 1024,
    }
    assert len(planned(said).to_env()) < 120 * 1024


def explained(annotations: dict[str, Any]) -> str:
    text = yaml.safe_dump(pod({**ALONE, **annotations}))
    result = CliRunner().invoke(main, ["explain", "-f", "-"], input=text, catch_exceptions=False)
    assert result.exit_code == 0, result.stdout
    return result.stdout


def test_explain_tells_what_goes_out_and_what_cannot() -> None:
    text = explained({LISTED: "X-Team: blue", FORWARDED: "default", HOSTNAME: "web.example"})
    for words in (
        "  outbound:  HTTP requests to ports 80 ",
        "X-Team: blue",
        "X-Forwarded-For: (the Pod's address)",
        "X-Client-Hostname: web.example",
        "other protocols pass unchanged, without headers",
        "while the sidecar is down, connections to these ports are refused",
        "then nothing",
    ):
        assert words in text
    assert "trusted:" not in text
    assert "NET_RAW" not in text


def test_explain_says_nothing_of_headers_that_are_not_set() -> None:
    text = explained({HOSTNAME: "default"})
    assert "X-Client-Hostname: (the Pod's host name)" in text
    assert "X-Forwarded-For" not in text


def test_explain_of_a_pod_that_sends_nothing_is_silent_about_it() -> None:
    plain = dict.fromkeys(ALONE) | {"srcip.io/trusted-cidrs": "192.0.2.0/24"}
    assert "outbound" not in explained(plain)
