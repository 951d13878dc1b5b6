"""What the processes would refuse to start with helm refuses first, in their words: one table for both."""

import ipaddress
from dataclasses import dataclass, field

import limits
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as tries
from hypothesis import strategies as st
from values_reference import CHART, values

from srcip_certs import settings as certs
from srcip_webhook import settings as webhook
from srcip_webhook.values import BadValue
from support.rendering import TRUSTING, Helm, Json, containers, merged, nested, variables

REQUESTS, LIMITS = "proxy.resources.requests", "proxy.resources.limits"
OWN = limits.OWN
ANYBODY = "lets any source claim any client address"


@dataclass(frozen=True)
class Bad:
    """Values that neither helm nor a process takes."""

    values: Json
    """As helm gets them."""
    environment: dict[str, str]
    """The same, as the process would get them."""
    words: tuple[str, ...]
    """What both say."""
    of_certs: bool = field(default=False, kw_only=True)


def networks(*cidrs: str, words: tuple[str, ...]) -> Bad:
    return Bad({"trustedCIDRs": list(cidrs)}, {"SRCIP_TRUSTED_CIDRS": ",".join(cidrs)}, words)


def amount(name: str, value: object, *words: str, variable: str) -> Bad:
    said = words or (f'"{value}" is out of range',)
    return Bad(nested(name, value), {f"SRCIP_PROXY_{variable}": str(value)}, said)


def life(name: str, value: str, *words: str, variable: str) -> Bad:
    return Bad(nested(OWN + name, value), {f"SRCIP_CERTS_{variable}": value}, words, of_certs=True)


BAD: dict[str, Bad] = {
    "host-bits": networks("192.0.2.1/24", words=('"192.0.2.1/24" has host bits set',)),
    "host-bits-ipv6": networks("2001:db8::1/64", words=('"2001:db8::1/64" has host bits set',)),
    "host-bits-in-a-digit": networks("2001:db8::8/124", words=('"2001:db8::8/124" has host bits set',)),
    "host-bits-of-everything": networks("10.0.0.0/0", words=('"10.0.0.0/0" has host bits set',)),
    "all-host-bits-at-once": networks("::1/0", "10.0.0.1/8", words=('"::1/0" has host', '"10.0.0.1/8" has host')),
    "no-address": networks("1:2:3/64", words=('"1:2:3/64" is not a network',)),
    "two-gaps": networks("1::2::3", words=('"1::2::3" is not a network',)),
    "three-colons": networks(":::", words=('":::" is not a network',)),
    "nine-groups": networks("1:2:3:4:5:6:7:8:9", words=('"1:2:3:4:5:6:7:8:9" is not a network',)),
    "gap-of-nothing": networks("1:2:3:4:5:6:7::8", words=('"1:2:3:4:5:6:7::8" is not a network',)),
    "mapped": networks("::ffff:c000:200/120", words=('"::ffff:c000:200/120" is an IPv4 network in IPv6 form',)),
    "everybody": networks("0.0.0.0/0", "::/0", words=(f"0.0.0.0/0 {ANYBODY}", f"::/0 {ANYBODY}")),
    "halves": networks("0.0.0.0/1", "128.0.0.0/1", words=(f"0.0.0.0/0 {ANYBODY}",)),
    "halves-ipv6": networks("::/1", "8000::/1", words=(f"::/0 {ANYBODY}",)),
    "parts": networks("0.0.0.0/2", "64.0.0.0/3", "96.0.0.0/3", "128.0.0.0/1", "::/8", words=(f"0.0.0.0/0 {ANYBODY}",)),
    "little-memory": amount(f"{LIMITS}.memory", "16Mi", variable="MEMORY_LIMIT"),
    "memory-without-a-unit": amount(f"{LIMITS}.memory", 64, variable="MEMORY_LIMIT"),
    "much-memory": amount(f"{LIMITS}.memory", "1Ti", variable="MEMORY_LIMIT"),
    "no-memory": amount(f"{REQUESTS}.memory", "0", variable="MEMORY"),
    "many-cpus": amount(f"{LIMITS}.cpu", 65, variable="CPU_LIMIT"),
    "little-cpu": amount(f"{REQUESTS}.cpu", "0.5m", variable="CPU"),
    "memory-above-its-limit": Bad(
        nested("proxy.resources", {"requests": {"memory": "1Gi"}, "limits": {"memory": "64Mi"}}),
        {"SRCIP_PROXY_MEMORY": "1Gi", "SRCIP_PROXY_MEMORY_LIMIT": "64Mi"},
        ("1Gi is more than the limit 64Mi",),
    ),
    "cpu-above-its-limit": Bad(
        nested("proxy.resources", {"requests": {"cpu": 0.2}, "limits": {"cpu": "100m"}}),
        {"SRCIP_PROXY_CPU": "0.2", "SRCIP_PROXY_CPU_LIMIT": "100m"},
        ("0.2 is more than the limit 100m",),
    ),
    "short-wait": Bad(
        nested("webhook.requestTimeout", "99ms"), {"SRCIP_REQUEST_TIMEOUT": "99ms"}, ('"99ms" is out of range',)
    ),
    "long-wait": Bad(
        nested("webhook.requestTimeout", "1m1s"), {"SRCIP_REQUEST_TIMEOUT": "1m1s"}, ('"1m1s" is out of range',)
    ),
    "fine-wait": Bad(
        nested("webhook.requestTimeout", "1.0005s"), {"SRCIP_REQUEST_TIMEOUT": "1.0005s"}, ('"1.0005s" is too fine',)
    ),
    "long-image": Bad(
        nested("proxy.image.repository", "a" * 255),
        {"SRCIP_PROXY_IMAGE": f"{'a' * 255}:0.1.0"},
        ("an image reference",),
    ),
    "short-life": life("caLifetime", "9s", "is out of range", "from 10s to 7300d", variable="CA_LIFETIME"),
    "long-life": life("leafLifetime", "366d", "is out of range", "from 3s to 365d", variable="LEAF_LIFETIME"),
    "leaf-outlives": life("caLifetime", "47h", "is more than 1/2 of", variable="CA_LIFETIME"),
    "late-checks": life("leafLifetime", "59s", "is more than 1/6 of", variable="LEAF_LIFETIME"),
    "long-settle": life("settle", "1h1s", "is out of range", variable="SETTLE"),
}
GOOD: dict[str, Json] = {
    "networks": {"trustedCIDRs": ["192.0.2.0/24", "192.0.2.7", "128.0.0.0/1", "203.0.113.254/31"]},
    "networks-ipv6": {"trustedCIDRs": ["8000::/1", "::/2", "2001:DB8::", "1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8"]},
    "equal": nested("proxy.resources", {"requests": {"cpu": 0.1, "memory": "64Mi"}, "limits": {"cpu": "100m"}}),
    "bytes": nested("proxy.resources", {"requests": {"memory": 268435456}, "limits": {"memory": "256Mi"}}),
    "half-a-life": nested("certificates.selfManaged", {"caLifetime": "48h", "leafLifetime": "24h"}),
    "longest-wait": nested("webhook.requestTimeout", "60s"),
}
"""Near the bad ones, and taken by both."""


def starts(environments: Json) -> None:
    """Both processes read what they get. Raises SettingsError."""
    webhook.from_environ(variables(environments["webhook"]))
    certs.from_environ(variables(environments["certs"]))


@pytest.mark.parametrize("case", BAD)
def test_helm_and_the_process_refuse_alike(case: str, helm: Helm) -> None:
    """Both, in the same words: nothing that helm takes stops a process from starting."""
    bad = BAD[case]
    reader, name = (certs.from_environ, "certs") if bad.of_certs else (webhook.from_environ, "webhook")
    with pytest.raises((webhook.SettingsError, certs.SettingsError)) as refused:  # type: ignore[arg-type]
        reader({**variables(containers(helm.objects({}))[name]), **bad.environment})
    said = helm.refusal(merged(TRUSTING, bad.values))
    for words in bad.words:
        assert words in str(refused.value)
        assert words in said


@pytest.mark.parametrize("case", GOOD)
def test_helm_and_the_process_accept_alike(case: str, helm: Helm) -> None:
    starts(containers(helm.objects(GOOD[case])))


def test_the_templates_know_the_limits_of_the_settings() -> None:
    assert limits.FILE.read_text() == limits.text()


@pytest.mark.parametrize(("name", "port"), [("webhook.port", 9443), ("certs.port", 8443)])
def test_two_processes_of_one_pod_need_two_ports(name: str, port: int, helm: Helm) -> None:
    """Only one could listen, and the other would crash. Without srcip-certs its port is free."""
    said = helm.refusal(merged(TRUSTING, nested(name, port)))
    assert f"webhook.port, certs.port: both are {port}" in said
    assert helm.refusal(merged(TRUSTING, nested(name, port), nested("certificates.mode", "cert-manager"))) == ""


@pytest.mark.parametrize("owner", ["webhook", "certs", "agent", "ebpfExporter"])
def test_a_request_above_its_limit_is_refused(owner: str, helm: Helm) -> None:
    """The API server would refuse the Deployment halfway through an upgrade."""
    said = helm.refusal(merged(TRUSTING, nested(f"{owner}.resources.requests.memory", "1Gi")))
    assert f"{owner}.resources.requests.memory: 1Gi is more than the limit" in said


@pytest.mark.parametrize(
    ("life", "before", "named"),
    [("59m", "5m", "duration"), ("24h", "24h", "renewBefore"), ("24h", "299s", "renewBefore"), ("24h", "5m", "")],
)
def test_what_cert_manager_would_refuse_is_refused(life: str, before: str, named: str, helm: Helm) -> None:
    """It would leave the webhook without a certificate."""
    given = nested("certificates", {"mode": "cert-manager", "certManager": {"duration": life, "renewBefore": before}})
    said = helm.refusal(merged(TRUSTING, given))
    assert (f"certificates.certManager.{named}: " in said) if named else said == ""


def test_a_policy_for_no_network_is_refused(helm: Helm) -> None:
    """The API server would refuse it halfway through an upgrade."""
    said = helm.refusal(merged(TRUSTING, nested("networkPolicy.apiServerCIDRs", ["1::2::3/64", "198.51.100.0/24"])))
    assert 'networkPolicy.apiServerCIDRs: "1::2::3/64" is not a network' in said
    assert "198.51" not in said


NAMES = [each.name for each in values((CHART / "values.yaml").read_text())]
EVERYTHING_ON: Json = {
    "metrics": {name: {"enabled": True} for name in ("serviceMonitor", "podMonitor", "prometheusRule", "dashboard")},
    "networkPolicy": {"enabled": True},
    "agent": {"enabled": True},
    "ebpfExporter": {"enabled": True},
}


@pytest.mark.parametrize(
    "name", sorted({*NAMES, *(name[:at] for name in NAMES for at in range(len(name)) if name[at] == ".")})
)
def test_null_is_refused_by_name_or_counts_as_empty(name: str, helm: Helm) -> None:
    """A value that is null is no fault in a template: the schema says what is missing, or it means nothing."""
    given = merged(TRUSTING, EVERYTHING_ON, nested(name, None))
    if said := helm.refusal(given):
        assert "name your load balancers" in said or f"missing property '{name.rpartition('.')[2]}'" in said
    else:
        starts(containers(helm.objects(given)))


@tries(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.ip_addresses(), st.integers(0, 128)), min_size=8, max_size=8), st.booleans())
def test_any_networks_are_judged_alike(
    helm: Helm, drawn: list[tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]], strict: bool
) -> None:
    """By helm's templates and by the webhook's reader, whatever they are."""
    cidrs = [f"{address}/{min(bits, address.max_prefixlen)}" for address, bits in drawn]
    cidrs = cidrs if strict else [str(ipaddress.ip_network(each, strict=False)) for each in cidrs]
    said = helm.refusal({"trustedCIDRs": cidrs})
    try:
        webhook.Settings("image", trusted_cidrs=webhook.NetworkList().parse(",".join(cidrs)))
    except (BadValue, webhook.SettingsError):
        assert said
    else:
        assert said == ""
