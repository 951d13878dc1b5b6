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
"""Of the maps `handshakes` and `syncookies`; of a SYN cookie there are two entries."""
BURST = 200
PATIENCE_S = 900
"""The kernels send again after 1, 2, 4 … s, so how long a connection waits depends on how long the flood took."""
LONG_FLOOD_S = 7
"""Until the kernel's third SYN-ACK; what this proves, it proves for floods of less time."""
COOKIE_AGE_S = 60
"""At least so long a SYN cookie is valid (TCP_SYNCOOKIE_PERIOD of the kernel)."""


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
    """Connections whose SYN alone has reached the Pod: the ACK of each handshake is lost."""
    ports = ", ".join(str(client.sock.getsockname()[1]) for client in others)
    pod.sh("lb", "nft 'add table inet far; add chain inet far c { type filter hook output priority 0; }'")
    pod.sh("lb", f"nft 'add rule inet far c tcp dport 7000 tcp sport != {{ {ports} }} tcp flags & syn == 0 drop'")
    clients = [pod.connect(to=(POD4, POD6)[number % 2]) for number in range(count)]
    yield clients
    for client in clients:
        client.reset()


@contextmanager
def flooded(backlog: int) -> Iterator[tuple[Pod, Link, Client]]:
    """A Pod with an established connection, whose listener has room for `backlog` requests. No header is ever late."""
    with running() as pod:
        pod.wait_for_headers_for_ever()
        pod.stop()
        pod.sh("pod", f"sysctl -qw net.ipv4.tcp_syncookies=1 net.core.somaxconn={backlog}")
        pod.sh("pod", "sysctl -qw net.ipv4.tcp_synack_retries=20")
        pod.start([sys.executable, str(APP), *ALL_PORTS])
        with pod.connect() as established:
            established.send(v1())
            assert established.seen(timeout=60, quiet=0.02).peer
            yield pod, link(pod), established
            assert still_echoes(established, b"alive")
            assert not [name for name in pod.stats() if name.startswith(("refused", "fallback"))]


def serve(pod: Pod, clients: list[Client]) -> None:
    """These connections and a new one get through, and each shows its client."""
    pod.sh("lb", "nft delete table inet far")
    clients = [*clients, pod.connect()]
    for number, client in enumerate(clients):
        client.send(v1(("198.51.100.60", 6000 + number)) + b"hello")
    seen = [client.seen(rest=5, timeout=PATIENCE_S, quiet=0.02) for client in clients]
    assert [(one.peer, one.rest) for one in seen] == [
        (("198.51.100.60", 6000 + number), b"hello") for number in range(len(clients))
    ]


@pytest.mark.timeout(2 * PATIENCE_S)
def test_a_flood_of_requests_takes_nothing_from_anybody() -> None:
    """An established connection, one whose header has arrived in part, ten whose ACK was lost, and a new one: all show
    their clients after three times as many requests as there is room for.

    A handshake whose entry was evicted is served after the Pod's next SYN-ACK, which the kernel's timer sends. Where
    the flood itself takes long, handshakes whose ACK was lost are reset (docs/ebpf.md): nothing is proved, and it is
    skipped.
    """
    with flooded(backlog=65535) as (pod, made, established), pod.connect() as half:
        packets = syns(made, 3 * ROOM)
        half.send(v1(("198.51.100.61", 1))[:20])
        flood(made, packets[:1000])
        with handshakes_on_their_way(pod, 10, (established, half)) as clients:
            started = time.monotonic()
            flood(made, packets[1000:])
            if time.monotonic() - started > LONG_FLOOD_S:
                pytest.skip("the flood takes this machine too long")
            half.send(v1(("198.51.100.61", 1))[20:])
            assert half.seen(timeout=PATIENCE_S, quiet=0.02).peer == ("198.51.100.61", 1)
            serve(pod, clients)
        assert pod.half_open() > 2 * ROOM
        assert pod.stats()["accepted proxy"] == 13


@pytest.mark.timeout(2 * PATIENCE_S)
def test_a_flood_that_syn_cookies_answer_takes_nothing_from_anybody() -> None:
    """The same for handshakes by SYN cookie, after twice as many as there is room for.

    A cookie is valid for a minute: on a machine that takes longer for the flood nothing is proved, and it is skipped.
    """
    with flooded(backlog=128) as (pod, made, established):
        packets = syns(made, 1000 + ROOM)
        flood(made, packets[:1000])
        with handshakes_on_their_way(pod, 10, (established,)) as clients:
            started = time.monotonic()
            flood(made, packets[1000:])
            if time.monotonic() - started > COOKIE_AGE_S / 2:
                pytest.skip("the flood takes this machine longer than a SYN cookie is valid")
            serve(pod, clients)
        assert int(pod.sh("pod", "nstat -asz TcpExtSyncookiesSent | tail -1").split()[1]) > ROOM
        assert pod.stats()["accepted proxy"] == 12
