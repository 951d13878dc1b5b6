"""A node for the agent."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.agent_rig import Site, site
from support.ebpf_rig import needs_root
from support.exporter_rig import node


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Site]:
    """A node without Pods and without an agent."""
    needs_root()
    with node(tmp_path / "pods") as made, site(made, tmp_path) as agents:
        yield agents
