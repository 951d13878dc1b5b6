"""Ring 3: a real API server, the chart installed with real helm, its Pods run by a stand-in for kubelet."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from srcip_e2e.cluster import binaries, rotations
from srcip_e2e.cluster.api import Api
from srcip_e2e.cluster.controlplane import CONTROLLERS, NEEDED, ControlPlane
from srcip_e2e.cluster.podrunner import PodRunner
from srcip_e2e.cluster.release import Release
from srcip_lab.tools import missing_packages

PROGRAMS = ("ip", "nsenter", "mount")
TOOLS = (*NEEDED, "helm")
BUILD_S = 1800
HOW = "run it as root: sudo make test"


def unless(reasons: list[str], what: str) -> None:
    """Skip with the reasons, if there are any; in CI that is a failure."""
    if not reasons:
        return
    text = f"{what}: {'; '.join(reasons)}"
    if os.environ.get("CI"):
        pytest.fail(text)
    pytest.skip(text)


def lacking() -> list[str]:
    """What this machine does not have for ring 3."""
    reasons = [f"it makes network namespaces; {HOW}"] if os.geteuid() else []
    if packages := missing_packages(PROGRAMS):
        reasons.append(f"packages are missing: apt-get install {' '.join(packages)}")
    return reasons + binaries.missing(TOOLS)


def building(names: list[str]) -> list[str]:
    """Build what is not here yet; why it did not work."""
    try:
        for name in names:
            binaries.find(name)
    except binaries.Missing as error:
        return [str(error)]
    return []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test waits until the programs are built."""
    if all(binaries.here(name) for name in (*TOOLS, CONTROLLERS)):
        return
    for item in items:
        if item.get_closest_marker("controlplane"):
            item.add_marker(pytest.mark.timeout(BUILD_S))


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """The control plane of all tests; without controllers where there is no program for them."""
    controllers = not binaries.missing((CONTROLLERS,))
    unless(lacking() or building([*TOOLS, *([CONTROLLERS] if controllers else [])]), "ring 3 needs more")
    with ControlPlane(tmp_path_factory.mktemp("control-plane"), controllers=controllers) as plane:
        yield plane


@pytest.fixture(scope="session")
def api(plane: ControlPlane) -> Api:
    """The API, as an administrator."""
    return plane.api("test")


@pytest.fixture(scope="session")
def controllers(plane: ControlPlane) -> None:
    """For tests of what controllers make and collect."""
    unless([] if plane.controllers else binaries.missing((CONTROLLERS,)), "Deployments need their controller")


@pytest.fixture(scope="session")
def runner(plane: ControlPlane) -> Iterator[PodRunner]:
    """A node for srcip's own Pods."""
    with PodRunner(plane) as runner:
        yield runner


@pytest.fixture(scope="session")
def release(plane: ControlPlane, api: Api, runner: PodRunner) -> Release:
    """The chart, installed and ready; certificates change within seconds when they are told to."""
    assert runner
    found = Release(plane, api, values=rotations.VALUES)
    found.install()
    return found


@pytest.fixture(scope="session")
def names() -> Iterator[int]:
    return count(1)


@pytest.fixture
def apps(release: Release, names: Iterator[int]) -> str:
    """A new namespace that is opted in."""
    return release.namespace_for(f"apps-{next(names)}")


@pytest.fixture
def others(release: Release, names: Iterator[int]) -> Callable[[dict[str, str]], str]:
    """Make a namespace with these labels."""
    return lambda labels: release.namespace_for(f"others-{next(names)}", labels)
