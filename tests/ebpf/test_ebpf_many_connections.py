"""No map of a fixed size fills with new connections: none of many is refused (tests/proxy/test_many_connections.py)."""

import subprocess

import pytest

from support import many
from support.ebpf_rig import running

pytestmark = pytest.mark.dataplane


def test_many_connections_pass(pytestconfig: pytest.Config) -> None:
    with running() as pod:
        server = pod.inside([many.load(), "server", str(many.PORT)], stdout=subprocess.PIPE, text=True)
        with many.serving(server):
            said = many.connected(pod.net.lb, pod.net.pod.ipv4, *many.asked(pytestconfig))
        assert (said["done"], said["errors"]) == (many.asked(pytestconfig)[0], 0), pod.stats()
