"""Segments that no honest sender sends, and numbers seen on the wire."""

import socket
import struct
import time

import pytest

from support.ebpf_rig import LB4_ADDRESS, Pod, running, still_echoes
from support.packets import (
    ACK,
    FIN,
    PSH,
    RST,
    SACK_PERMITTED,
    SYN,
    Forger,
    checksum,
    connect_with_isn,
    finished,
    segment,
)
from support.rig import CLIENT4, POD4, POD6, Client, v1
from support.waiting import DEADLINE_S, until

pytestmark = pytest.mark.dataplane

OTHER_CLIENT = ("198.51.100.9", 999)


def test_a_forged_syn_or_rst_or_segment_harms_no_live_connection(pod: Pod) -> None:
    """Whatever arrives with its addresses and wrong numbers, a live connection goes on, and keeps its client."""
    with pod.connect() as client:
        client.send(v1())
        assert client.seen(quiet=0.02).peer == CLIENT4
        with Forger(pod.net.lb, client.sock.getsockname(), (POD4, 7000)) as forger:
            for flags in (SYN, SYN, RST, RST | ACK, ACK, FIN | ACK, SYN | ACK):
                forger.send(flags)
            forger.send(PSH | ACK, v1(OTHER_CLIENT))
        for n in range(3):
            assert still_echoes(client, b"still here %d" % n)


def test_a_header_with_a_wrong_acknowledgement_claims_nothing(pod: Pod) -> None:
    """A forger who guesses the sequence number, but has not seen the SYN-ACK, cannot name the client."""
    with connect_with_isn(pod.net.lb, (POD4, 7000), 5000) as sock:
        with Forger(pod.net.lb, sock.getsockname(), (POD4, 7000)) as forger:
            forger.send(PSH | ACK, v1(OTHER_CLIENT) + b"x", seq=5001)
        client = Client(sock)
        client.send(v1())
        assert client.seen(quiet=0.02).peer == CLIENT4


def test_acknowledgements_and_sack_blocks_are_those_of_the_sender(pod: Pod) -> None:
    """Seen by a sender that is written by hand: the Pod's numbers are raised by the header's length."""
    pod.sh("lb", "nft 'add table ip t; add chain ip t c { type filter hook output priority 0; }'")
    pod.sh(
        "lb", "nft add rule ip t c tcp dport 7000 tcp flags rst drop"
    )  # the sender's kernel knows no such connection
    header, isn = v1(), 2**32 - 30
    with Forger(pod.net.lb, (LB4_ADDRESS, 40400), (POD4, 7000)) as sender:
        sender.send(SYN, SACK_PERMITTED, seq=isn, ack=0)
        iss, ack, flags = sender.receive()
        assert (ack, flags) == (isn + 1, SYN | ACK)
        sender.send(ACK, seq=isn + 1, ack=iss + 1)
        sender.send(PSH | ACK, header + b"abc", seq=isn + 1, ack=iss + 1)
        received = (isn + 1 + len(header) + 3) % 2**32
        while (answer := sender.receive())[1] != received:
            assert answer[1] in (isn + 1, received)
        sender.send(PSH | ACK, b"later", seq=received + 100, ack=iss + 1)
        while not sender.sack or sender.sack[0] != received + 100:
            assert sender.receive()[1] == received
        assert sender.sack == (received + 100, received + 105)
        pod.sh("lb", "nft delete table ip t")
        sender.send(RST, seq=received, ack=0)


def test_a_refusal_is_none_of_the_answers_to_a_syn_cookie() -> None:
    """With SYN cookies any segment with the right numbers makes a connection: a refused one must not."""
    with running() as pod:
        pod.sh("pod", "sysctl -qw net.ipv4.tcp_syncookies=2")
        for refused in (b"no header", v1(("127.0.0.1", 1)), b"PROXY TCP4 nonsense\r\n"):
            assert pod.seen(refused).refused
        with pod.connect() as client:
            client.finish()
            assert client.seen().end == "reset"
        assert pod.seen(v1()).peer == CLIENT4
        assert pod.accepted() == 1


def test_a_forged_syn_does_not_replace_a_handshake(pod: Pod) -> None:
    """The handshake that the kernel knows goes on."""
    with pod.connect() as client:
        with Forger(pod.net.lb, client.sock.getsockname(), (POD4, 7000)) as forger:
            forger.send(SYN)
        client.send(v1())
        assert client.seen(quiet=0.02).peer == CLIENT4


def test_a_stray_segment_is_answered_by_rst(pod: Pod) -> None:
    """A balancer that believes in a connection of an earlier Pod learns at once that it is gone."""
    with Forger(pod.net.lb, (LB4_ADDRESS, 40200), (POD4, 7000)) as forger:
        forger.send(PSH | ACK, b"are you there?", seq=100, ack=777)
        seq, _, flags = forger.receive()
    assert (seq, flags & RST) == (777, RST)


def test_fragments_do_not_pass_below_the_programs(pod: Pod) -> None:
    """Of a segment in fragments only the first has the ports: it is dropped, and so the rest comes to nothing."""
    before = pod.stats().get("dropped fragment", 0)
    whole = segment((LB4_ADDRESS, 40300), (POD4, 7000), (1, 1), SYN, b"x" * 12)
    with pod.net.lb.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)) as raw:
        for offset, more in ((0, 0x2000), (24, 0)):
            addresses = socket.inet_aton(LB4_ADDRESS) + socket.inet_aton(POD4)
            head = struct.pack(">BBHHHBBH", 0x45, 0, 0, 77, more | offset // 8, 64, 6, 0) + addresses
            raw.sendto(head + whole[offset : offset + 24], (POD4, 0))
    until(lambda: pod.stats().get("dropped fragment", 0) > before)
    assert pod.stats()["dropped fragment"] == before + 1
    assert pod.half_open() == 0


def test_extension_headers_do_not_pass_below_the_programs(pod: Pod) -> None:
    """TCP behind IPv6 destination options never connects from a trusted network; from any other it is native."""
    before = pod.stats().get("dropped fragment", 0)
    with pod.net.lb.open_socket(socket.AF_INET6) as trusted, pod.net.other.open_socket(socket.AF_INET6) as other:
        for sock in (trusted, other):
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, b"\0\0\1\4\0\0\0\0")
        trusted.settimeout(0.3)
        other.settimeout(DEADLINE_S)
        with pytest.raises(TimeoutError):
            trusted.connect((POD6, 7000))
        other.connect((POD6, 7000))
    assert pod.stats()["dropped fragment"] > before


def fragments(whole: bytes, cut: int, number: int) -> list[bytes]:
    """IPv4 packets of the balancer with `whole` in two pieces; the first one has `cut` bytes."""
    addresses = socket.inet_aton(LB4_ADDRESS) + socket.inet_aton(POD4)
    pieces = ((0, 0x2000, whole[:cut]), (cut, 0, whole[cut:]))
    return [
        struct.pack(">BBHHHBBH", 0x45, 0, 0, number, more | offset // 8, 64, 6, 0) + addresses + piece
        for offset, more, piece in pieces
    ]


@pytest.mark.parametrize("cut", [8, 16, 24, 32, 40])
def test_a_header_in_fragments_of_any_cut_is_none(pod: Pod, cut: int) -> None:
    """Not even where the first piece does not hold the whole TCP header. In one piece it counts."""
    before, accepted = pod.stats().get("dropped fragment", 0), pod.accepted()
    with connect_with_isn(pod.net.lb, (POD4, 7000), 5000) as sock:
        with Forger(pod.net.lb, sock.getsockname(), (POD4, 7000)) as forger:
            sock.send(b"P")
            mine, _, _ = forger.receive()
        options = b"\x01\x01\x08\x0a" + bytes(8)
        data = v1(("203.0.113.66", 6666)) + b"x"
        whole = finished(sock.getsockname(), (POD4, 7000), (5001, mine, PSH | ACK), options, data)
        with pod.net.lb.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)) as raw:
            for packet in fragments(whole, cut, 1000 + cut):
                raw.sendto(packet, (POD4, 0))
        until(lambda: pod.stats().get("dropped fragment", 0) > before)
        assert pod.accepted() == accepted
        assert pod.stats()["dropped fragment"] == before + 1
        client = Client(sock)
        client.send(v1()[1:] + b"y")
        assert client.seen(rest=1, quiet=0.02).peer == CLIENT4


def ipv6_syn(extensions: list[tuple[int, bytes]], source: str, to: tuple[str, int]) -> bytes:
    """A SYN over IPv6 behind these extension headers, each with its kind and what follows its first byte."""
    kinds = [kind for kind, _ in extensions] + [6]
    head = struct.pack(">HHIIBBHHH", 40500, to[1], 1, 0, 5 << 4, SYN, 65535, 0, 0)
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, to[0])
    value = checksum(addresses + struct.pack(">II", len(head), 6) + head)
    tcp = head[:16] + struct.pack(">H", value) + head[18:]
    chain = b"".join(bytes([kinds[i + 1]]) + rest for i, (_, rest) in enumerate(extensions))
    return struct.pack(">IHBB", 6 << 28, len(chain + tcp), kinds[0], 64) + addresses + chain + tcp


DESTINATION = (60, b"\0\1\4\0\0\0\0")
LONG_DESTINATION = (60, b"\x0f\1\x7c" + bytes(124))
HOPS = (0, b"\0\1\4\0\0\0\0")
ATOMIC = (44, bytes(7))
EXTENSIONS = {
    "twice": [DESTINATION, DESTINATION],
    "two kinds": [HOPS, DESTINATION],
    "an atomic fragment": [DESTINATION, ATOMIC, DESTINATION],
    "long ones": [LONG_DESTINATION] * 3,
    "as many as are read": [DESTINATION] * 8,
    "one more": [DESTINATION] * 9,
    "far more": [DESTINATION] * 40,
}


@pytest.mark.parametrize("case", EXTENSIONS)
def test_no_number_of_extension_headers_passes_below_the_programs(pod: Pod, case: str) -> None:
    """From any other host they do not matter."""
    before = pod.stats().get("dropped fragment", 0)
    for host, dropped in ((pod.net.lb, 1), (pod.net.other, 0)):
        packet = ipv6_syn(EXTENSIONS[case], host.ipv6, (POD6, 7000))
        with host.call(lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)) as raw:
            raw.sendto(packet, (POD6, 0))
        if dropped:
            until(lambda before=before: pod.stats().get("dropped fragment", 0) > before)
        time.sleep(0.05)
        assert pod.stats().get("dropped fragment", 0) == before + dropped
        before += dropped
        if host is pod.net.lb:
            assert pod.half_open() == 0


@pytest.mark.parametrize("hook", ["auto", "clsact"])
def test_a_balancer_behind_a_second_network_is_read_like_one_behind_the_first(hook: str) -> None:
    """The programs are on each interface that is there when the Pod begins, and share what they know."""
    with running(attached=False, app=("0.0.0.0", "7000")) as pod:
        pod.sh("node", f"ip link add second type veth peer name net1 netns {pod.net.pod.netns}")
        pod.sh("node", "ip address add 10.77.1.3/32 dev lo; ip link set second up; ip route add 10.78.0.2 dev second")
        pod.sh("pod", "ip address add 10.78.0.2/24 dev net1; ip link set net1 up; ip route add 10.77.1.3 dev net1")
        said = pod.attach("--hook", hook)
        assert said.returncode == 0 and "attached to eth0, net1 (" in said.stdout, said
        for host, to, source in ((pod.net.node, "10.78.0.2", "10.77.1.3"), (pod.net.lb, POD4, LB4_ADDRESS)):
            for number in range(3):
                wanted = ("203.0.113.90", 9000 + number)
                with Client(host.connect(to, 7000, source=(source, 0))) as client:
                    client.send(v1(wanted) + b"x")
                    assert client.seen(rest=1, quiet=0.02).peer == wanted
        assert pod.stats()["accepted proxy"] == 6


def test_a_port_that_comes_again_with_the_same_number_has_its_own_client(pod: Pod) -> None:
    """What is left of a connection that was reset does not speak for the next one, though the numbers are equal."""
    for number in range(12):
        wanted = ("203.0.113.80", 20000 + number)
        with connect_with_isn(pod.net.lb, (POD4, 7000), 777_777, port=40600) as sock:
            client = Client(sock)
            client.send(v1(wanted))
            assert client.seen(quiet=0.02).peer == wanted
            client.reset()


@pytest.mark.parametrize("to", [POD4, POD6])
@pytest.mark.parametrize("before_wrap", [1, 2, 20, 45, 46, 47, 2000, 30000])
def test_sequence_numbers_wrap(pod: Pod, before_wrap: int, to: str) -> None:
    """In the handshake, in the header, behind it, and in the data."""
    text = b"x" * 60000
    with connect_with_isn(pod.net.lb, (to, 7000), 2**32 - before_wrap) as sock:
        client = Client(sock)
        client.send(v1() + text)
        seen = client.seen(rest=len(text), quiet=0.02)
        assert (seen.peer, seen.rest) == (CLIENT4, text)
