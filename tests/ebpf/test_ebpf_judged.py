"""What the kernel's TCP would not take must not count: segments that name another client, and are wrong in one way.

A fuzzer mixes them. SRCIP_RAW says how many connections it makes, SRCIP_SEED how it begins.
"""

import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from support.ebpf_rig import LB4_ADDRESS, Pod, never_again, running
from support.packets import ACK, FIN, PSH, RST, SYN
from support.raw_sender import Link, Segment, Sender, link, reset, times
from support.rig import POD4, POD6, Client, Seen, v1, v2
from support.waiting import until

pytestmark = pytest.mark.dataplane

CONNECTIONS = int(os.environ.get("SRCIP_RAW", "10000"))
SEED = int(os.environ.get("SRCIP_SEED", "0")) or random.SystemRandom().getrandbits(32)
FORGED = ("203.0.113.66", 6666)
SOURCES = {POD4: LB4_ADDRESS, POD6: "fd77:0:0:1::2"}
Wrong = Callable[[Sender, bytes], Segment]


def wrong(flags: int = PSH | ACK, **changes: Any) -> Wrong:
    """A segment with data that is right but for these fields."""
    return lambda sender, data: sender.segment(flags, data, **changes)


def moved(seq: int = 0, ack: int = 0) -> Wrong:
    return lambda sender, data: sender.segment(PSH | ACK, data, seq=sender.seq + seq, ack=sender.ack + ack)


def timed(value: int = 0, echo: int = 0) -> Wrong:
    """Another time in the option."""

    def made(sender: Sender, data: bytes) -> Segment:
        options = times(sender.clock + value, sender.echo + echo) if sender.has_times else b""
        return sender.segment(PSH | ACK, data, options=options, **bad(sender))

    return made


def bad(sender: Sender) -> dict[str, Any]:
    """Where there is no time, a wrong one is no fault: another one then."""
    return {} if sender.has_times else {"tcp_checksum": 5}


def two_times(sender: Sender, data: bytes) -> Segment:
    """Two timestamps, of which the last one counts, and is old."""
    options = times(sender.clock, sender.echo) + times(sender.clock - 100_000, sender.echo)
    return sender.segment(PSH | ACK, data, options=options if sender.has_times else b"", **bad(sender))


def cut_option(sender: Sender, data: bytes) -> Segment:
    """An option that says it is longer than the list, with a wrong acknowledgement."""
    return sender.segment(PSH | ACK, data, options=b"\1\1\x08\x20", ack=sender.ack + 1)


FAULTS: dict[str, Wrong] = {
    "checksum": wrong(tcp_checksum=1),
    "checksum, far off": wrong(tcp_checksum=0x5A5A),
    "checksum of a card that never came": wrong(partial=True),
    "old timestamp": timed(value=-100_000),
    "timestamp half a space away": timed(value=-(2**31) + 5),
    "echo of a later time": timed(echo=100_000),
    "echo of an earlier time": timed(echo=-100_000),
    "two timestamps": two_times,
    "an option longer than the list": cut_option,
    "no ACK": wrong(PSH),
    "no flag": wrong(0),
    "FIN alone": wrong(FIN),
    "acknowledgement, one less": moved(ack=-1),
    "acknowledgement, one more": moved(ack=1),
    "acknowledgement, far off": moved(ack=2**31),
    "sequence number of the SYN": lambda sender, data: sender.segment(PSH | ACK, data[:9], seq=sender.isn),
    "sequence number, far off": moved(seq=1 << 20),
    "TCP header longer than the packet": lambda sender, data: sender.segment(PSH | ACK, data[:4], words=5),
    "TCP header said shorter": wrong(words=-1, options=b""),
    "a packet said longer": wrong(length=1),
    "a packet said shorter": wrong(length=-3),
    "another host": wrong(other_host=True),
    "IP version": wrong(ip_version=5),
}
IPV4_FAULTS: dict[str, Wrong] = {
    "IPv4 checksum": wrong(ip_checksum=1),
    "IPv4 options": wrong(ip_options=b"\1\1\1\0"),
    "IPv4 source route": wrong(ip_options=b"\x83\x07\x04\x0a\x4d\x03\x02\0"),
    "more fragments": wrong(fragment=0x2000),
    "a later fragment": wrong(fragment=1),
}
ALL = {**FAULTS, **IPV4_FAULTS}
HANDSHAKE = ("echo", "acknowledgement, one less", "sequence number")
IN_A_HANDSHAKE = [fault for name, fault in ALL.items() if name.startswith(HANDSHAKE)]
"""What TCP refuses there, and takes, or may, once the connection is established."""


@pytest.fixture(scope="module")
def linked() -> Iterator[tuple[Pod, Link]]:
    """A Pod, and the link on which packets for it are written."""
    with running() as pod:
        made = link(pod)
        yield pod, made
        made.sock.close()


_PORTS = iter(range(20000, 30000))


def opened(made: Link, to: str, has_times: bool = True, port: int = 0, chance: random.Random | None = None) -> Sender:
    """A connection whose handshake is made, as far as a balancer can tell."""
    chance = chance or random.Random(port)  # noqa: S311
    isn = chance.choice((chance.getrandbits(32), 2**32 - chance.randrange(60)))
    sender = Sender(made, SOURCES[to], to, port or next(_PORTS), isn, chance.getrandbits(31) + 2**20, has_times)
    assert sender.open(), sender
    return sender


def greeted(sender: Sender) -> str:
    """The client that the application greets."""
    assert sender.wait(lambda: b"\n" in sender.got or sender.flags & RST), sender
    return sender.got.partition(b"\n")[0].decode()


@pytest.mark.parametrize("has_times", [True, False], ids=["with timestamps", "without"])
@pytest.mark.parametrize("to", [POD4, POD6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("name", ALL)
def test_a_segment_that_tcp_drops_states_no_client(
    linked: tuple[Pod, Link], name: str, to: str, has_times: bool
) -> None:
    """Nor does it keep the right one from being stated, behind it or in its middle."""
    if name in IPV4_FAULTS and to == POD6:
        pytest.skip("IPv6 has none of it")
    pod, made = linked
    accepted = pod.accepted()
    sender, right = opened(made, to, has_times), v1(("198.51.100.20", 2020))
    sender.send(ALL[name](sender, v1(FORGED) + b"forged"))
    sender.say(right[:10])
    sender.send(ALL[name](sender, v1(FORGED)[10:] + b"forged"))
    assert pod.accepted() == accepted
    sender.say(right[10:] + b"hello")
    assert greeted(sender) == "198.51.100.20 2020"
    assert sender.wait(lambda: sender.got.endswith(b"hello"))
    reset(sender)


def test_a_checksum_that_the_card_has_still_to_make_is_right() -> None:
    """As it is with a balancer on the same node, and wherever segments are merged or cut by the card."""
    with running() as pod:
        for offload in ("on", "off"):
            for host, device in (("lb", "eth0"), ("node", "lb"), ("node", "pod"), ("pod", "eth0")):
                pod.sh(host, f"ethtool -K {device} tx {offload} gso {offload} gro {offload} >/dev/null")
            for size in (0, 1, 3, 300, 5000, 200_000):
                seen = _seen(pod, size)
                assert seen.peer == ("203.0.113.7", 54321), (offload, size)
        assert "dropped checksum" not in pod.stats()


def _seen(pod: Pod, size: int) -> Seen:
    with pod.connect() as client:
        client.send(v2() + b"x" * size)
        return client.seen(rest=size, quiet=0.05)


def test_a_forged_syn_in_a_handshake_delays_nothing(linked: tuple[Pod, Link]) -> None:
    """The kernel answers it with an acknowledgement to the balancer; what the balancer echoes of that must be taken."""
    _, made = linked
    for to in (POD4, POD6):
        for parts in (1, 2):
            sender = opened(made, to)
            header = v1(("198.51.100.21", 2121))
            if parts == 2:
                sender.say(header[:9])
            time.sleep(0.02)
            before = len(sender.said)
            sender.send(sender.segment(SYN, seq=sender.seq + 2**30, ack=0, options=b""))
            sender.wait(lambda s=sender, n=before: len(s.said) > n, seconds=0.2)
            sender.say(header[9:] if parts == 2 else header)
            sender.say(b"hello")
            assert greeted(sender) == "198.51.100.21 2121"
            reset(sender)


def script(chance: random.Random, sender: Sender, header: bytes, faults: list[Wrong]) -> None:
    """A header in one to four parts, some of them twice, among segments that TCP drops and the end of nothing."""
    cuts = sorted(chance.sample(range(1, len(header)), chance.randrange(0, 4)))
    for begin, end in zip([0, *cuts], [*cuts, len(header)], strict=True):
        for _ in range(chance.randrange(3)):
            claim = chance.choice((v1, v2))(FORGED)
            data = chance.choice((claim, claim[begin:], header[begin:end], b"")) + b"forged"
            sender.send(chance.choice(faults)(sender, data))
        part = header[begin:end] + (b"hello" if end == len(header) else b"")
        if chance.random() < 0.2:
            sender.send(sender.segment(PSH | ACK, part))
        sender.say(part)


def disturb(chance: random.Random, sender: Sender, faults: list[Wrong]) -> None:
    """The same while the connection lives, and ends and resets that TCP ignores."""
    faults = [fault for fault in faults if fault not in IN_A_HANDSHAKE]
    for _ in range(chance.randrange(4)):
        made = chance.choice(faults)(sender, chance.choice((b"", b"forged", v1(FORGED))))
        flags = chance.choice((0, FIN, RST)) if made.flags & ACK else 0
        if flags != RST or made.tcp_checksum or made.ip_checksum or made.other_host:
            sender.send(replace(made, flags=made.flags | flags))


def test_no_mixture_of_such_segments_states_a_client(linked: tuple[Pod, Link]) -> None:
    """Each connection shows its own client, is answered, and ends as ever. The seed is printed."""
    mix(*linked, CONNECTIONS)


def test_nor_where_syn_cookies_answer(linked: tuple[Pod, Link]) -> None:
    """The kernel remembers no handshake then, and would take an older timestamp; the programs do not."""
    pod, made = linked
    pod.sh("pod", "sysctl -qw net.ipv4.tcp_syncookies=2")
    try:
        mix(pod, made, CONNECTIONS // 4)
    finally:
        pod.sh("pod", "sysctl -qw net.ipv4.tcp_syncookies=1")


def mix(pod: Pod, made: Link, count: int) -> None:
    """So many connections, each with a mixture of its own."""
    print(f"SRCIP_SEED={SEED} SRCIP_RAW={CONNECTIONS}", file=sys.stderr)
    chance = random.Random(SEED)  # noqa: S311
    for number in range(count):
        to = chance.choice((POD4, POD6))
        faults = [*FAULTS.values(), *(IPV4_FAULTS.values() if to == POD4 else ())]
        sender = opened(made, to, chance.random() < 0.8, 20000 + (number + 3000) % 10000, chance)
        client = (f"198.51.{number >> 8 & 255}.{number & 255}", chance.randrange(1, 65536))
        script(chance, sender, chance.choice((v1, v2))(client), faults)
        assert greeted(sender) == f"{client[0]} {client[1]}", f"SRCIP_SEED={SEED}, connection {number}"
        assert sender.wait(lambda s=sender: s.got.endswith(b"hello")), f"SRCIP_SEED={SEED}, connection {number}"
        disturb(chance, sender, faults)
        sender.say(b"again", PSH | ACK | (FIN if number % 2 else 0))
        wanted = b"hello" + b"again" + (b"<end>" if number % 2 else b"")
        assert sender.wait(lambda s=sender, w=wanted: s.got.endswith(w)), f"SRCIP_SEED={SEED}, connection {number}"
        if number % 2:
            assert sender.wait(lambda s=sender: s.flags & FIN), f"SRCIP_SEED={SEED}, connection {number}"
            sender.send(sender.segment(ACK))
        else:
            reset(sender)
    stats = pod.stats()
    assert stats["dropped checksum"] and stats["dropped timestamp"] and stats["dropped fragment"]


DEFERRING = """
import socket, sys
listener = socket.create_server(("::", 7000), family=socket.AF_INET6, dualstack_ipv6=True)
listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)
print("listening", flush=True)
while True:
    connection, peer = listener.accept()
    connection.sendall(f"{peer[0].removeprefix('::ffff:')} {peer[1]}\\n".encode() + connection.recv(99))
    connection.close()
"""


def test_a_listener_that_waits_for_data_gets_a_header_that_comes_alone() -> None:
    """TCP_DEFER_ACCEPT: the kernel drops an ACK without data. The header is acknowledged all the same, at once, or a
    sender with Nagle's algorithm would hold back its request."""
    with running() as pod:
        pod.stop()
        pod.start([sys.executable, "-c", DEFERRING])
        never_again(pod)
        for to in (POD4, POD6):
            client = Client(pod.net.lb.connect(to, 7000))
            with client:
                client.send(v1(("198.51.100.30", 3030)))
                until(lambda: pod.sh("lb", "ss -Htn dst :7000").split()[2] == "0")  # Send-Q: nothing unacknowledged
                client.send(b"request")
                assert client.seen(rest=7).rest.endswith(b"request")
