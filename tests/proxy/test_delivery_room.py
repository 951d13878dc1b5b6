"""Delivery to the Pod's own address remembers a connection for as long as it goes on, and not for longer."""

import re
import time

import pytest
from rig import CLIENT6, POD4, POD6, Rig, RigFactory, plan, v1

pytestmark = pytest.mark.dataplane

CLIENTS = {POD4: "203.0.113.41", POD6: CLIENT6[0]}


def rig_of(rigs: RigFactory) -> Rig:
    return rigs(plan(deliver_to="pod", drain_timeout_s=6), app=("::", "7000", "::", "7001", "::", "7002", "::", "7003"))


OPEN = ("delivered", "ended_by_client", "ended_by_application")


def remembered(rig: Rig, name: str, client: str) -> int:
    """How many connections of `client` are in the set `name`."""
    version = 6 if ":" in client else 4
    listed = rig.lab.pod.run(["nft", "list", "set", "inet", "srcip", f"{name}{version}"], stdout=-1, check=True).stdout
    return len(re.findall(rf"{re.escape(client)} \. \d+ \. \d+", listed))


@pytest.mark.parametrize("to", CLIENTS)
@pytest.mark.parametrize("port", [7001, 7002, 7003])
def test_an_ended_connection_is_forgotten(rigs: RigFactory, port: int, to: str) -> None:
    """Whichever side ends first, and whether the other one goes on for a while."""
    rig, client = rig_of(rigs), CLIENTS[to]
    for number in range(20):
        with rig.connect(port, to=to) as connection:
            connection.send(v1((client, 40000 + 100 * (port - 7000) + number)))
            assert connection.seen(quiet=0.001).peer[0] == client
            connection.finish()
            connection.sock.setblocking(True)
            assert connection.sock.recv(1) == b""
    time.sleep(0.3)
    assert [remembered(rig, name, client) for name in ("delivered", "ended_by_client", "ended_by_application")] == [
        0
    ] * 3
    assert remembered(rig, "over", client) >= 20, "for ten seconds"


@pytest.mark.parametrize("to", CLIENTS)
def test_a_connection_that_is_reset_is_forgotten(rigs: RigFactory, to: str) -> None:
    rig, client = rig_of(rigs), CLIENTS[to]
    for number in range(10):
        connection = rig.connect(to=to)
        connection.send(v1((client, 41000 + number)))
        assert connection.seen(quiet=0.001).peer[0] == client
        connection.reset()
    time.sleep(0.3)
    assert [remembered(rig, name, client) for name in ("delivered", "ended_by_client", "ended_by_application")] == [
        0
    ] * 3


@pytest.mark.parametrize("to", CLIENTS)
def test_the_application_may_go_on_after_the_client_has_ended(rigs: RigFactory, to: str) -> None:
    """A half that is open stays open, and its packets find their way after longer than an ended connection has."""
    rig, client = rig_of(rigs), "203.0.113.43" if to == POD4 else "2001:db8::43"
    with rig.connect(7002, to=to) as connection:
        connection.send(v1((client, 42000)))
        assert connection.seen(quiet=0.001).peer == (client, 42000)
        time.sleep(11)
        assert remembered(rig, "delivered", client) == 1
        connection.send(b"x" * 100)
        connection.finish()
        time.sleep(0.3)
        assert "received 100" in rig.lab.log("app")
        assert remembered(rig, "delivered", client) == 0
