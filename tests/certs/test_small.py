"""Settings, clock, files, presence, patches, metrics and faults."""

import base64
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import jsonpatch
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srcip_certs import authority, published
from srcip_certs.authority import BadCertificate, Leaf
from srcip_certs.clock import Clock
from srcip_certs.faults import Faults
from srcip_certs.files import Files
from srcip_certs.metrics import Metrics
from srcip_certs.presence import Presence
from srcip_certs.published import Published
from srcip_certs.settings import NAMES, Duration, Settings, SettingsError, from_environ, variable

NOW = 1_800_000_000.0
SIGNERS = [authority.make(NOW, 1000.0) for _ in range(3)]
A, B, C = (each.certificate for each in SIGNERS)
GIVEN = {
    "SRCIP_CERTS_NAMESPACE": "srcip-system",
    "SRCIP_CERTS_SECRET": "srcip-ca",
    "SRCIP_CERTS_WEBHOOK_CONFIGURATION": "srcip.srcip-system.srcip.io",
    "SRCIP_CERTS_SERVICE": "srcip-webhook",
}


# settings


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


# the clock


class Times:
    def __init__(self) -> None:
        self.wall, self.steady = NOW, 500.0


@given(st.floats(-1e9, 1e9), st.lists(st.tuples(st.floats(0, 5), st.floats(0, 5), st.floats(0, 100)), min_size=1))
def test_the_clock_is_the_servers_within_a_second_and_the_way(
    offset: float, exchanges: list[tuple[float, float, float]]
) -> None:
    """Whatever this machine's clock says: an answer's Date, in whole seconds, came on its way there and back."""
    times = Times()
    clock = Clock(lambda: times.wall, lambda: times.steady)
    for there, back, later in exchanges:
        sent = times.steady
        date = float(int(NOW + offset + sent + there))
        times.steady += there + back
        clock.heard(date, sent, times.steady)
        times.wall += 12345.0
        times.steady += later
        assert abs(clock.now() - (NOW + offset + times.steady)) <= 1 + there + back + 1e-3


def test_a_jump_of_this_machines_clock_changes_nothing() -> None:
    times = Times()
    clock = Clock(lambda: times.wall, lambda: times.steady)
    clock.heard(NOW, 500.0, 500.0)
    times.wall += 1e8
    times.steady += 3
    assert clock.now() == pytest.approx(NOW + 3)
    assert clock.skew() == pytest.approx(1e8 - 3)


# files


def leaf(signer: int = 0) -> Leaf:
    return authority.sign(SIGNERS[signer], ("a.b.svc",), NOW, 100.0)


def test_files_come_back_as_they_were_written(tmp_path: Path) -> None:
    """For this user only."""
    files = Files(tmp_path)
    assert files.read() is None
    for written in (leaf(0), leaf(1)):
        files.write(written)
        assert files.read() == written
    assert {path.name for path in tmp_path.iterdir()} == {"tls.crt", "tls.key", "ca.crt"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_a_reader_never_meets_half_a_file(tmp_path: Path) -> None:
    """It may meet a new key with an old certificate, in that order only: the webhook waits for the second."""
    files, leaves = Files(tmp_path), [leaf(), leaf()]
    files.write(leaves[0])
    done = threading.Event()
    known = {each.certificate.pem for each in leaves}, {each.key for each in leaves}
    seen = []

    def read() -> None:
        while not done.is_set():
            seen.append(((tmp_path / "tls.crt").read_text(), (tmp_path / "tls.key").read_text()))

    thread = threading.Thread(target=read)
    thread.start()
    for index in range(300):
        files.write(leaves[index % 2])
    done.set()
    thread.join()
    assert len(seen) > 100
    assert all(certificate in known[0] and key in known[1] for certificate, key in seen)


def test_a_write_that_was_cut_short_leaves_no_pair(tmp_path: Path) -> None:
    """The next process says so and makes a new one."""
    files = Files(tmp_path)
    files.write(leaf())
    (tmp_path / "tls.key").write_text(leaf().key)
    (tmp_path / ".tls.crt.new").write_text("half")
    with pytest.raises(BadCertificate, match="does not match"):
        files.read()
    files.write(renewed := leaf())
    assert files.read() == renewed


def test_a_directory_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing"):
        Files(tmp_path / "missing").write(leaf())


# presence


def bundle(*certificates: authority.Certificate) -> Published:
    return Published("1", (authority.Bundle(certificates, False),))


def test_what_leaves_the_bundle_starts_anew() -> None:
    presence = Presence(longest_gap_s=10)
    for now, there in ((0.0, (A,)), (5.0, (A, B)), (8.0, (B,)), (9.0, (A, B))):
        presence.look(bundle(*there), now, now)
    assert presence.for_seconds(A.fingerprint) == 0
    assert presence.for_seconds(B.fingerprint) == 4
    assert presence.for_seconds(C.fingerprint) is None


def test_what_was_not_looked_at_for_long_starts_anew() -> None:
    """It may have been away in between."""
    presence = Presence(longest_gap_s=10)
    for now in (0.0, 9.0, 20.0, 25.0):
        presence.look(bundle(A), now, now)
    assert presence.for_seconds(A.fingerprint) == 5


def test_a_slow_answer_does_not_count_as_time_in_force() -> None:
    """It was there when it was asked for, not before it was answered first."""
    presence = Presence(longest_gap_s=100)
    presence.look(bundle(A), 0.0, 30.0)
    presence.look(bundle(A), 31.0, 60.0)
    assert presence.for_seconds(A.fingerprint) == 1


def test_a_certificate_must_be_in_every_webhook() -> None:
    both = Published("1", (authority.Bundle((A, B), False), authority.Bundle((B,), False)))
    assert both.in_force == {B.fingerprint}
    assert both.missing((A, B)) == {A.fingerprint}
    assert Published().in_force == frozenset() == Published().missing((A,))


# the patch


def configuration(*bundles: str | None) -> dict[str, object]:
    entries = [{"name": f"w{i}", "clientConfig": {"service": {}} | ({"caBundle": text} if text is not None else {})}
               for i, text in enumerate(bundles)]  # fmt: skip
    return {"metadata": {"resourceVersion": "7"}, "webhooks": entries}


def test_a_patch_fills_every_webhook_and_nothing_else() -> None:
    raw = configuration(None, "", base64.b64encode(A.pem.encode()).decode(), "%%%")
    before = published.read(raw)
    assert [each.rubbish for each in before.bundles] == [False, False, False, True]
    patched = jsonpatch.apply_patch(raw, published.patch(before, (B, A)))
    assert published.read(patched).equals((A, B))
    for entry in patched["webhooks"]:
        del entry["clientConfig"]["caBundle"]
    assert patched == configuration(None, None, None, None)


def test_a_patch_of_an_old_state_fails() -> None:
    """Nobody's change in between is lost."""
    patch = published.patch(published.read(configuration("")), (A,))
    changed = configuration("") | {"metadata": {"resourceVersion": "8"}}
    with pytest.raises(jsonpatch.JsonPatchTestFailed):
        jsonpatch.apply_patch(changed, patch)


def test_a_configuration_that_is_gone_publishes_nothing() -> None:
    assert published.read(None) == Published()
    assert published.read({"metadata": {"resourceVersion": "7"}}).bundles == ()


# telling


def test_metrics_are_in_the_text_format() -> None:
    metrics = Metrics()
    metrics.api_failures["patch"] += 2
    metrics.not_after["ca"] = NOW
    metrics.in_force = True
    lines = metrics.text().splitlines()
    assert 'srcip_certs_api_failures_total{verb="patch"} 2' in lines
    assert 'srcip_certs_not_after_seconds{certificate="ca"} 1800000000' in lines
    assert "srcip_certs_ca_bundle_in_force 1" in lines
    series = [line.split("{")[0].split()[0] for line in lines if not line.startswith("#")]
    described = {line.split()[2] for line in lines if line.startswith("# HELP")}
    assert set(series) == described
    text = (Path(__file__).parents[2] / "docs" / "certificates.md").read_text()
    assert all(f"`{name}" in text for name in described)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level("INFO")
    return lambda: [record.getMessage() for record in caplog.records]


def test_a_fault_is_logged_when_it_begins_changes_and_ends(lines: Callable[[], list[str]]) -> None:
    faults = Faults()
    for text in ("a", "a", "b", "b"):
        faults.begin("writing", text)
    assert faults.present == {"writing": "b"}
    faults.end("writing")
    faults.end("writing")
    assert (faults.present, faults.last) == ({}, "b")
    assert lines() == ["writing failed", "writing failed", "writing works again"]
