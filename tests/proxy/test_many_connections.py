"""No table of a fixed size fills with new connections: none of many is refused, in each mode and delivery.

The whole of it, 100,000 at 2,000 a second, with the figures:
pytest -s --connections 100000 --rate 2000 -k many_connections tests/proxy tests/ebpf
"""

import subprocess

import many
import pytest
from rig import RigFactory, plan

pytestmark = pytest.mark.dataplane

WAYS = {
    "tproxy, auto": {},
    "tproxy, pod": {"deliver_to": "pod"},
    "tproxy, loopback": {"deliver_to": "loopback"},
    "redirect": {"mode": "redirect"},
    "redirect, pod": {"mode": "redirect", "deliver_to": "pod"},
}


@pytest.mark.parametrize("way", WAYS)
def test_many_connections_pass(rigs: RigFactory, way: str, pytestconfig: pytest.Config) -> None:
    rig = rigs(plan(**WAYS[way]))
    server = rig.lab.pod.popen([many.load(), "server", str(many.PORT)], stdout=subprocess.PIPE, text=True)
    with many.serving(server):
        said = many.connected(rig.lab.lb, rig.pod_ip, pytestconfig)
    assert (said["done"], said["errors"]) == (pytestconfig.getoption("--connections"), 0)
