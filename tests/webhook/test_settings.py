"""Settings come from the environment whole and right, or not at all; none of them trusts anybody by itself."""

import pytest

from srcip_webhook.settings import Settings, SettingsError, from_environ

IMAGE = {"SRCIP_PROXY_IMAGE": "registry.example/srcip-proxy:1"}


def test_only_the_image_is_needed() -> None:
    settings = from_environ(IMAGE)
    assert settings == Settings(proxy_image="registry.example/srcip-proxy:1")
    assert settings.trusted_cidrs == ()
    assert settings.max_body_bytes == 8 * 1024 * 1024


def test_everything_is_read() -> None:
    settings = from_environ(
        {
            **IMAGE,
            "SRCIP_TRUSTED_CIDRS": "2001:db8::/32,192.0.2.0/24",
            "SRCIP_PROXY_IMAGE_PULL_POLICY": "Always",
            "SRCIP_PROXY_CPU_LIMIT": "2",
            "SRCIP_PROXY_MEMORY_LIMIT": "512Mi",
            "SRCIP_LISTEN_ADDRESS": "::",
            "SRCIP_LISTEN_PORT": "9443",
            "SRCIP_REQUEST_TIMEOUT": "3s",
            "SRCIP_WEBHOOK_SERVICE_HOST": "10.0.0.1",
        }
    )
    assert settings.trusted_cidrs == ("192.0.2.0/24", "2001:db8::/32")
    assert (settings.listen_port, settings.request_timeout_ms, settings.proxy_cpu_limit) == (9443, 3000, "2")


def test_every_fault_is_told_at_once() -> None:
    bad = {
        "SRCIP_TRUSTED_CIDRS": "0.0.0.0/0",
        "SRCIP_PROXY_IMAGE_PULL_POLICY": "Sometimes",
        "SRCIP_PROXY_CPU": "4",
        "SRCIP_PROXY_CPU_LIMIT": "1",
        "SRCIP_LISTEN_PORT": "70000",
        "SRCIP_PROXY_IMAGE": "-x",
        "SRCIP_TLS_CERT_FILE": "relative.pem",
        "SRCIP_LOG_LEVEL": "loud",
        "SRCIP_MAX_BODY_BYTES": "1",
    }
    with pytest.raises(SettingsError) as error:
        from_environ(bad)
    told = {fault.partition(":")[0] for fault in error.value.faults}
    assert told == set(bad) - {"SRCIP_PROXY_CPU_LIMIT"}


@pytest.mark.parametrize("cidrs", ["0.0.0.0/0", "::/0", "0.0.0.0/1,128.0.0.0/1"])
def test_no_setting_can_trust_everybody(cidrs: str) -> None:
    with pytest.raises(SettingsError, match="any source"):
        from_environ({**IMAGE, "SRCIP_TRUSTED_CIDRS": cidrs})


def test_a_missing_image_is_told() -> None:
    with pytest.raises(SettingsError, match="SRCIP_PROXY_IMAGE: missing"):
        from_environ({})
