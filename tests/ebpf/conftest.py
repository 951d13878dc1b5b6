"""Pods for the tests of ebpf mode, one for each plan, kept while a module's tests run."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from ebpf_rig import ALL_PORTS, Pod, Pods, running


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
