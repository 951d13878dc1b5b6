"""Delivery to the Pod's own address remembers a connection for as long as it goes on, and not for longer."""

import re
import time

import pytest

from srcip_proxy.netfilter.delivery import MOST_CONNECTIONS
from srcip_proxy.plan import Plan
from support.rig import CLIENT6, POD4, POD6, Rig, RigFactory, plan, v1
from support.waiting import AT_ONCE_S, until

pytestmark = pytest.mark.dataplane

UNDELIVERED = 'srcip_refused_connections_total{reason="undelivered"}'
CLIENTS = {POD4: "203.0.113.41", POD6: CLIENT6[0]}


def rig_of(rigs: RigFactory) -> Rig:
    return rigs(plan(deliver_to="pod", drain_timeout_s=6), app=("::", "7000", "::", "7001", "::", "7002", "::", "7003"))


OPEN = ("delivered", "ended_by_client", "ended_by_application")


def remembered(rig: Rig, name: str, client: str) -> int:
    """How many connections of `client` are in the set `name`."""
    version = 6 if ":" in client else 4
    listed = rig.lab.pod.run(["nft", "list", "set", "inet", "srcip", f"{name}{version}"], stdout=-1, check=True).stdout
    return len(re.findall(rf"{re.escape(client)} \. \d+ \. \d+", listed))


def forgotten(rig: Rig, client: str) -> None:
    """Wait until no connection of `client` is remembered as one that goes on."""
    until(lambda: not any(remembered(rig, name, client) for name in OPEN))


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
    forgotten(rig, client)
    assert remembered(rig, "over", client) >= 20, "for ten seconds"


@pytest.mark.parametrize("to", CLIENTS)
def test_a_connection_that_is_reset_is_forgotten(rigs: RigFactory, to: str) -> None:
    rig, client = rig_of(rigs), CLIENTS[to]
    for number in range(10):
        connection = rig.connect(to=to)
        connection.send(v1((client, 41000 + number)))
        assert connection.seen(quiet=0.001).peer[0] == client
        connection.reset()
    forgotten(rig, client)


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
        until(lambda: "received 100" in rig.lab.log("app"))
        until(lambda: remembered(rig, "delivered", client) == 0)


def test_a_set_has_more_room_than_a_pod_can_have_connections() -> None:
    """Of each IP version; so only entries that outlive their connections could fill one."""
    assert Plan.__dataclass_fields__["max_connections"].metadata["kind"].high < MOST_CONNECTIONS


def expiry(rig: Rig, client: str) -> list[str]:
    """When the kernel forgets the connections of `client`, as nft prints it."""
    listed = rig.lab.pod.run(["nft", "list", "set", "inet", "srcip", "delivered4"], stdout=-1, check=True).stdout
    return re.findall(rf"{re.escape(client)} \. \d+ \. \d+ (?:timeout \S+ )?expires (\w+)", listed)


def test_a_connection_that_is_never_answered_is_forgotten_soon(rigs: RigFactory) -> None:
    """The queue of the application is full: an attempt has its entry for seconds, a connection for days."""
    rig = rigs(plan(deliver_to="pod"), app=("DEAF", "7000"))
    held = [rig.connect() for _ in range(6)]
    for number, client in enumerate(held):
        client.send(v1((f"203.0.113.{100 + number}", 3000)) + b"x")
    kept: dict[int, list[str]] = {}
    until(lambda: kept.update({n: expiry(rig, f"203.0.113.{100 + n}") for n in range(6)}) or all(kept.values()))
    unanswered = rig.lab.pod.run(["ss", "-Htn4", "state", "syn-sent"], stdout=-1, check=True).stdout
    for client in held:
        client.reset()
    waiting = [n for n in kept if f"203.0.113.{100 + n}:" in unanswered]
    assert 0 < len(waiting) < 6
    for number, when in kept.items():
        assert ["d" in each for each in when] == [number not in waiting], kept


def test_a_full_set_refuses_at_once_and_is_told(rigs: RigFactory) -> None:
    """The client gets a RST, there is a count and a line, and the kernel's own counter says which it was."""
    rig = rigs(plan(deliver_to="pod", max_connections=500))
    table = rig.lab.pod.run(["nft", "list", "table", "inet", "srcip"], stdout=-1, check=True).stdout
    small = table.replace(f"size {MOST_CONNECTIONS}", "size 8")
    assert small != table
    rig.lab.pod.run(["nft", "-f", "-"], input=f"delete table inet srcip\n{small}", check=True)
    before, held = rig.metric(UNDELIVERED), []
    for number in range(8):
        held.append(rig.connect())
        held[-1].send(v1(("203.0.113.44", 43000 + number)))
        assert held[-1].seen(quiet=0.001).peer == ("203.0.113.44", 43000 + number)
    began = time.monotonic()
    assert rig.seen(v1(("203.0.113.44", 43100)) + b"hello").refused
    assert time.monotonic() - began < AT_ONCE_S
    assert rig.metric(UNDELIVERED) == before + 1
    rig.waited("did not reach the application, though a socket listens there; reason=undelivered")
    counted = rig.lab.pod.run(["nft", "list", "chain", "inet", "srcip", "begin4"], stdout=-1, check=True).stdout
    assert int(re.findall(r"counter packets (\d+)", counted)[0]) > 0
    for client in held:
        client.reset()
    forgotten(rig, "203.0.113.44")
    assert rig.seen(v1(("203.0.113.44", 43200))).peer == ("203.0.113.44", 43200), "there is room again"
