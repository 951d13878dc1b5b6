"""What the chart accepts as values, and what it refuses before anything is changed."""

import ipaddress
import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import values_reference
import yaml
from hypothesis import given
from hypothesis import strategies as st
from values_reference import CHART

from support.rendering import CASES, TRUSTING, Helm, Json, merged, nested

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
OBJECTS_OF_KUBERNETES = {
    "affinity.nodeAffinity",
    "affinity.podAffinity",
    "affinity.podAntiAffinity",
    "agent.affinity.nodeAffinity",
    "agent.affinity.podAffinity",
    "agent.affinity.podAntiAffinity",
    "ebpfExporter.affinity.nodeAffinity",
    "ebpfExporter.affinity.podAffinity",
    "ebpfExporter.affinity.podAntiAffinity",
    "global",
    "metrics.serviceMonitor.tlsConfig",
    "networkPolicy.metricsFrom.[].ipBlock",
    "networkPolicy.metricsFrom.[].namespaceSelector",
    "networkPolicy.metricsFrom.[].podSelector",
    "topologySpreadConstraints.[].labelSelector",
}
"""What the API server checks better than a schema here could."""

NONSENSE: dict[str, list[Any]] = {
    "admission.annotations": [{"no spaces please": "x"}, {"x": 1}],
    "admission.failurePolicy": ["fail", "", True],
    "admission.hintResources": [
        ["rollouts"],
        ["*.argoproj.io"],
        ["rollouts/status.argoproj.io"],
        "rollouts.argoproj.io",
    ],
    "admission.hints": ["yes", 1],
    "admission.matchConditions": [[{"name": "x"}], [{"name": "a b", "expression": "true"}], {}],
    "admission.namespaceMatchExpressions": [[{"key": "a", "operator": "in"}], [{"operator": "Exists"}]],
    "admission.podMatchExpressions": [[{"key": "a", "operator": "In", "value": "b"}]],
    "admission.reinvocationPolicy": ["Always"],
    "admission.timeoutSeconds": [0, 31, "10s", 1.5],
    "affinity": [{"nodeAfinity": {}}, []],
    "agent.affinity": [{"nodeAfinity": {}}, []],
    "agent.enabled": ["yes"],
    "agent.image.digest": ["sha256:123"],
    "agent.image.repository": ["", "a b"],
    "agent.image.tag": ["-x"],
    "agent.nodeSelector": [{"disk": True}, ["a"]],
    "agent.podAnnotations": [{"a": 1}],
    "agent.podLabels": [{"a": "b c"}],
    "agent.port": [80, 65536, ":15330"],
    "agent.priorityClassName": ["System Critical"],
    "agent.resources.limits": [{"memory": "lots"}],
    "agent.resources.requests": [{"cpus": 1}],
    "agent.tolerations": [[{"key": "a", "operator": "exists"}], [{"taint": "a"}]],
    "agent.updateStrategy": [{"type": "Rolling"}, {"rollingUpdate": {"maxUnavailable": "101%"}}],
    "certificates.certManager.duration": ["90d", 2160],
    "certificates.certManager.issuerRef": [{"kind": "ClusterIssuer"}, "corporate", {"name": "a", "kind": "issuer"}],
    "certificates.certManager.renewBefore": ["", "30 days"],
    "certificates.mode": ["selfsigned", "certManager", ""],
    "certificates.secret.caBundle": ["LS0tLS1CRUdJTg==", "/etc/ca.crt", "-----BEGIN PRIVATE KEY-----\nAA\n"],
    "certificates.secret.name": ["Tls", "a/b"],
    "certificates.selfManaged.caLifetime": ["1y", 365, "", "-1d"],
    "certificates.selfManaged.checkInterval": ["10"],
    "certificates.selfManaged.leafLifetime": ["24 h"],
    "certificates.selfManaged.settle": ["1w"],
    "certs.image.digest": ["sha256:123", "ab" * 32],
    "certs.image.repository": ["", "a b", "srcip/certs:"],
    "certs.image.tag": ["-x", "a/b"],
    "certs.logLevel": ["warn", "INFO"],
    "certs.port": [80, 65536, "9443"],
    "certs.resources.limits": [{"memory": "64MB"}, {"gpu": 1}],
    "certs.resources.requests": [{"cpu": "fast"}],
    "commonAnnotations": [{"a": None, "b": 1}, []],
    "commonLabels": [{"a": "no spaces please"}, {"b": "x" * 64}, {"/c": "x"}],
    "ebpfExporter.affinity": [{"nodeAfinity": {}}, []],
    "ebpfExporter.enabled": ["yes"],
    "ebpfExporter.nodeSelector": [{"disk": True}, ["a"]],
    "ebpfExporter.podAnnotations": [{"a": 1}],
    "ebpfExporter.podLabels": [{"a": "b c"}],
    "ebpfExporter.podLogsDirectory": ["var/log/pods", "/var/../etc", "/", "/a b"],
    "ebpfExporter.port": [80, 65536, ":15320"],
    "ebpfExporter.priorityClassName": ["System Critical"],
    "ebpfExporter.resources.limits": [{"memory": "lots"}],
    "ebpfExporter.resources.requests": [{"cpus": 1}],
    "ebpfExporter.tolerations": [[{"key": "a", "operator": "exists"}], [{"taint": "a"}]],
    "fullnameOverride": ["Upper", "9starts-with-a-digit", "a" * 48, "dots.are.no"],
    "image.pullPolicy": ["always", "Sometimes"],
    "image.pullSecrets": [["name-only"], [{"name": ""}], [{}]],
    "image.registry": ["https://registry.example", "registry.example/Upper", "a b"],
    "image.tag": ["a b", ":1", 1.0],
    "metrics.dashboard.annotations": [{"a": 1}],
    "metrics.dashboard.enabled": ["on"],
    "metrics.dashboard.labels": [{"grafana_dashboard": 1}],
    "metrics.podMonitor.enabled": ["true"],
    "metrics.podMonitor.interval": ["0s", "1 minute"],
    "metrics.podMonitor.labels": [{"a": ["b"]}],
    "metrics.prometheusRule.authorityHours": [0, "720h"],
    "metrics.prometheusRule.certificateHours": [-1],
    "metrics.prometheusRule.enabled": [1],
    "metrics.prometheusRule.labels": ["release=prometheus"],
    "metrics.prometheusRule.refusedRatio": [1.5, "5%"],
    "metrics.serviceMonitor.enabled": ["no"],
    "metrics.serviceMonitor.interval": [30],
    "metrics.serviceMonitor.labels": [[]],
    "metrics.serviceMonitor.tlsConfig": ["insecure"],
    "networkPolicy.apiServerCIDRs": [["198.51.100.1"], ["api.example"], "198.51.100.0/24"],
    "networkPolicy.apiServerPorts": [[], [0], ["https"]],
    "networkPolicy.enabled": ["yes"],
    "networkPolicy.metricsFrom": [[{}], [{"namespace": "monitoring"}]],
    "nodeSelector": [{"disk": True}, ["a"]],
    "podAnnotations": [{"a": 1}],
    "podDisruptionBudget.enabled": ["yes"],
    "podDisruptionBudget.maxUnavailable": [0, "0%", "101%", "one"],
    "podLabels": [{"a": "b c"}],
    "podSecurityContext.fsGroup": ["users", 0],
    "podSecurityContext.runAsGroup": [-1, 0],
    "podSecurityContext.runAsUser": [0, "root"],
    "priorityClassName": ["System Critical"],
    "proxy.image.digest": ["latest"],
    "proxy.image.repository": ["-srcip/proxy"],
    "proxy.image.tag": ["x" * 129],
    "proxy.resources.limits": [{"memory": "1 GiB"}, {"cpu": ""}],
    "proxy.resources.requests": [{"cpu": None}, {"cpu": "10m", "memory": "-1Mi"}],
    "serviceAccount.annotations": [{"role": 1}],
    "test.namespace": ["a.b", "Apps", "x" * 64],
    "test.timeoutSeconds": [0, "60s"],
    "tolerations": [[{"key": "a", "operator": "exists"}], [{"taint": "a"}]],
    "topologySpreadConstraints": [[{"maxSkew": 1}], ["zone"]],
    "trustedCIDRs": [
        "192.0.2.0/24",
        ["192.0.2.0/33"],
        ["192.0.2.256/32"],
        ["192.0.02.0/24"],
        ["192.0.2/24"],
        ["2001:db8::/129"],
        ["2001:db8::g/64"],
        ["lb.example"],
        ["192.0.2.0/24,198.51.100.0/24"],
        [""],
        [None],
    ],
    "uninstallHook.enabled": ["yes"],
    "webhook.drainTimeoutSeconds": [-1, 601, "20s"],
    "webhook.hostNetwork": ["false"],
    "webhook.image.digest": ["sha512:ab"],
    "webhook.image.repository": ["registry.example/"],
    "webhook.image.tag": ["@sha256"],
    "webhook.logLevel": ["trace"],
    "webhook.maxBodyBytes": [1, "8Mi"],
    "webhook.port": [443, "https"],
    "webhook.preStopSleepSeconds": [-1, "5s", 301],
    "webhook.replicas": [0, -1, "2", 1.5],
    "webhook.requestTimeout": ["10", 10, "1h"],
    "webhook.resources.limits": [{"memory": "lots"}],
    "webhook.resources.requests": [{"cpus": 1}],
}
"""For each value, what must be refused."""


KNOWN = {each.name for each in values_reference.values((CHART / "values.yaml").read_text())}


def test_each_value_has_its_nonsense() -> None:
    """No value goes unchecked: the table has them all."""
    assert set(NONSENSE) == KNOWN


@pytest.fixture(scope="module")
def refusals(helm: Helm) -> list[str]:
    """What helm says of the first nonsense of all values at once, of the second, and so on."""
    rounds = range(max(map(len, NONSENSE.values())))
    wrong = [[nested(name, each[number]) for name, each in NONSENSE.items() if number < len(each)] for number in rounds]
    return [helm.refusal(merged(*values)) for values in wrong]


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_refused_with_its_name(name: str, refusals: list[str]) -> None:
    """helm says which value it is, for each kind of nonsense."""
    place = re.compile(f"at '/{name.replace('.', '/')}['/]")
    for value, said in zip(NONSENSE[name], refusals, strict=False):
        assert place.search(said), f"{value!r}: {said or 'accepted'}"


def test_all_faults_are_told_at_once(helm: Helm) -> None:
    """Of values that are wrong in themselves, and of those that do not fit together."""
    wrong: Json = {"webhook": {"replicas": 0}, "certs": {"port": 1}, "extra": 1}
    said = helm.refusal(merged(TRUSTING, wrong))
    assert all(word in said for word in ("/webhook/replicas", "/certs/port", "'extra'"))
    said = helm.refusal({"trustedCIDRs": ["192.0.2.1/24", "::/0"], "certificates": {"mode": "secret"}})
    assert all(f"- trustedCIDRs: {text}" in said for text in ('"192.0.2.1/24"', "::/0"))
    assert all(f"- certificates.secret.{name}" in said for name in ("name", "caBundle"))


@pytest.mark.parametrize("name", sorted({name.rpartition(".")[0] for name in KNOWN} | {"proxy.resources.limits"}))
def test_a_mistyped_name_is_refused(name: str, helm: Helm) -> None:
    """On each level, so that no value is silently left at its default."""
    said = helm.refusal(merged(TRUSTING, nested(f"{name}.replicaCuont".lstrip("."), 3)))
    assert "'replicaCuont' not allowed" in said


def test_without_trusted_networks_helm_says_what_to_do(helm: Helm) -> None:
    """There is no default that trusts anybody."""
    said = helm.refusal({})
    assert "trustedCIDRs: name your load balancers" in said
    assert "--set 'trustedCIDRs={192.0.2.0/24,2001:db8::/32}'" in said


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), st.integers(0, 128))
def test_every_network_is_accepted_by_the_pattern(address: Address, bits: int) -> None:
    """The pattern of a network refuses none, however it is written."""
    network = ipaddress.ip_network((address, min(bits, address.max_prefixlen)), strict=False)
    pattern = SCHEMA["definitions"]["cidr"]["pattern"]
    for text in (str(network), network.exploded, str(network.network_address)):
        assert re.fullmatch(pattern, text)


def branches(schema: Json, path: str = "") -> Iterator[tuple[str, Json]]:
    """Each object in the schema, by the names of its values."""
    schema = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    if schema.get("type") == "object":
        yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from branches(part, f"{path}.{name}".lstrip("."))
    if isinstance(schema.get("items"), dict):
        yield from branches(schema["items"], f"{path}.[]")


def test_the_schema_is_one_and_closed() -> None:
    """Every object in it refuses names that it does not know, save those that the API server checks."""
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    opened = {path for path, schema in branches(SCHEMA) if schema.get("additionalProperties") is not False}
    assert opened == OBJECTS_OF_KUBERNETES


def test_schema_and_defaults_know_the_same_values() -> None:
    """Nothing can be set that has no default and no comment."""

    def names(schema: Json, defaults: Any, path: str = "") -> Iterator[str]:
        schema = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
        for name, part in schema.get("properties", {}).items():
            place = f"{path}.{name}".lstrip(".")
            if place != "global" and place not in KNOWN:
                yield from names(part, defaults, place) if any(x.startswith(f"{place}.") for x in KNOWN) else [place]

    assert list(names(SCHEMA, DEFAULTS)) == []


@pytest.mark.parametrize("case", CASES)
def test_the_schema_says_the_same_to_other_tools(case: str) -> None:
    """Editors and CI read it with other libraries than helm's; a null takes a value away."""
    jsonschema.validate(_without_nulls(merged(DEFAULTS, TRUSTING, CASES[case])), SCHEMA)


def _without_nulls(values: Json) -> Json:
    return {
        key: _without_nulls(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if value is not None
    }
