"""Outgoing headers before they go anywhere: what a plan may say, what the Pod's own values are, and that neither breaks
out of the generated configuration."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_injection import NASTY, haproxy_says
from test_render import POD, ip

from srcip_proxy import init, pod
from srcip_proxy.haproxy import config
from srcip_proxy.haproxy import outbound as sections
from srcip_proxy.netfilter import ruleset
from srcip_proxy.plan import Plan, PlanError, PortRange
from srcip_proxy.pod import Pod, PodError
from support.outbound_servers import outbound
from support.rig import needs_root

FIELDS = {
    "outbound_headers": lambda text: [["X-A", text]],
    "outbound_forwarded_for": lambda text: text,
    "outbound_client_hostname": lambda text: text,
}
HARMLESS = {text for text in NASTY if text.isprintable() and text.isascii() and text == text.strip()}
BESIDE = """a'; "b" %[src] %% ${HOME} $HOME #c {d} if unless \\"""


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize("field", FIELDS)
def test_a_value_is_one_line_of_text_or_refused(field: str, text: str) -> None:
    """What is taken changes no line but its own, and stands there for itself (test_outbound.py)."""
    raw = {**json.loads(outbound().to_env()), field: FIELDS[field](text)}
    if text not in HARMLESS:
        with pytest.raises(PlanError, match=field):
            Plan.from_env(json.dumps(raw))
        return
    plain = {**raw, field: FIELDS[field]("plain" if text else "")}
    texts = [config.render(Plan.from_env(json.dumps(each)), POD).splitlines() for each in (raw, plain)]
    assert len(texts[0]) == len(texts[1])
    changed = [line for line, other in zip(*texts, strict=True) if line != other]
    assert all(line.startswith("  http-request set-header X-") for line in changed)


@pytest.mark.parametrize("name", [text for text in NASTY if text not in ("if", "global")])
def test_no_name_is_more_than_a_name(name: str) -> None:
    with pytest.raises(PlanError, match="outbound_headers"):
        outbound(outbound_headers=((name, "a"),))


values = st.lists(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1), max_size=4).map(" ".join)


@given(values, values, values)
def test_the_rules_of_the_kernel_do_not_depend_on_headers(one: str, two: str, three: str) -> None:
    wanted = outbound(outbound_headers=(("X-A", one),), outbound_forwarded_for=two, outbound_client_hostname=three)
    assert ruleset.render(wanted, POD) == ruleset.render(outbound(), POD)


@pytest.mark.dataplane
def test_haproxy_takes_any_header_without_a_word() -> None:
    """Names that are words of its language, and values full of its signs."""
    needs_root()
    names = ("if", "global", "X-Forwarded_For-2", "0", "unless", "a", "-".join("abcdefgh" * 4))
    wanted = outbound(outbound_headers=tuple((name, BESIDE) for name in names), outbound_client_hostname="-m reg .*")
    text = config.render(wanted, POD).replace(str(config.LUA), "/usr/lib/python3/dist-packages/srcip_proxy/haproxy/lua")
    assert haproxy_says(text, "-c -q") == ""


@pytest.mark.parametrize(
    ("environment", "stated"),
    [
        ({"PODIP": "10.9.9.9", "POD_IP": "10.1.2.3", "POD_IPS": "10.1.2.3"}, "10.9.9.9"),
        ({"PODIP": "2001:db8::9", "POD_IP": "10.1.2.3"}, "2001:db8::9"),
        ({"POD_IP": "2001:db8::3", "POD_IPS": "2001:db8::3,10.1.2.3"}, "2001:db8::3"),
        ({"POD_IPS": "10.1.2.3,2001:db8::3"}, "10.1.2.3"),
        ({}, "10.9.8.7"),
    ],
)
def test_the_pods_address_is_stated_by_the_environment_or_its_interface(
    environment: dict[str, str], stated: str
) -> None:
    found = pod.from_environment(environment, ip)
    assert sections.values(outbound(), found) == {"X-Forwarded-For": stated}
    assert found.hostname == socket.gethostname()


def test_the_interface_with_the_default_route_comes_first() -> None:
    """As in a container with more than one network."""
    links = [
        {"ifname": "net1", "addr_info": [{"local": "172.16.0.2", "prefixlen": 24, "scope": "global"}]},
        {"ifname": "eth0", "addr_info": [{"local": "10.9.8.7", "prefixlen": 24, "scope": "global"}]},
    ]
    assert [str(a) for a in pod._primary(links, ["eth0"])] == ["10.9.8.7", "172.16.0.2"]
    assert [str(a) for a in pod._primary(links, [])] == ["172.16.0.2", "10.9.8.7"]


def test_a_bad_podip_is_named() -> None:
    with pytest.raises(PodError, match="PODIP: 'pod' is not an IP address"):
        pod.from_environment({"PODIP": "pod"}, ip)


def test_a_value_of_the_pods_own_that_is_none_is_an_error() -> None:
    """A Pod without an address, or with a name that no header can have, says so instead of a wrong header."""
    with pytest.raises(PodError, match="the Pod's address is ''"):
        sections.values(outbound(), Pod(()))
    with pytest.raises(PodError, match="the Pod's host name is 'a b"):
        sections.values(outbound(outbound_client_hostname="default"), replace(POD, hostname="a b\n"))


def test_files_are_shared_between_both_ways() -> None:
    """Where the runtime gives few, each way and each IP version gets its part of the connections."""
    few = replace(POD, max_files=1024)
    texts = [config.render(wanted, few) for wanted in (outbound(), both())]
    assert "\n  maxconn 348\n" in texts[0]
    assert texts[0].count("\n  maxconn 124\n") == 2
    assert "\n  maxconn 348\n" in texts[1]
    assert texts[1].count("\n  maxconn 62\n") == 4


def both() -> Plan:
    return outbound(inbound_ports=(PortRange(25, 25),), trusted_cidrs=("192.0.2.0/24",))


def test_what_init_says_names_ports_and_headers_but_no_value() -> None:
    """A value may be a secret."""
    wanted = outbound(outbound_headers=(("X-Token", "secret"),), outbound_client_hostname="default")
    got = "requests to ports 80, 8000-8010 get X-Token, X-Forwarded-For, X-Client-Hostname"
    assert init.summary(wanted, POD) == f"srcip-proxy init: {got}; IPv4 and IPv6"
    said = init.summary(both(), POD)
    assert said.startswith("srcip-proxy init: ports 25 from 192.0.2.0/24; requests to ports 80, ")


def test_render_shows_what_goes_out() -> None:
    environment = {"PATH": os.environ["PATH"], "SRCIP_PLAN": outbound().to_env(), "PODIP": "10.1.2.3"}
    done = subprocess.run(
        [sys.executable, "-m", "srcip_proxy", "render"], env=environment, capture_output=True, text=True, check=True
    )
    assert "\n  chain outbound {" in done.stdout
    assert "\n  http-request set-header X-Forwarded-For '10.1.2.3'\n" in done.stdout
