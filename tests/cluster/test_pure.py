"""What needs no cluster: settings, generated texts."""

import json
from pathlib import Path

import pytest

from srcip_e2e.cluster import figures, node_files, site
from srcip_e2e.cluster.archive import cached
from srcip_e2e.cluster.edge import Service, configuration
from srcip_e2e.cluster.node_files import Layout
from srcip_e2e.cluster.workloads import App, alone, pod, tproxy
from srcip_lab.errors import LabError


def test_an_existing_cluster_must_be_named() -> None:
    """No kubeconfig is taken by chance."""
    with pytest.raises(LabError, match="KUBECONFIG is not"):
        site.existing({site.EXISTING: "1"})


def test_every_missing_setting_of_the_edge_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All at once."""
    monkeypatch.setattr("srcip_e2e.cluster.binaries.find", lambda name: tmp_path / name)
    with pytest.raises(LabError) as caught:
        site.existing({"KUBECONFIG": "x", site.EDGE_NETNS: "lb", site.NODE_IPS: "192.0.2.1,"})
    assert [error.partition(":")[0] for error in caught.value.errors] == [site.EDGE_IPS, site.NODE_IPS]


def test_without_a_namespace_there_is_no_edge(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its tests are skipped then."""
    monkeypatch.setattr("srcip_e2e.cluster.binaries.find", lambda name: tmp_path / name)
    assert site.existing({"KUBECONFIG": "x"}).edge is None


def test_every_setting_is_in_the_docs() -> None:
    """docs/e2e.md explains each environment variable."""
    text = (Path(__file__).parents[2] / "docs" / "e2e.md").read_text()
    for name in (site.EXISTING, site.LOAD, site.EDGE_NETNS, site.EDGE_IPS, site.NODE_IPS, site.SNAT_IPS):
        assert f"| `{name}` |" in text


def test_the_balancer_sends_headers_unless_told_otherwise() -> None:
    """And it checks only where asked to."""
    text = configuration([Service("a", 1), Service("b", 2, options="", check=True)])
    lines = [line.split() for line in text.splitlines() if "server-template" in line]
    assert [("send-proxy-v2" in line, "check" in line) for line in lines] == [(True, False), (False, True)]


def test_configuration_files_stay_in_the_directory() -> None:
    """All state of a node is under its one directory."""
    layout = Layout(Path("/somewhere"))
    assert all(path.is_relative_to("/somewhere") for path in node_files.files(layout))


def test_annotations_are_written_with_their_prefix() -> None:
    """Words of Python become annotations of srcip."""
    app = App("web", annotations=tproxy(node_proxy_protocol="off", trusted_cidrs=alone("192.0.2.1", "2001:db8::1")))
    assert pod(app)["metadata"]["annotations"] == {
        "srcip.io/mode": "tproxy",
        "srcip.io/node-proxy-protocol": "off",
        "srcip.io/trusted-cidrs": "192.0.2.1/32,2001:db8::1/128",
    }


def test_what_is_cached_is_built_once_and_replaces_what_is_older(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Equal parts are built once; a build that failed leaves nothing that could be taken for a finished one."""
    monkeypatch.setattr("srcip_lab.places.cache", lambda: tmp_path)
    built: list[str] = []

    def build(aside: Path) -> None:
        built.append(aside.name)
        aside.write_text("done")

    def fail(aside: Path) -> None:
        aside.write_text("half")
        raise LabError("no")

    first = cached("thing", ["1"], build)
    assert cached("thing", ["1"], build) == first
    assert len(built) == 1
    with pytest.raises(LabError):
        cached("thing", ["2"], fail)
    second = cached("thing", ["2"], build)
    assert [path.name for path in tmp_path.glob("thing-*")] == [second.name]


def test_the_page_of_figures_is_that_of_the_measured_ones() -> None:
    """docs/figures.md was written from docs/figures.json by this code."""
    docs = Path(__file__).parents[2] / "docs"
    assert figures.page(json.loads((docs / "figures.json").read_text())) == (docs / "figures.md").read_text()
