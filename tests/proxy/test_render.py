"""What is applied and written for a plan: golden texts, and nothing that could break out of them."""

import ipaddress
import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srcip_proxy import init, pod
from srcip_proxy.haproxy import config
from srcip_proxy.netfilter import routes, ruleset
from srcip_proxy.plan import Plan, PortRange, ProbeAlias
from srcip_proxy.pod import Pod, PodError
from srcip_proxy.quoting import quoted, word

FOLDER = Path(__file__).parents[1] / "golden" / "proxy"
MODULE = config.LUA.parent
POD = Pod(
    addresses=(ipaddress.ip_address("10.1.2.3"), ipaddress.ip_address("2001:db8:1::3")),
    node=(ipaddress.ip_address("10.1.0.1"),),
    unusable=(ipaddress.ip_address("10.1.2.3"), ipaddress.ip_address("10.1.2.255")),
    stated=ipaddress.ip_address("10.1.2.3"),
    hostname="shop-0",
)
SMTP = Plan((PortRange(25, 25), PortRange(8000, 8010)), ("192.0.2.0/24", "2001:db8:2::/64"))
WEB = (PortRange(8000, 8010),)


def changed(**changes: object) -> Plan:
    fields = {name: getattr(SMTP, name) for name in SMTP.__dataclass_fields__}
    return Plan(**{**fields, **changes})  # type: ignore[arg-type]


def outbound(**changes: object) -> Plan:
    """A plan that sets headers in requests to two ports."""
    base = {
        "inbound_ports": (),
        "trusted_cidrs": (),
        "outbound_ports": (PortRange(80, 80), PortRange(8080, 8080)),
        "outbound_headers": (("X-Team", "it's 100% {ours}"), ("X-Gone", "")),
        "outbound_forwarded_for": "default",
        "outbound_client_hostname": "default",
    }
    return Plan(**{**base, **changes})  # type: ignore[arg-type]


BEHAVIOURS = {
    "default": (SMTP, POD),
    "without-ipv6": (SMTP, Pod(POD.addresses[:1], POD.node, POD.unusable, ipv6=False)),
    "without-an-ipv6-address": (SMTP, Pod(POD.addresses[:1], POD.node, POD.unusable)),
    "deliver-to-loopback": (changed(deliver_to="loopback"), POD),
    "deliver-to-pod": (changed(deliver_to="pod"), POD),
    "beside-a-mesh": (changed(mesh=True, probe_aliases=(ProbeAlias(15100, 8000),)), POD),
    "redirect-beside-a-mesh": (changed(mesh=True, mode="redirect", http_ports=WEB), POD),
    "exact-client-address": (changed(client_address="exact"), POD),
    "a-sidecar-that-idles": (
        changed(is_idle=True, inbound_ports=(), probe_aliases=(ProbeAlias(15100, 8000),)),
        POD,
    ),
    "probes-on-alias-ports": (changed(probe_aliases=(ProbeAlias(15100, 8000),)), POD),
    "node-left-alone": (changed(node_proxy_protocol="off", trusted_cidrs=("10.0.0.0/8",)), POD),
    "only-the-node-sends-headers": (changed(proxy_protocol="off", trusted_cidrs=("10.0.0.0/8",)), POD),
    "nobody-is-intercepted": (changed(proxy_protocol="off", node_proxy_protocol="off"), POD),
    "few-file-descriptors": (SMTP, Pod(POD.addresses, POD.node, POD.unusable, max_files=1024)),
    "a-single-port": (changed(inbound_ports=(PortRange(25, 25),)), POD),
    "redirect": (changed(mode="redirect", http_ports=WEB), POD),
    "redirect-beside-tls": (changed(mode="redirect", http_ports=WEB, http_other="pass"), POD),
    "redirect-everything": (
        changed(
            mode="redirect",
            http_ports=WEB,
            http_other="refuse",
            forwarded_for="trusted",
            forwarded_for_header="X-Client",
            emit_proxy_protocol="v2",
            tlv_headers=(("ssl-cn", "X-Client-CN"),),
            probe_aliases=(ProbeAlias(15100, 8000),),
            deliver_to="pod",
        ),
        POD,
    ),
    "redirect-append-without-ipv6": (
        changed(mode="redirect", http_ports=WEB, forwarded_for="append"),
        Pod(POD.addresses[:1], POD.node, POD.unusable, ipv6=False),
    ),
    "redirect-proxy-header-alone": (changed(mode="redirect", emit_proxy_protocol="v1"), POD),
    "client-from-a-header": (changed(http_ports=WEB, client_from="x-forwarded-for"), POD),
    "outbound": (outbound(), POD),
    "outbound-without-ipv6": (outbound(), replace(POD, ipv6=False)),
    "outbound-and-tproxy": (outbound(inbound_ports=SMTP.inbound_ports, trusted_cidrs=SMTP.trusted_cidrs), POD),
    "outbound-and-redirect": (
        changed(
            mode="redirect",
            http_ports=WEB,
            outbound_ports=(PortRange(80, 80), PortRange(8000, 8003)),
            outbound_forwarded_for="default",
        ),
        POD,
    ),
    "outbound-with-long-headers": (outbound(outbound_headers=(("X-Long", "long" * 200),)), POD),
    "client-limit": (changed(max_connections_per_client=100), POD),
}

Golden = Callable[[Path, str | None], None]


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_the_texts_are_those_of_the_golden_file(behaviour: str, golden: Golden) -> None:
    texts = init.render(*BEHAVIOURS[behaviour])
    parts = [texts.nft, *(f"# ip -{v} -batch -\n{text}" for v, text in texts.routes.items()), texts.haproxy]
    golden(FOLDER / f"{behaviour}.txt", "\n".join(parts).replace(str(MODULE), "MODULE"))


def test_no_golden_file_is_left_over() -> None:
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(BEHAVIOURS)


@given(st.text())
def test_a_word_is_one_word_or_an_error(text: str) -> None:
    """No space, quote, brace, line end, comment or expansion gets into a generated file."""
    try:
        assert word(text) == text
    except ValueError:
        return
    assert not set(text) & set(" \t\r\n\"'`{}()[];#$\\&|<>*?!~^+%"), text


@given(st.text(st.characters(max_codepoint=255)))
def test_what_is_quoted_is_one_text_or_an_error(text: str) -> None:
    """HAProxy itself reads it back as the same text (test_injection.py)."""
    try:
        inside = quoted(text)
    except ValueError:
        return
    assert text.isprintable() and text.isascii()
    assert inside.replace("'\\''", "").count("'") == 2
    assert inside.count("%") == 2 * text.count("%")


@pytest.mark.parametrize("version", [4, 6])
def test_preparing_takes_away_exactly_the_rules_that_are_added(version: int) -> None:
    added = [line for line in routes.render(version, SMTP, POD).splitlines() if line.startswith("rule add")]
    removed = routes.prepare(version).splitlines()
    assert [line.replace(" add ", " del ") for line in added] == removed


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_the_kernel_takes_the_rules(behaviour: str) -> None:
    if os.geteuid() and not os.environ.get("CI"):
        pytest.skip("nft -c needs root")
    text = ruleset.render(*BEHAVIOURS[behaviour])
    done = subprocess.run(
        ["unshare", "--net", "nft", "-c", "-f", "-"], input=text, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


LINKS = [
    {"addr_info": [{"local": "127.0.0.1", "prefixlen": 8, "scope": "host"}]},
    {
        "addr_info": [
            {"local": "10.9.8.7", "prefixlen": 24, "scope": "global"},
            {"local": "10.9.8.8", "prefixlen": 24, "scope": "global"},
            {"local": "fe80::7", "prefixlen": 64, "scope": "link"},
        ]
    },
]


def ip(*_: str) -> str:
    return json.dumps(LINKS)


def test_the_downward_api_names_the_pods_addresses() -> None:
    found = pod.from_environment({"POD_IP": "10.1.2.3", "POD_IPS": "10.1.2.3,2001:db8::3", "HOST_IP": "10.1.0.1"}, ip)
    assert [str(a) for a in found.addresses] == ["10.1.2.3", "2001:db8::3"]
    assert "10.1.0.1" in map(str, found.node)


def test_without_it_the_interfaces_do() -> None:
    assert [str(a) for a in pod.from_environment({}, ip).addresses] == ["10.9.8.7"]


def test_no_address_of_an_interface_and_no_end_of_its_network_can_be_a_client() -> None:
    unusable = set(map(str, pod.from_environment({}, ip).unusable))
    assert {"10.9.8.7", "10.9.8.8", "10.9.8.0", "10.9.8.255", "fe80::7", "127.0.0.1"} <= unusable


def test_every_bad_address_of_the_environment_is_named() -> None:
    with pytest.raises(PodError) as error:
        pod.from_environment({"POD_IPS": "10.1.2.3,x", "HOST_IP": "10.0.0.1;"}, ip)
    assert error.value.errors == ("POD_IPS: 'x' is not an IP address", "HOST_IP: '10.0.0.1;' is not an IP address")


@pytest.mark.parametrize(
    ("environment", "arguments", "code", "said"),
    [
        ({}, ["init"], 1, "SRCIP_PLAN"),
        ({"SRCIP_PLAN": "{}"}, ["render"], 1, "version None is not supported"),
        ({"SRCIP_PLAN": "{"}, ["check"], 1, "not JSON"),
        ({}, [], 2, "usage: srcip-proxy"),
        ({}, ["init", "now"], 2, "usage: srcip-proxy"),
        ({}, ["--help"], 0, ""),
    ],
)
def test_the_command_says_what_is_wrong(
    environment: dict[str, str], arguments: list[str], code: int, said: str
) -> None:
    done = subprocess.run(
        [os.sys.executable, "-m", "srcip_proxy", *arguments],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr


def test_render_prints_and_touches_nothing() -> None:
    """It works for any user, without a capability."""
    environment = {"PATH": os.environ["PATH"], "SRCIP_PLAN": SMTP.to_env(), "POD_IP": "10.1.2.3"}
    done = subprocess.run(
        [os.sys.executable, "-m", "srcip_proxy", "render"], env=environment, capture_output=True, text=True, check=True
    )
    assert "table inet srcip" in done.stdout
    assert "frontend inbound" in done.stdout
