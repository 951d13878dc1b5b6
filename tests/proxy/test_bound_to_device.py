"""An application that binds its sockets to a device (SO_BINDTODEVICE): nothing leaves the Pod for a client that never
connected to it, not even a question for its address."""

import ipaddress
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from test_undelivered import is_told, told

from support.rig import CLIENT4, CLIENT6, LOCAL, OTHER4, OTHER6, POD4, POD6, PORT, Rig, RigFactory, plan, v2
from support.waiting import AT_ONCE_S

pytestmark = pytest.mark.dataplane

ETH_P_ALL = 3
CLIENTS = {4: CLIENT4, 6: CLIENT6}
PODS = {4: POD4, 6: POD6}


@contextmanager
def nothing_leaves(rig: Rig, client: str) -> Iterator[None]:
    """Fails where a frame leaves the Pod that names `client`: a packet for it, or a question for its address."""
    named = ipaddress.ip_address(client).packed
    named = named[-3:] if len(named) == 16 else named  # who asks for an IPv6 address asks a group of these 24 bits
    with rig.lab.pod.call(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)) as wire:
        wire.bind(("eth0", ETH_P_ALL))
        yield
        time.sleep(0.2)
        wire.settimeout(0.01)
        left = []
        while True:
            try:
                frame, about = wire.recvfrom(65536)
            except TimeoutError:
                break
            if about[2] == socket.PACKET_OUTGOING and named in frame:
                left.append(frame.hex())
    assert left == []


@pytest.mark.parametrize("deliver_to", ["auto", "loopback", "pod"])
@pytest.mark.parametrize(("listener", "version"), [("DEVICE", 4), ("DEVICE6", 6), ("DEVICE6", 4)])
def test_a_listener_that_is_bound_to_a_device_refuses_at_once(
    rigs: RigFactory, listener: str, version: int, deliver_to: str
) -> None:
    """It takes what comes in by that device alone; others still reach it."""
    rig = rigs(plan(deliver_to=deliver_to), app=(listener, str(PORT)))
    client, pod = CLIENTS[version], PODS[version]
    for header in (v2(client), v2((client[0], 0)), LOCAL):
        before, began = told(rig), time.monotonic()
        with nothing_leaves(rig, client[0]):
            assert rig.seen(header + b"hello", to=pod).refused
        assert time.monotonic() - began < AT_ONCE_S
        assert is_told(rig, before)
    seen = rig.seen(b"x", to=pod, host=rig.lab.other)
    assert seen.peer and seen.peer[0] in (OTHER4, OTHER6)


@pytest.mark.parametrize("deliver_to", ["loopback", "pod"])
@pytest.mark.parametrize("version", [4, 6])
def test_a_connection_that_is_bound_to_a_device_sends_nothing_out(
    rigs: RigFactory, version: int, deliver_to: str
) -> None:
    """The application does so with one that it has accepted."""
    rig = rigs(plan(deliver_to=deliver_to), app=("::", "7004"))
    client = (CLIENTS[version][0], 50505)
    with nothing_leaves(rig, client[0]), rig.connect(7004, to=PODS[version]) as connection:
        connection.send(v2(client) + b"hello")
        connection.seen(rest=5, timeout=1)
