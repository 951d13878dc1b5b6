"""The pure parts of ring 3's own tools."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from srcip_e2e.cluster import binaries, pod_files
from srcip_e2e.cluster.latency import Histogram
from srcip_e2e.cluster.load import Admission, Tally, percentile
from srcip_lab.errors import LabError

PAGE = """
# TYPE wait histogram
wait_bucket{name="ours",le="0.005"} 6
wait_bucket{name="ours",le="0.1"} 9
wait_bucket{name="ours",le="+Inf"} 10
wait_sum{name="ours"} 0.5
wait_count{name="ours"} 10
wait_bucket{name="theirs",le="+Inf"} 1000
"""


def test_percentiles_are_values_that_occurred() -> None:
    assert [percentile(range(1, 101), p) for p in (50, 99, 100)] == [50, 99, 100]
    assert percentile([7], 50) == 7
    assert percentile([], 99) == 0


def test_a_histogram_counts_what_came_since_then() -> None:
    now = Histogram.read(PAGE, "wait", ('name="ours"',))
    before = Histogram.read("", "wait", ('name="ours"',))
    assert now.since(before) == {"calls": 10, "mean_ms": 50, "p50_at_most_ms": 5, "p99_at_most_ms": float("inf")}
    assert now.since(now)["calls"] == 0


def test_the_window_lasts_from_the_first_bad_admission_to_the_end_of_the_last() -> None:
    outcomes = ("injected", "refused", "injected", "failed", "injected")
    tally = Tally(tuple(Admission(second, 100, outcome, "why") for second, outcome in enumerate(outcomes)))
    assert tally.window_ms == 2100
    assert tally.messages == {"why": 2}


def test_variables_are_expanded_as_kubelet_does() -> None:
    assert pod_files.expand("$(A)-$(B)-$A", {"A": "1"}) == "1-$(B)-$A"


def test_an_unknown_field_of_the_downward_api_is_named() -> None:
    pod = {"metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"a/b": "c"}}, "spec": {}}
    assert pod_files.field(pod, "metadata.labels['a/b']", "10.0.0.1") == "c"
    assert pod_files.field(pod, "status.podIP", "10.0.0.1") == "10.0.0.1"
    with pytest.raises(LabError, match="phase"):
        pod_files.field(pod, "status.phase", "10.0.0.1")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A machine with empty places to search, and a way to put kubectl into one of them."""
    monkeypatch.setenv(binaries.ASSETS, str(tmp_path / "assets"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(binaries, "_path", lambda: str(tmp_path / "path"))

    def put(place: str) -> Path:
        directory = binaries.KUBERNETES.cached if place == "cache" else tmp_path / place
        directory.mkdir(parents=True)
        program = directory / "kubectl"
        program.touch(mode=0o755)
        return program

    return put


def test_assets_come_before_the_path_and_the_path_before_the_cache(machine: Callable[[str], Path]) -> None:
    assert binaries.here("kubectl") is None
    for place in ("cache", "path", "assets"):
        put = machine(place)
        assert binaries.find("kubectl") == put


@pytest.mark.usefixtures("machine")
def test_what_is_missing_is_told_with_the_way_to_get_it() -> None:
    reasons = binaries.missing(["etcd", "kubectl", "helm"])
    assert "apt-get install etcd-server" in reasons[0]
    assert all(word in reasons[1] for word in ("kubectl, helm", binaries.ASSETS, "install Go"))
    with pytest.raises(binaries.Missing, match="etcd"):
        binaries.find("etcd")


def test_go_mod_pins_one_kubernetes_and_every_program() -> None:
    text = (binaries.KUBERNETES.directory / "go.mod").read_text()
    staging = "v0." + binaries.KUBERNETES.version.removeprefix("v1.")
    assert {line.split()[-1] for line in text.splitlines() if "=>" in line} == {staging}
    for toolset in binaries.TOOLSETS:
        tools = set(re.findall(r"cmd/([a-z-]+)$", (toolset.directory / "go.mod").read_text(), re.MULTILINE))
        assert tools == set(toolset.programs)
