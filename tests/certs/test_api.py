"""The processes against a real API server, which verifies their certificates in Go."""

import signal
import time
from datetime import datetime
from pathlib import Path

import pytest

from srcip_certs import secret
from srcip_e2e.cluster.controlplane import ControlPlane
from srcip_e2e.cluster.load import Load
from support.replicas import Installation, Replica, restart_server, server_process, until

pytestmark = pytest.mark.controlplane

RARELY_S = 600
"""What must not be waited for takes so many seconds: far longer than any test waits."""
RARELY = {"CA_LIFETIME": "30d", "LEAF_LIFETIME": "1d", "CHECK_INTERVAL": "10m"}
"""With these times nothing happens but by what a test does."""


def seconds(line: dict[str, str]) -> float:
    return datetime.fromisoformat(line["time"]).timestamp()


def test_bundle_and_certificate_are_there_soon_after_the_start(site: Installation) -> None:
    """Long before the second look at the API."""
    (replica,) = site.start(**RARELY)
    written = replica.await_event("certificate written")
    assert seconds(written) - seconds(replica.events("started")[0]) < RARELY_S
    assert [len(each.certificates) for each in site.bundles()] == [1, 1]
    assert site.accepted(replica)
    assert replica.metric("srcip_certs_ca_bundle_in_force") == 1


def test_racing_processes_agree_at_once(site: Installation) -> None:
    """Three start at the same moment: one authority, which all of them sign with."""
    replicas = site.start(3)
    for each in replicas:
        each.await_event("certificate written")
    assert len(site.issuers()) == 1
    assert all(len(each.certificates) == 1 for each in site.bundles())
    time.sleep(1)
    assert sum(each.metric('srcip_certs_renewals_total{certificate="ca"}') for each in replicas) == 1
    assert all(not each.events("writing the Secret failed") for each in replicas)


def refused_while(site: Installation, plane: ControlPlane, do: list[str]) -> dict[str, object]:
    """Rotate so under load; what the API server said to Pods meanwhile."""
    with Load(plane, site.apps, threads=2) as load:
        load.wait(30)
        for what in do:
            before, leaves = site.issuers(), [each.leaf for each in site.replicas]
            assert site.replicas[0].command("rotate", what).returncode == 0
            if what == "ca":
                until("a new authority", lambda before=before: not before & site.issuers())
            else:
                pairs = list(zip(site.replicas, leaves, strict=True))
                until("new leaves", lambda pairs=pairs: all(each.leaf != old for each, old in pairs))
            time.sleep(1.2)  # the webhook looks at its files once a second
        load.wait(30)
    return load.tally().facts()


def test_no_pod_is_refused_through_rotations(site: Installation, plane: ControlPlane) -> None:
    """Two replicas, five rotations of leaves and authorities, one Pod after the other."""
    replicas = site.start(2)
    site.serve()
    for each in replicas:
        each.await_event("certificate written")
    facts = refused_while(site, plane, ["ca", "leaf", "ca", "leaf", "ca"])
    assert facts["injected"] == facts["admissions"], facts
    assert int(str(facts["admissions"])) >= 60
    assert len(site.bundles()[0].certificates) == 4


def test_a_deleted_secret_comes_back_and_no_pod_is_refused(site: Installation, plane: ControlPlane) -> None:
    replicas = site.start(2)
    site.serve()
    issuer = site.issuers()
    with Load(plane, site.apps, threads=2) as load:
        load.wait(20)
        before = site.api.get(site.secret)
        site.api.delete(site.secret)
        until("the Secret", lambda: site.api.find(site.secret))
        assert replicas[0].command("rotate", "leaf").returncode == 0
        for each in replicas:
            each.await_event("certificate written", 2)
        load.wait(20)
    facts = load.tally().facts()
    assert facts["injected"] == facts["admissions"], facts
    assert site.api.get(site.secret)["data"] == before["data"]
    assert site.issuers() == issuer


def test_a_reset_bundle_is_repaired_by_the_watch(site: Installation) -> None:
    """Though the next look is ten minutes away; other fields stay as they are."""
    (replica,) = site.start(**RARELY)
    replica.await_event("certificate written")
    time.sleep(0.5)  # the watch begins
    for number in range(5):
        site.api.patch(site.configuration, {"metadata": {"labels": {"changed": str(number)}}})
        site.empty_bundles()
        until("the repair", lambda: site.accepted(replica))
    assert site.api.get(site.configuration)["metadata"]["labels"] == {"changed": "4"}
    until("the count", lambda: replica.metric("srcip_certs_ca_bundle_repairs_total") == 5)


def test_leaves_go_on_while_the_api_server_hangs(site: Installation, plane: ControlPlane) -> None:
    """It is stopped for longer than a leaf lives; when it goes on, all is well without a restart."""
    (replica,) = site.start(CA_LIFETIME="2m", LEAF_LIFETIME="15s", SETTLE="1s", CHECK_INTERVAL="200ms")
    replica.await_event("certificate written")
    server = server_process(plane)
    server.send_signal(signal.SIGSTOP)
    try:
        begin = time.time()
        while time.time() < begin + 17:
            leaf = replica.leaf
            assert leaf and leaf.certificate.not_after > time.time()
            time.sleep(0.1)
        status = replica.command("status")
        assert status.returncode == 1 and "no answer" in status.stdout
    finally:
        server.send_signal(signal.SIGCONT)
    until("the repair", lambda: replica.command("status").returncode == 0)
    assert site.accepted(replica)
    assert len(replica.events("reading the webhook configuration failed")) <= 3


def test_a_restarted_api_server_is_found_again(site: Installation, plane: ControlPlane) -> None:
    """Killed and gone for three seconds: the watch comes back as well."""
    (replica,) = site.start()
    replica.await_event("certificate written")
    restart_server(plane, 3.0)
    site.api = plane.api()
    until("the status", lambda: replica.command("status").returncode == 0, lambda: str(replica.events()[-3:]))
    until("the watch", lambda: replica.events("watching the webhook configuration works again"))
    site.empty_bundles()
    replica.await_event("caBundle repaired")
    assert site.accepted(replica)


def test_forbidden_writes_are_told_once_and_made_up_for(site: Installation) -> None:
    """A rotation that was asked for meanwhile is done as soon as the rights are back."""
    replicas = site.start(2)
    for each in replicas:
        each.await_event("certificate written")
    before = site.issuers()
    site.allow(writes=False)
    asked = {"metadata": {"annotations": {secret.ROTATE_CA: "now"}}}
    site.api.patch(site.secret, asked)
    for each in replicas:
        assert "403" in each.await_event("writing the Secret failed")["error"]
    time.sleep(2)
    assert [len(each.events("writing the Secret failed")) for each in replicas] == [1, 1]
    assert all(each.metric('srcip_certs_api_failures_total{verb="update"}') > 2 for each in replicas)
    assert all(each.command("status").returncode == 1 for each in replicas)
    assert site.issuers() == before
    site.allow()
    until("the rotation", lambda: not before & site.issuers() and len(site.issuers()) == 1)
    assert all(each.command("status").returncode == 0 for each in replicas)


@pytest.mark.parametrize("hangs", [False, True])
def test_sigterm_ends_at_once(site: Installation, plane: ControlPlane, hangs: bool) -> None:
    """Also in the middle of a call that gets no answer: it does not become one that failed."""
    (replica,) = site.start()
    replica.await_event("certificate written")
    server = server_process(plane)
    try:
        if hangs:
            server.send_signal(signal.SIGSTOP)
            time.sleep(0.5)
        assert replica.stop(signal.SIGTERM) == 0
        assert not [line for line in replica.events() if line["event"].endswith("failed")]
    finally:
        server.send_signal(signal.SIGCONT)
    assert replica.events("stopped")


def test_a_restarted_process_keeps_its_certificate(site: Installation) -> None:
    """Its files outlive it; nothing is signed anew."""
    (replica,) = site.start()
    replica.await_event("certificate written")
    leaf = replica.leaf
    replica.stop()
    again = Replica(replica.environ, site.directory, f"{site.name}-0")
    site.replicas.append(again)
    until("the second start", lambda: len(again.events("certificate found")) == 1)
    time.sleep(1)
    assert again.leaf == leaf


def test_garbage_in_the_secret_is_put_aside(site: Installation) -> None:
    """The authorities come back from memory."""
    (replica,) = site.start()
    replica.await_event("certificate written")
    before = site.api.get(site.secret)["data"][secret.KEY]
    site.api.patch(site.secret, {"data": {secret.KEY: "Z2FyYmFnZQ=="}})
    until("the repair", lambda: site.api.get(site.secret)["data"][secret.KEY] == before)
    assert site.api.get(site.secret)["data"][secret.REJECTED] == "Z2FyYmFnZQ=="
    assert "not JSON" in replica.await_event("using the Secret failed")["error"]
    replica.await_event("using the Secret works again")


def test_a_secret_of_another_type_stays_as_it_is(site: Installation) -> None:
    """It is somebody else's. The process waits and says why."""
    pair = {"tls.crt": "eA==", "tls.key": "eA=="}
    body = {"metadata": {"name": "srcip-ca"}, "type": "kubernetes.io/tls", "data": pair}
    site.api.post(site.secret.rpartition("/")[0], body)
    (replica,) = site.start()
    assert "kubernetes.io/tls" in replica.await_event("using the Secret failed")["error"]
    time.sleep(1)
    assert site.api.get(site.secret)["data"] == body["data"]
    assert replica.leaf is None
    status = replica.command("status")
    assert status.returncode == 1 and "srcip did not create it" in status.stdout


def test_the_secret_names_its_deployment_as_owner(site: Installation) -> None:
    labels = {"app": "srcip"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "a", "image": "a"}]}}
    path = site.deployment.rpartition("/")[0]
    made = site.api.post(
        path,
        {"metadata": {"name": "srcip-webhook"}, "spec": {"selector": {"matchLabels": labels}, "template": template}},
    )
    (replica,) = site.start(OWNER="srcip-webhook")
    replica.await_event("certificate written")
    (owner,) = site.api.get(site.secret)["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Deployment", "srcip-webhook", made["metadata"]["uid"])


def test_this_machines_clock_may_jump(site: Installation, faketime: Path, tmp_path: Path) -> None:
    """A day or ten years ahead, or behind: leaves are renewed by the API server's clock as if nothing had happened."""
    told = tmp_path / "time"
    told.write_text("+0")
    lies = {"LD_PRELOAD": str(faketime), "FAKETIME_TIMESTAMP_FILE": str(told), "FAKETIME_NO_CACHE": "1"}
    environ = site.environ(LEAF_LIFETIME="8s") | lies | {"FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    replica = Replica(environ, site.directory, "liar")
    site.replicas.append(replica)
    replica.await_event("certificate written")
    for jump, skew in (("+1d", 86400), ("-10d", -864000), ("+3650d", 315360000), ("+0", 0)):
        told.write_text(jump)
        leaf, begin = replica.leaf, time.time()
        until("the renewal", lambda leaf=leaf: replica.leaf != leaf)
        renewed = replica.leaf
        assert leaf and renewed
        assert begin < renewed.certificate.not_after < time.time() + 10, "8 s after the API server's time"
        until("a valid leaf", lambda: site.accepted(replica))
        assert abs(replica.metric("srcip_certs_clock_skew_seconds") - skew) < 3600
    assert replica.metric('srcip_certs_renewals_total{certificate="ca"}') == 1
