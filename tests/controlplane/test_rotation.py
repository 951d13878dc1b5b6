"""Certificates change and are harmed while Pods are created without a pause; `cluster.rotations` does it longer."""

from __future__ import annotations

import pytest

from srcip_e2e.cluster import rotations
from srcip_e2e.cluster.podrunner import PodRunner
from srcip_e2e.cluster.release import Release

pytestmark = pytest.mark.controlplane


def test_no_pod_is_refused_while_certificates_change(release: Release, runner: PodRunner, apps: str) -> None:
    rows = rotations.trial(release, runner, apps, rotations.SHORT)
    sums = rotations.total(rows, harmful=False)
    assert sums["injected"] == sums["admissions"] > 300, rows
    assert sums["tls_handshakes"] > 50
    assert sums["tls_untrusted"] == sums["tls_unreachable"] == 0, rows
    (emptied,) = (row for row in rows if row["harmful"])
    assert emptied["seconds"] <= 2, emptied
    assert emptied["window_ms"] < 2000, emptied
