"""The commands against a real API server, beside a running process and without one."""

import json
import subprocess
import sys

import pytest

from support.replicas import Installation

pytestmark = pytest.mark.controlplane


def test_status_tells_what_is_in_force(site: Installation) -> None:
    """As text and as JSON, and without a running process as well."""
    (replica,) = site.start()
    replica.await_event("certificate written")
    leaf = replica.leaf
    assert leaf
    text = replica.command("status")
    assert text.returncode == 0, text.stdout
    assert f"current    {leaf.issuer.fingerprint[:12]}" in text.stdout
    assert "caBundle: complete; 1 certificates" in text.stdout
    found = json.loads(replica.command("status", "--json").stdout)
    assert found["leaf"]["fingerprint"] == leaf.certificate.fingerprint
    assert found["caBundle"]["inForce"] is True
    assert found["faults"] == []
    alone = replica.command("status", "--json", SRCIP_CERTS_LISTEN_PORT="1")
    assert alone.returncode == 1
    seen = json.loads(alone.stdout)
    assert seen["faults"] == ["no answer on port 1"]
    assert seen["leaf"] == found["leaf"] and seen["caBundle"] == found["caBundle"]


def test_injection_is_tested_and_the_webhook_is_removed(site: Installation) -> None:
    """By an administrator's account; both say what was done, and the second removal is fine."""
    admin = {"KUBECONFIG": str(site.plane.kubeconfig)}
    (replica,) = site.start()
    refused = replica.command("test-injection", "--namespace", site.apps, "--timeout", "0", **admin)
    assert refused.returncode == 1 and "the Pod was refused" in refused.stdout
    site.serve()
    done = replica.command("test-injection", "--namespace", site.apps, **admin)
    assert done.returncode == 0, done.stdout
    elsewhere = replica.command("test-injection", "--namespace", "default", "--timeout", "0", **admin)
    assert elsewhere.returncode == 1 and "label srcip.io/injection: enabled" in elsewhere.stdout
    replica.stop()
    assert site.api.find(site.configuration)
    assert replica.command("remove-webhook", **admin).returncode == 0
    assert site.api.find(site.configuration) is None
    assert "does not exist" in replica.command("remove-webhook", **admin).stdout


def test_without_a_secret_there_is_nothing_to_rotate(site: Installation) -> None:
    """The API's own words are shown."""
    done = subprocess.run(
        [sys.executable, "-m", "srcip_certs", "rotate", "ca"],
        env=site.environ(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "404" in done.stderr
