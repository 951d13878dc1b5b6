"""Real helm for the tests of the chart; they need no cluster."""

import os
from pathlib import Path

import pytest

from srcip_e2e.cluster import binaries
from support.rendering import Helm


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Only the tests themselves are timed: the first one may wait for helm to be built."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(60, func_only=True))


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    try:
        return Helm(binaries.find("helm"), tmp_path_factory.mktemp("helm"))
    except binaries.Missing as missing:
        if os.environ.get("CI"):
            pytest.fail(str(missing))
        pytest.skip(f"the chart is rendered by real helm: {missing}")
