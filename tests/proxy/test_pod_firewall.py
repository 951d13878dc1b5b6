"""A firewall of the Pod's own that asks connection tracking: where probes are rewritten, it must accept `untracked`."""

import pytest

from srcip_proxy.plan import ProbeAlias
from support.rig import CLIENT4, OTHER4, PORT, RigFactory, plan, v2

pytestmark = pytest.mark.dataplane


@pytest.mark.parametrize(("states", "passes"), [("new, established", False), ("new, established, untracked", True)])
def test_it_must_accept_what_is_untracked(rigs: RigFactory, states: str, passes: bool) -> None:
    """As docs/dataplane.md says; the balancer's connections are delivered over lo."""
    rig = rigs(plan(probe_aliases=(ProbeAlias(15100, PORT),)))
    rules = f"iif lo accept\n ct state {{ {states} }} accept\n tcp dport {PORT} drop"
    table = f"table inet own {{ chain input {{ type filter hook input priority 0; {rules}\n }}\n}}"
    rig.lab.pod.run(["nft", "-f", "-"], input=table, check=True)
    try:
        if passes:
            assert rig.seen(b"x", host=rig.lab.other).peer[0] == OTHER4
            assert rig.seen(v2() + b"x").peer == CLIENT4
        else:
            with pytest.raises(TimeoutError):
                rig.connect(host=rig.lab.other, timeout_s=1)
    finally:
        rig.lab.pod.run(["nft", "delete", "table", "inet", "own"], check=True)
