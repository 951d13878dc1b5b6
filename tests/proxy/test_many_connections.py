"""No table of a fixed size fills with new connections: none of many is refused, in each mode and delivery.

The whole of it, 100,000 at 2,000 a second, with the figures:
pytest -s --connections 100000 --rate 2000 -k many_connections tests/proxy tests/ebpf
"""

import subprocess

import pytest

from support import many
from support.rig import RigFactory, plan

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
        said = many.connected(rig.lab.lb, rig.pod_ip, *many.asked(pytestconfig))
    assert (said["done"], said["errors"]) == (many.asked(pytestconfig)[0], 0)


@pytest.mark.parametrize("deliver_to", ["loopback", "pod"])
def test_the_sidecars_ports_are_used_again_within_a_second(rigs: RigFactory, deliver_to: str) -> None:
    """Each connection to the application takes one; taken for a minute, 28,232 would last for 470 a second."""
    rig = rigs(plan(mode="redirect", deliver_to=deliver_to, max_connections=400))
    rig.lab.pod.run(["sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40299"], check=True)
    server = rig.lab.pod.popen([many.load(), "server", str(many.PORT)], stdout=subprocess.PIPE, text=True)
    with many.serving(server):
        said = many.connected(rig.lab.lb, rig.pod_ip, 900, 150)
    assert (said["done"], said["errors"]) == (900, 0)
