"""How the programs begin and how an entry ends: nothing half attached acts, and nothing is remembered too long."""

import json
import platform
import subprocess
import sys

import pytest

from support.ebpf_rig import LB4_ADDRESS, Pod, object_options, objects, running
from support.packets import ACK, PSH, RST, SYN, Forger
from support.rig import CLIENT4, POD4, POD6, Client, v1, v2
from support.waiting import DEADLINE_S, until

pytestmark = pytest.mark.dataplane

TIMESTAMP_AND_SACK = b"\4\2\x08\n" + b"\0\0\0\1" + b"\0\0\0\0"
"""SACK is permitted, and there is a timestamp, as Linux has them in this order."""
TIMESTAMP = b"\1\1\x08\n" + b"\0\0\0\2"


def entries(pod: Pod) -> int:
    """How many connections the programs remember."""
    shown = [json.loads(pod.sh("pod", f"bpftool -j prog show id {number}")) for number in pod.programs()]
    for number in {n for program in shown for n in program["map_ids"]}:
        if json.loads(pod.sh("pod", f"bpftool -j map show id {number}"))["name"] == "conns":
            return len(json.loads(pod.sh("pod", f"bpftool -j map dump id {number}")))
    raise AssertionError("no map of connections")


@pytest.mark.parametrize("to", [POD4, POD6])
def test_an_entry_ends_with_its_connection(to: str) -> None:
    """Where the client closes first nothing is left to be done for it, and the table is as empty as before."""
    with running() as pod:
        for number in range(3):
            with pod.connect(to=to) as client:
                client.send(v2() + b"x")
                assert client.seen(rest=1, quiet=0.02).peer == CLIENT4
                assert entries(pod) == 1, f"of connection {number}"
                client.finish()
                assert client.end().end == "end"
            until(lambda: entries(pod) == 0)


def test_a_connection_half_closed_keeps_its_entry(pod: Pod) -> None:
    """The application goes on sending long after the client's end; acknowledgements must stay right."""
    text = b"x" * 300_000
    with pod.connect() as client:
        client.send(v1() + text)
        client.finish()
        seen = client.end(rest=len(text))
        assert (seen.peer, seen.rest, seen.end) == (CLIENT4, text + b"<end>", "end")


ATTACH_AND_DIE = """
import os, sys
from pathlib import Path
from srcip_proxy.ebpf import attach, libbpf
libbpf.Object.put = lambda *_: os._exit(9)
from srcip_proxy.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize("hook", ["auto", "clsact"])
def test_an_attach_that_is_killed_harms_nobody(hook: str) -> None:
    """Programs without their last entry do nothing: the connection is native, and the next attach works beside them."""
    with running(attached=False) as pod:
        words = ["ebpf", "attach", "--cgroup", str(pod.cgroup), *object_options(objects()), "--hook", hook]
        killed = pod.run([sys.executable, "-c", ATTACH_AND_DIE, *words], SRCIP_PLAN=pod.wanted.to_env())
        assert killed.returncode == 9, killed.stderr
        assert len(pod.programs()) == 4
        assert pod.proxy("ebpf", "stats").returncode == 1
        assert pod.seen(v1()).rest == v1()
        assert pod.attach("--hook", hook).returncode == 0
        for number in range(5):
            assert pod.seen(v1(("203.0.113.8", 1 + number))).peer == ("203.0.113.8", 1 + number)
        assert pod.stats() == {"accepted proxy": 5}


def test_the_header_is_not_reported_as_data_that_came_twice(pod: Pod) -> None:
    """TCP would say so in a D-SACK, which sends the balancer through its slow path: NOPs stand in its place. Before
    Linux 6.1 the programs copy headers, and leave it."""
    if tuple(map(int, platform.release().split(".")[:2])) < (6, 1):
        pytest.skip(f"Linux {platform.release()} takes no object that looks into packets")
    pod.sh("lb", "nft 'add table ip t; add chain ip t c { type filter hook output priority 0; }'")
    pod.sh("lb", "nft add rule ip t c tcp dport 7000 tcp flags rst drop")
    header, isn = v1(), 1000
    with Forger(pod.net.lb, (LB4_ADDRESS, 40410), (POD4, 7000)) as sender:
        sender.send(SYN, options=TIMESTAMP_AND_SACK, seq=isn, ack=0)
        iss, _, _ = sender.receive()
        echo = TIMESTAMP + sender.options[sender.options.index(b"\x08\n") + 2 :][:4]
        sender.send(PSH | ACK, header + b"abc", seq=isn + 1, ack=iss + 1, options=echo)
        while sender.receive()[1] != isn + 1 + len(header) + 3:
            assert b"\5\n" not in sender.options
        assert sender.options[12:] in (b"", b"\1" * 12)
        pod.sh("lb", "nft delete table ip t")
        sender.send(RST, seq=isn + 1 + len(header) + 3, ack=0)


CROSSING = """
import socket
with socket.socket() as connection:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    connection.bind(("0.0.0.0", 7061))
    connection.settimeout(60)
    print("begins", flush=True)
    try:
        connection.connect(("10.77.1.2", 40420))
        print("connected", flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
"""


def test_connections_that_both_sides_open_at_once_are_refused(pod: Pod) -> None:
    """Nobody accepts such a connection, so nobody could be told its client: both ends learn at once that it is none."""
    pod.sh("lb", "nft 'add table ip t; add chain ip t c { type filter hook output priority 0; }'")
    pod.sh("lb", "nft add rule ip t c tcp dport 7061 tcp flags rst drop")  # the sender's kernel knows nothing of it
    with Forger(pod.net.lb, (LB4_ADDRESS, 40420), (POD4, 7061)) as sender:
        process = pod.inside([sys.executable, "-c", CROSSING], stdout=subprocess.PIPE)
        iss, _, flags = sender.receive()
        assert flags == SYN
        sender.send(SYN, seq=1000, ack=0)
        seq, ack, flags = sender.receive()
        assert (seq, ack, flags) == (iss + 1, 1001, RST | ACK)
        sender.send(SYN | ACK, seq=1000, ack=iss + 1)
        said, _ = process.communicate(timeout=DEADLINE_S)
    pod.sh("lb", "nft delete table ip t")
    assert said.split() in (["begins", "ConnectionResetError"], ["begins", "ConnectionRefusedError"])
    assert pod.stats()["refused simultaneous_open"] == 1


def test_a_full_table_is_not_looked_through_while_connections_end() -> None:
    """Twice as many short connections as there is room for: none is refused."""
    with running(max_connections=8) as pod:
        for number in range(1, 21):
            with Client(pod.net.lb.connect(POD4, 7000)) as client:
                client.send(v1(("203.0.113.9", number)))
                client.finish()
                assert client.seen().peer == ("203.0.113.9", number)
        assert pod.stats() == {"accepted proxy": 20}
