"""The environment that the chart writes, read by those who read it in a Pod."""

from dataclasses import fields
from typing import Any

import pytest

from srcip_certs import settings as certs
from srcip_webhook import settings as webhook
from support.rendering import CASES, TRUSTING, Helm, Json, containers, merged, nested, one, variables

FIXED = {"listen_address", "tls_cert_file", "tls_key_file"}
"""Settings of the webhook that the chart itself decides, by leaving them at their defaults."""
SET: dict[str, tuple[Json, Any]] = {
    "proxy_image": ({"proxy": {"image": {"repository": "a/b", "tag": "1"}}}, "a/b:1"),
    "proxy_image_pull_policy": (nested("image.pullPolicy", "Always"), "Always"),
    "trusted_cidrs": ({"trustedCIDRs": ["2001:db8::/32", "198.51.100.7"]}, ("198.51.100.7/32", "2001:db8::/32")),
    "proxy_cpu": (nested("proxy.resources.requests.cpu", 1), "1"),
    "proxy_memory": (nested("proxy.resources.requests.memory", "48Mi"), "48Mi"),
    "proxy_cpu_limit": (nested("proxy.resources.limits.cpu", 0.5), "0.5"),
    "proxy_memory_limit": (nested("proxy.resources.limits.memory", "64Mi"), "64Mi"),
    "agent": (nested("agent.enabled", True), True),
    "listen_port": (nested("webhook.port", 10250), 10250),
    "max_body_bytes": (nested("webhook.maxBodyBytes", 100_000_000), 100_000_000),
    "request_timeout_ms": (nested("webhook.requestTimeout", "1m"), 60_000),
    "drain_timeout_s": (nested("webhook.drainTimeoutSeconds", 600), 600),
    "log_level": (nested("webhook.logLevel", "debug"), "debug"),
}
"""For each setting of the webhook: values of the chart, and what the webhook then knows."""
SET_CERTS: dict[str, tuple[Json, Any]] = {
    "ca_lifetime_s": (nested("certificates.selfManaged.caLifetime", "730d"), 730 * 86400.0),
    "leaf_lifetime_s": (nested("certificates.selfManaged.leafLifetime", "1h30m"), 5400.0),
    "settle_s": (nested("certificates.selfManaged.settle", "500ms"), 0.5),
    "check_interval_s": (nested("certificates.selfManaged.checkInterval", "1s"), 1.0),
    "listen_port": (nested("certs.port", 9999), 9999),
    "log_level": (nested("certs.logLevel", "error"), "error"),
}
NAMED = {"namespace", "secret", "webhook_configuration", "service", "owner", "directory"}
"""Settings of srcip-certs that are names of the chart's own."""


def of_webhook(helm: Helm, values: Json) -> webhook.Settings:
    return webhook.from_environ(variables(containers(helm.objects(values))["webhook"]))


def of_certs(helm: Helm, values: Json) -> certs.Settings:
    return certs.from_environ(variables(containers(helm.objects(values))["certs"]))


def test_the_default_values_are_the_default_settings(helm: Helm) -> None:
    """What the tables of docs/ call defaults is true for both."""
    expected = webhook.Settings("srcip/proxy:0.1.0", trusted_cidrs=("192.0.2.0/24", "2001:db8::/32"))
    assert of_webhook(helm, {}) == expected
    assert of_certs(helm, {}) == certs.Settings(
        namespace="srcip-system",
        secret="srcip-ca",  # noqa: S106  a name
        webhook_configuration="srcip.srcip-system",
        service="srcip-webhook",
        owner="srcip-webhook",
    )


def test_every_setting_is_a_value() -> None:
    """An operator can decide each of them, save for what the chart itself decides."""
    assert set(SET) | FIXED == {each.name for each in fields(webhook.Settings)}
    assert set(SET_CERTS) | NAMED == {each.name for each in fields(certs.Settings)}


@pytest.mark.parametrize("name", SET)
def test_a_value_becomes_a_setting_of_the_webhook(name: str, helm: Helm) -> None:
    """Of that name, and it alone."""
    values, expected = SET[name]
    before, after = of_webhook(helm, {}), of_webhook(helm, values)
    assert getattr(after, name) == expected != getattr(before, name)
    assert {each.name for each in fields(after) if getattr(after, each.name) != getattr(before, each.name)} == {name}


@pytest.mark.parametrize("name", SET_CERTS)
def test_a_value_becomes_a_setting_of_srcip_certs(name: str, helm: Helm) -> None:
    """Of that name, and it alone."""
    values, expected = SET_CERTS[name]
    before, after = of_certs(helm, {}), of_certs(helm, values)
    assert getattr(after, name) == expected != getattr(before, name)
    assert {each.name for each in fields(after) if getattr(after, each.name) != getattr(before, each.name)} == {name}


def test_a_changed_setting_changes_the_pods(helm: Helm) -> None:
    """So that the Deployment replaces them: nothing reads its settings a second time."""
    before = one(helm.objects({}), "Deployment")["spec"]["template"]
    for values, _ in (*SET.values(), *SET_CERTS.values()):
        assert one(helm.objects(values), "Deployment")["spec"]["template"] != before, values


@pytest.mark.parametrize("case", CASES)
def test_no_variable_is_unknown(case: str, helm: Helm) -> None:
    """A mistyped one would be ignored."""
    known = {webhook.variable(each.name) for each in fields(webhook.Settings)}
    known_certs = {certs.variable(each.name) for each in fields(certs.Settings)} | {"POD_NAME"}
    found = containers(helm.objects(CASES[case]))
    assert {each["name"] for each in found["webhook"]["env"]} <= known
    if "certs" in found:
        assert {each["name"] for each in found["certs"]["env"]} <= known_certs


@pytest.mark.parametrize("case", CASES)
def test_the_settings_are_accepted(case: str, helm: Helm) -> None:
    """The processes of every case start."""
    found = containers(helm.objects(CASES[case]))
    assert webhook.from_environ(variables(found["webhook"]))
    if "certs" in found:
        assert certs.from_environ(variables(found["certs"]))


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("webhook.maxBodyBytes", 64 * 1024, 256 * 1024 * 1024),
        ("webhook.drainTimeoutSeconds", 0, 600),
    ],
)
def test_the_schema_has_the_bounds_of_the_webhook(name: str, low: int, high: int, helm: Helm) -> None:
    """What helm lets through the webhook starts with, and what helm refuses it would refuse."""
    for value in (low, high):
        of_webhook(helm, nested(name, value))
    for value in (low - 1, high + 1):
        assert helm.refusal(merged(TRUSTING, nested(name, value)))


def test_hooks_name_the_webhook_configuration_of_this_release(helm: Helm) -> None:
    objects = helm.objects({}, release="two", namespace="elsewhere")
    (container,) = one(objects, "Job")["spec"]["template"]["spec"]["containers"]
    known = certs.from_environ(variables(container), needed=("webhook_configuration",))
    assert known.webhook_configuration == one(objects, "MutatingWebhookConfiguration")["metadata"]["name"]


def test_the_certificate_is_for_the_service_however_it_is_made(helm: Helm) -> None:
    """cert-manager is asked for the names that srcip-certs would put in."""
    certificate = one(helm.objects(CASES["cert-manager"]), "Certificate", "-tls")
    assert tuple(certificate["spec"]["dnsNames"]) == of_certs(helm, {}).dns_names
    mounted = one(helm.objects(CASES["cert-manager"]), "Deployment")["spec"]["template"]["spec"]["volumes"]
    assert mounted == [{"name": "tls", "secret": {"secretName": certificate["spec"]["secretName"], "defaultMode": 288}}]


def test_the_commands_are_those_of_srcip_certs(helm: Helm) -> None:
    """The arguments of the hooks are understood; the images' entry points bring the programs."""
    from srcip_certs.__main__ import _parser  # noqa: PLC0415

    objects = helm.objects({})
    job, pod = one(objects, "Job")["spec"]["template"]["spec"], one(objects, "Pod")["spec"]
    assert _parser().parse_args(job["containers"][0]["args"])
    parsed = _parser().parse_args(pod["containers"][0]["args"])
    assert (parsed.namespace, parsed.timeout) == (one(objects, "Namespace")["metadata"]["name"], 60.0)
    assert not any("command" in each for each in (*containers(objects).values(), *job["containers"]))
