"""Running Pods for the tests of ring 2."""

import os
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest

from srcip_e2e import images
from srcip_e2e.images import buildah
from srcip_lab import places
from srcip_lab.lab import Lab
from srcip_proxy.plan import Plan
from support.outbound_command_rig import Pods
from support.outbound_servers import HTTP, Leave, Outward, Server, outbound, servers
from support.rig import ALL_PORTS, APP, HTTP_APP, Rig, RigFactory, needs_root, plan, start

AT_A_TIME = 8
"""How many Pods end at once."""


@cache
def shipped() -> str:
    """The root file system of the image that ships."""
    return str(images.unpacked("proxy"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Ring 2 runs on what ships, where that can be built; else on the lab's root file system of the same packages. The
    tests of other folders have their own."""
    real = item.get_closest_marker("dataplane") and os.geteuid() == 0 and not buildah.missing()
    with pytest.MonkeyPatch.context() as patch:
        if real and places.ROOTFS not in os.environ:
            patch.setenv(places.ROOTFS, shipped())
        return (yield)


@pytest.fixture(scope="session")
def rigs() -> Iterator[RigFactory]:
    """Running Pods by plan; one that is asked for again is the same one."""
    needs_root()
    running: dict[object, Lab] = {}

    def rig(
        wanted: Plan | None = None,
        *,
        ipv6: bool = True,
        app: tuple[str, ...] = ALL_PORTS,
        program: Path = APP,
        own_times: bool = False,
    ) -> Rig:
        key = (wanted, ipv6, app, program, own_times)
        if key not in running:
            running[key] = start(wanted or plan(), app, ipv6=ipv6, program=program, own_times=own_times)
        return Rig(running[key])

    yield rig
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        list(pool.map(Lab.down, running.values()))


@pytest.fixture(scope="session")
def rig(rigs: RigFactory) -> Rig:
    """The Pod of most tests."""
    return rigs(plan())


@pytest.fixture(scope="session")
def leave(rigs: RigFactory) -> Iterator[Leave]:
    """Running Pods with outgoing requests, and servers outside; the Pod's own application listens on 8000, too."""
    running: dict[str, list[Server]] = {}

    def rig(*, ipv6: bool = True, own_times: bool = False, **changes: object) -> Outward:
        wanted = outbound(**changes)
        found = rigs(wanted, ipv6=ipv6, app=("::", str(HTTP)), program=HTTP_APP, own_times=own_times)
        if found.lab.name not in running:
            running[found.lab.name] = servers(found)
        return Outward(found)

    yield rig
    for server in (server for each in running.values() for server in each):
        server.stop()


@pytest.fixture
def pods() -> Iterator[Pods]:
    """Starts Pods, and ends them."""
    started = Pods()
    yield started
    started.end()
