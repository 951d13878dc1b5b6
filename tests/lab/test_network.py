"""The four namespaces of a lab."""

import os

import pytest

from srcip_lab import network
from srcip_lab.errors import LabError

pytestmark = pytest.mark.dataplane


@pytest.fixture
def built(request):
    wanted = network.network(f"net-{os.getpid()}", ipv6=getattr(request, "param", True))
    network.create(wanted)
    yield wanted
    network.delete(network.existing(wanted))
    assert network.existing(wanted) == ()


def test_every_host_reaches_the_pod_with_its_own_address_at_once(built):
    """At once: no first packet waits for duplicate address detection."""
    hosts = (built.pod, built.lb, built.other, built.node)
    tentative = ["ip", "-6", "address", "show", "tentative", "scope", "global"]
    assert [host.run(tentative, capture_output=True).stdout for host in hosts] == [""] * 4
    with built.pod.listen(8080, "::") as server:
        for host in (built.lb, built.other, built.node):
            for address in built.pod.ips:
                with host.connect(address, 8080), server.accept()[0] as accepted:
                    assert accepted.getpeername()[0].removeprefix("::ffff:") in host.ips


@pytest.mark.parametrize("built", [False], indirect=True)
def test_a_lab_without_ipv6_has_none_anywhere(built):
    assert all(":" not in ip for host in built.hosts() for ip in host.ips)
    assert built.pod.run(["ip", "-6", "address"], capture_output=True).stdout == ""


def test_a_namespace_that_is_there_already_is_not_taken_over(built):
    with pytest.raises(LabError, match=f"{built.node.netns}: exists already"):
        network.create(built)
    assert built.pod.run(["ip", "address", "show", "eth0"], capture_output=True).returncode == 0


def test_a_namespace_that_is_gone_is_named():
    with pytest.raises(LabError, match="srcip-none-pod: it does not exist"):
        network.network("none").pod.connect("127.0.0.1", 1)
