"""Clock, files, presence, patches, metrics and faults."""

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

NOW = 1_800_000_000.0
SIGNERS = [authority.make(NOW, 1000.0) for _ in range(3)]
A, B, C = (each.certificate for each in SIGNERS)


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
    presence = Presence(longest_gap_s=10, keep_s=0)
    for now, there in ((0.0, (A,)), (5.0, (A, B)), (8.0, (B,)), (9.0, (A, B))):
        presence.look(bundle(*there), now, now)
    assert presence.for_seconds(A.fingerprint) == 0
    assert presence.for_seconds(B.fingerprint) == 4
    assert presence.for_seconds(C.fingerprint) is None


def test_what_was_not_looked_at_for_long_starts_anew() -> None:
    """It may have been away in between."""
    presence = Presence(longest_gap_s=10, keep_s=0)
    for now in (0.0, 9.0, 20.0, 25.0):
        presence.look(bundle(A), now, now)
    assert presence.for_seconds(A.fingerprint) == 5


def test_a_slow_answer_does_not_count_as_time_in_force() -> None:
    """It was there when it was asked for, not before it was answered first."""
    presence = Presence(longest_gap_s=100, keep_s=0)
    presence.look(bundle(A), 0.0, 30.0)
    presence.look(bundle(A), 31.0, 60.0)
    assert presence.for_seconds(A.fingerprint) == 1


def test_a_certificate_must_be_in_every_webhook() -> None:
    both = Published("1", (authority.Bundle((A, B), False), authority.Bundle((B,), False)))
    assert both.in_force == {B.fingerprint}
    assert both.missing((A, B)) == {A.fingerprint}
    assert Published().in_force == frozenset() == Published().missing((A,))


def test_strangers_are_remembered_for_a_while_after_they_left() -> None:
    """One that stays counts on; one that comes back after that time is new."""
    presence = Presence(longest_gap_s=10, keep_s=100)
    assert presence.unknown((A, B, C), {C.fingerprint}, 0) == {A: 0, B: 0}
    assert presence.unknown((A,), {C.fingerprint}, 90) == {A: 90, B: 90}
    assert presence.unknown((A,), {C.fingerprint}, 110) == {A: 110}
    assert presence.unknown((A, B), {C.fingerprint}, 120) == {A: 120, B: 0}
    assert presence.unknown((A, B), {A.fingerprint}, 121) == {B: 1}


# the patch


def configuration(*bundles: str | None) -> dict[str, object]:
    entries = [{"name": f"w{i}", "clientConfig": {"service": {}} | ({"caBundle": text} if text is not None else {})}
               for i, text in enumerate(bundles)]  # fmt: skip
    return {"metadata": {"resourceVersion": "7"}, "webhooks": entries}


def test_a_patch_fills_every_webhook_and_nothing_else() -> None:
    raw = configuration(None, "", base64.b64encode(A.pem.encode()).decode(), "%%%")
    before = published.read(raw)
    assert [each.junk for each in before.bundles] == [False, False, False, True]
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
