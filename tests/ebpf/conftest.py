"""Pods for the tests of ebpf mode, one for each plan, kept while a module's tests run."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from srcip_lab import bpf
from srcip_proxy.ebpf import libbpf
from support.ebpf_rig import ALL_PORTS, Pod, Pods, needs_root, running
from support.exporter_rig import Exporter, Node, exporter, node


@pytest.fixture(scope="module")
def pods() -> Iterator[Pods]:
    """A running Pod for a plan that differs in `changes`; the same one for the same changes."""
    made: dict[str, Pod] = {}
    with ExitStack() as stack:

        def get(app: tuple[str, ...] = ALL_PORTS, **changes: object) -> Pod:
            key = repr((app, sorted(changes.items())))
            if key not in made:
                made[key] = stack.enter_context(running(app, **changes))
            return made[key]

        yield get


@pytest.fixture
def pod(pods: Pods) -> Pod:
    """The Pod of most tests."""
    return pods()


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Node]:
    """A node for the exporter, without Pods."""
    needs_root()
    with node(tmp_path / "pods") as made:
        yield made


@pytest.fixture
def served(here: Node) -> Iterator[Exporter]:
    """The exporter of this node."""
    with exporter(here.root, here.logs) as running:
        yield running


@pytest.fixture
def loaded() -> Iterator[libbpf.Object]:
    """The programs, loaded and attached to nothing."""
    programs = libbpf.Object(bpf.compiled())
    programs.resize("conns", 1)
    programs.load()
    yield programs
    programs.close()
