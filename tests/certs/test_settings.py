"""The settings: what is allowed, and every fault at once."""

from pathlib import Path

import pytest

from srcip_certs.settings import NAMES, Duration, Settings, SettingsError, from_environ, variable

GIVEN = {
    "SRCIP_CERTS_NAMESPACE": "srcip-system",
    "SRCIP_CERTS_SECRET": "srcip-ca",
    "SRCIP_CERTS_WEBHOOK_CONFIGURATION": "srcip.srcip-system.srcip.io",
    "SRCIP_CERTS_SERVICE": "srcip-webhook",
}


def test_names_are_enough() -> None:
    found = from_environ(GIVEN)
    assert found.directory == "/etc/srcip/tls"
    assert (found.ca_lifetime_s, found.leaf_lifetime_s) == (365 * 86400, 86400)
    assert (found.settle_s, found.check_interval_s, found.listen_port) == (60, 10, 9443)
    assert found.dns_names == (
        "srcip-webhook.srcip-system.svc",
        "srcip-webhook.srcip-system.svc.cluster.local",
        "srcip-webhook.srcip-system",
    )


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("1.5s", 1.5), ("1h30m", 5400), ("2d", 172800), ("60s", 60)]
)
def test_durations_have_units_and_may_be_short(text: str, seconds: float) -> None:
    long = {"SRCIP_CERTS_LEAF_LIFETIME": "20d", "SRCIP_CERTS_CHECK_INTERVAL": text}
    assert Duration("1ms", "9d").parse(text) == seconds
    if seconds <= 600:
        assert from_environ(GIVEN | long).check_interval_s == seconds


def test_every_fault_is_told_at_once() -> None:
    """With the variable, the value and what is allowed."""
    wrong = {
        "SRCIP_CERTS_NAMESPACE": "Under_score",
        "SRCIP_CERTS_CA_LIFETIME": "1y",
        "SRCIP_CERTS_LISTEN_PORT": "65536",
        "SRCIP_CERTS_SETTLE": "2h",
        "SRCIP_CERTS_LOG_LEVEL": "loud",
    }
    with pytest.raises(SettingsError) as caught:
        from_environ(wrong)
    faults = "\n".join(caught.value.faults)
    assert len(caught.value.faults) == 8
    for name in ("SECRET", "SERVICE", "WEBHOOK_CONFIGURATION"):
        assert f"SRCIP_CERTS_{name}: missing" in faults
    assert "'Under_score' is not allowed. Allowed: a DNS label" in faults
    assert "'1y' is not a duration with a unit. Allowed: a duration from 10s to 7300d" in faults
    assert "2h is out of range" in faults


def test_a_shorter_time_must_fit_into_a_longer_one() -> None:
    times = {"SRCIP_CERTS_CA_LIFETIME": "30s", "SRCIP_CERTS_LEAF_LIFETIME": "20s", "SRCIP_CERTS_SETTLE": "11s"}
    with pytest.raises(SettingsError) as caught:
        from_environ(GIVEN | times | {"SRCIP_CERTS_CHECK_INTERVAL": "5s"})
    assert len(caught.value.faults) == 3
    assert "SRCIP_CERTS_LEAF_LIFETIME: 20s is more than 1/2 of SRCIP_CERTS_CA_LIFETIME, 30s" in caught.value.faults


def test_a_command_needs_only_its_names() -> None:
    assert from_environ({"SRCIP_CERTS_WEBHOOK_CONFIGURATION": "x"}, ("webhook_configuration",))
    with pytest.raises(SettingsError, match="SRCIP_CERTS_SECRET: missing"):
        from_environ({}, ("secret",))


def test_every_setting_says_what_it_is_for() -> None:
    """The table in docs/certificates.md has each variable."""
    text = (Path(__file__).parents[2] / "docs" / "certificates.md").read_text()
    for name, field in Settings.__dataclass_fields__.items():
        assert field.metadata["doc"].endswith(".")
        assert f"`{variable(name)}`" in text
    assert set(NAMES) <= Settings.__dataclass_fields__.keys()
