"""Ring 4: a real cluster with srcip installed by helm, a namespace for each test, and a host outside. Needs root."""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from srcip_e2e.cluster import chart, site, workloads
from srcip_e2e.cluster.edge import origin
from srcip_e2e.cluster.kube import Kube, eventually
from srcip_e2e.cluster.site import Edge, Site

_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Only the tests themselves are timed: the first one may wait for Kubernetes to be built."""
    for item in items:
        if item.get_closest_marker("cluster"):
            item.add_marker(pytest.mark.timeout(600, func_only=True))


def missing(reason: str) -> None:
    """Skip, but not in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}; CI must not skip it")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def empty_cluster() -> Iterator[Site]:
    """The cluster under test with the images, before srcip is installed."""
    if reasons := site.obstacles():
        missing(f"{'; '.join(reasons)} (docs/e2e.md says how to run ring 4)")
    with site.under_test() as here:
        chart.load_images(here)
        yield here


@pytest.fixture(scope="session")
def cluster(empty_cluster: Site) -> Iterator[Site]:
    """The cluster with the chart installed."""
    chart.install(empty_cluster)
    yield empty_cluster
    chart.uninstall(empty_cluster)


@contextmanager
def new_namespace(cluster: Site) -> Iterator[Kube]:
    """A namespace that is open to srcip and gone in the end."""
    with_name = f"e2e-{os.getpid()}-{next(_numbers)}"
    cluster.kube.apply(workloads.namespace(with_name))
    inside = cluster.kube.within(with_name)
    eventually(lambda: inside.try_("get", "serviceaccount", "default").code == 0, "the default service account")
    yield inside
    cluster.kube("delete", "namespace", with_name, "--wait=false")


@pytest.fixture
def kube(cluster: Site) -> Iterator[Kube]:
    """A new namespace that is open to srcip."""
    with new_namespace(cluster) as inside:
        yield inside


@pytest.fixture(scope="module")
def shared_kube(cluster: Site) -> Iterator[Kube]:
    """The same for a whole file, whose tests only look at what runs there."""
    with new_namespace(cluster) as inside:
        yield inside


@pytest.fixture(scope="session")
def edge(cluster: Site) -> Edge:
    """The host outside the cluster."""
    if cluster.edge is None:
        missing(f"needs a host outside the cluster that reaches its Pods: {site.EDGE_NETNS} (docs/e2e.md)")
    assert cluster.edge
    return cluster.edge


@pytest.fixture(scope="module")
def outside(edge: Edge) -> Iterator[tuple[str, ...]]:
    """Addresses of the host outside; it serves WEB_PORTS."""
    with origin(edge.host):
        yield edge.host.ips
