"""Running Pods for the tests of ring 2."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from rig import ALL_PORTS, APP, Rig, RigFactory, needs_root, plan, start

from srcip_lab.lab import Lab
from srcip_proxy.plan import Plan


@pytest.fixture(scope="session")
def rigs() -> Iterator[RigFactory]:
    """Running Pods by plan; one that is asked for again is the same one."""
    needs_root()
    running: dict[object, Lab] = {}

    def rig(
        wanted: Plan | None = None, *, ipv6: bool = True, app: tuple[str, ...] = ALL_PORTS, program: Path = APP
    ) -> Rig:
        key = (wanted, ipv6, app, program)
        if key not in running:
            running[key] = start(wanted or plan(), app, ipv6=ipv6, program=program)
        return Rig(running[key])

    yield rig
    for lab in running.values():
        lab.down()


@pytest.fixture(scope="session")
def rig(rigs: RigFactory) -> Rig:
    """The Pod of most tests."""
    return rigs(plan())
