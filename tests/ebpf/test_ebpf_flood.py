"""A flood of half-open connections from inside the trusted networks: more than the programs have room for."""

import errno
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from support.ebpf_rig import ALL_PORTS, Pod, running, still_echoes
from support.packets import SYN
from support.raw_sender import Link, Sender, link, times
from support.rig import APP, POD4, POD6, Client, v1

pytestmark = pytest.mark.dataplane

ROOM = 8192
"""Of the maps `handshakes` and `syncookies`."""
SYNS = 3 * ROOM
BURST = 200
BACKLOG = {"requests": "65535", "SYN cookies": "128"}
"""What the kernel answers by, and how many requests the listener has room for then."""


def syns(made: Link, count: int) -> list[bytes]:
    """As many packets that begin a connection each, from addresses beside the balancer's."""
    chance = random.Random(11)  # noqa: S311

    def packet(number: int) -> bytes:
        isn, port = chance.getrandbits(32), 20000 + number // 240
        sender = Sender(made, f"10.77.1.{3 + number % 240}", POD4, port, isn, 1, seq=isn)
        return sender.framed(sender.segment(SYN, options=b"\2\4\5\xb4" + times(1, 0)))

    return [packet(number) for number in range(count)]


def flood(made: Link, packets: list[bytes]) -> None:
    """Send them a little slower than the kernel's queue between two namespaces empties."""
    for number, packet in enumerate(packets):
        while not sent(made, packet):
            time.sleep(0.004)
        if number % BURST == 0:
            time.sleep(0.004)


def sent(made: Link, packet: bytes) -> bool:
    """False where there is no room for it at the moment."""
    try:
        return made.sock.send(packet) > 0
    except OSError as error:
        if error.errno != errno.ENOBUFS:
            raise
        return False


@contextmanager
def handshakes_on_their_way(pod: Pod, count: int, others: tuple[Client, ...]) -> Iterator[list[Client]]:
    """Connections of which the Pod has heard the SYN alone, with their headers sent: behind a long way."""
    ports = ", ".join(str(client.sock.getsockname()[1]) for client in others)
    pod.sh("lb", "nft 'add table inet far; add chain inet far c { type filter hook output priority 0; }'")
    pod.sh("lb", f"nft 'add rule inet far c tcp dport 7000 tcp sport != {{ {ports} }} tcp flags & syn == 0 drop'")
    clients = [pod.connect(to=(POD4, POD6)[number % 2]) for number in range(count)]
    for number, client in enumerate(clients):
        client.send(v1(("198.51.100.60", 6000 + number)) + b"hello")
    yield clients
    for client in clients:
        client.reset()


@pytest.mark.parametrize("answers", BACKLOG)
def test_a_flood_of_syns_takes_nothing_from_anybody(answers: str) -> None:
    """Live connections, those of whose header a part is there, those whose handshake is on its way, and new ones: all
    show their clients while the table is full, and behind it."""
    with running() as pod:
        pod.stop()
        pod.sh("pod", f"sysctl -qw net.ipv4.tcp_syncookies=1 net.core.somaxconn={BACKLOG[answers]}")
        pod.start([sys.executable, str(APP), *ALL_PORTS])
        made = link(pod)
        packets = syns(made, SYNS)
        live, half = pod.connect(), pod.connect()
        live.send(v1())
        assert live.seen(quiet=0.02).peer
        half.send(v1(("198.51.100.61", 1))[:20])
        flood(made, packets[:1000])
        with handshakes_on_their_way(pod, 10, (live, half)) as clients:
            flood(made, packets[1000:])
            assert still_echoes(live, b"alive")
            pod.sh("lb", "nft delete table inet far")
            assert pod.seen(v1(("198.51.100.62", 2))).peer == ("198.51.100.62", 2)
            half.send(v1(("198.51.100.61", 1))[20:])
            assert half.seen(quiet=0.02).peer == ("198.51.100.61", 1)
            seen = [client.seen(rest=5, quiet=0.02) for client in clients]
        assert [(one.peer, one.rest) for one in seen] == [
            (("198.51.100.60", 6000 + number), b"hello") for number in range(10)
        ]
        sent = int(pod.sh("pod", "nstat -asz TcpExtSyncookiesSent | tail -1").split()[1])
        assert (sent > 2 * ROOM) == (answers == "SYN cookies"), sent
        assert (pod.half_open() > 2 * ROOM) == (answers == "requests")
        assert pod.stats()["accepted proxy"] == 13
        assert not [name for name in pod.stats() if name.startswith(("refused", "fallback"))]
