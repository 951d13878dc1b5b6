"""In ebpf mode, too, each client of each listener is shown as docs/addresses.md says, or refused."""

import pytest

from support.addresses import APPS, REFUSED, Row, facts
from support.ebpf_rig import Pod, Pods
from support.rig import CLIENT4, CLIENT6, v2

pytestmark = pytest.mark.dataplane


def peer_of(pod: Pod, row: Row) -> str:
    try:
        client = pod.connect(row.port, to=row.to)
    except ConnectionRefusedError:
        return REFUSED
    with client:
        client.send(v2(CLIENT4 if row.client == 4 else CLIENT6) + b"x")
        seen = client.seen()
    return row.word(seen.peer[0]) if seen.peer else REFUSED if seen.refused else f"nothing, and {seen.end}"


@pytest.mark.parametrize("client_address", ["best-effort", "ip", "exact"])
def test_ebpf_mode(pods: Pods, client_address: str) -> None:
    pod = pods(app=APPS, client_address=client_address)
    assert facts(lambda row: peer_of(pod, row)) == facts(lambda row: row.expected("ebpf", "", client_address))
