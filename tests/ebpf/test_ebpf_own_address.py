"""A Pod that is its own client by way of the balancer, and clients at the edges of the Pod's network."""

import pytest

from support.ebpf_rig import Pods
from support.rig import POD4, POD6, v1, v2

pytestmark = pytest.mark.dataplane

NETWORK, BROADCAST = "10.77.3.0", "10.77.3.255"
"""The first and the last address of the Pod's network. Nodes of flannel's have such ones (flannel.1), and they are
clients behind a network that is wider than the Pod's interface says."""


@pytest.mark.parametrize("client_address", ["best-effort", "ip", "exact"])
@pytest.mark.parametrize("address", [POD4, POD6, NETWORK, BROADCAST])
def test_the_pods_own_address_and_its_networks_edges_are_shown(pods: Pods, client_address: str, address: str) -> None:
    """getpeername() only names it and no packet bears it, so that it is exact whatever the policy is."""
    pod = pods(client_address=client_address)
    before = pod.stats().get("accepted proxy", 0)
    client = (address, 40123)
    for header in (v1(client), v2(client)):
        for to in (POD4, POD6):
            assert pod.seen(header, to=to).peer == client
    assert pod.stats() == {"accepted proxy": before + 4}
