"""A client that comes again with the same address and port is seen with them again."""

import pytest

from support.rig import CLIENT4, CLIENT6, RigFactory, plan, v1, v2

pytestmark = pytest.mark.dataplane


@pytest.mark.parametrize("client", [CLIENT4, CLIENT6])
@pytest.mark.parametrize("header", [v1, v2])
@pytest.mark.parametrize("deliver_to", ["auto", "loopback", "pod"])
def test_the_same_client_may_come_again_at_once(rigs: RigFactory, deliver_to: str, header, client) -> None:
    """Closed by the client, its last connection is still in TIME_WAIT between the sidecar and the application; with a
    port that is bound and timestamps the kernel lets a new one take its place."""
    rig = rigs(plan(deliver_to=deliver_to, drain_timeout_s=4), app=("::", "7003"))
    for _ in range(40):
        with rig.connect(7003) as one:
            one.send(header(client))
            assert one.seen(quiet=0.001).peer == client
            one.sock.setblocking(True)
            one.finish()
            assert one.sock.recv(100) == b""
