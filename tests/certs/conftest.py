"""A control plane for the tests against a real API server."""

import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from srcip_e2e.cluster import binaries
from srcip_e2e.cluster.controlplane import NEEDED, ControlPlane
from support.replicas import Installation

HOW = "run it as root: sudo make test"


def unless(reasons: list[str], what: str) -> None:
    """Skip with the reasons, if there are any; in CI that is a failure."""
    if reasons:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{what}: {'; '.join(reasons)}")


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """etcd and kube-apiserver, without controllers."""
    reasons = [f"it makes network namespaces; {HOW}"] if os.geteuid() else []
    unless(reasons + binaries.missing(NEEDED), "a real API server")
    with ControlPlane(tmp_path_factory.mktemp("plane"), controllers=False) as plane:
        yield plane


@pytest.fixture(scope="session")
def numbers() -> Iterator[int]:
    return count(1)


@pytest.fixture
def install(plane: ControlPlane, tmp_path: Path, numbers: Iterator[int]) -> Iterator[Callable[[], Installation]]:
    """Makes installations, and ends them after the test."""
    made: list[Installation] = []

    def install() -> Installation:
        made.append(Installation(plane, tmp_path, f"certs-{next(numbers)}"))
        return made[-1]

    yield install
    for each in made:
        each.end()


@pytest.fixture
def site(install: Callable[[], Installation]) -> Installation:
    """An installation whose processes are not started yet."""
    return install()


@pytest.fixture(scope="session")
def faketime() -> Path:
    """The library that makes a process believe another time."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    unless([] if found else ["apt-get install libfaketime"], "a clock that jumps")
    return found[0]
