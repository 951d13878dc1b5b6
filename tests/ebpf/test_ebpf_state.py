"""What the programs remember: forgers harm nobody, room is bounded, nothing outlives its connection."""

import re
import socket
import struct
import subprocess
import sys
import time

import pytest
from ebpf_rig import LB4_ADDRESS, Pod, Pods, running
from packets import ACK, FIN, PSH, RST, SYN, Forger, connect_with_isn, segment
from rig import APP, CLIENT4, CLIENT6, HEADER_TIMEOUT, POD4, POD6, Client, v1, v2

pytestmark = pytest.mark.dataplane

HELD = 256
"""Room of the map `headers`."""
OTHER_CLIENT = ("198.51.100.9", 999)


def still_echoes(client: Client, text: bytes) -> bool:
    client.got = b"\n"
    client.send(text)
    return client.seen(rest=len(text), quiet=0.02).rest == text


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


def test_a_forged_syn_does_not_replace_a_handshake(pod: Pod) -> None:
    """The handshake that the kernel knows goes on."""
    with pod.connect() as client:
        with Forger(pod.net.lb, client.sock.getsockname(), (POD4, 7000)) as forger:
            forger.send(SYN)
        client.send(v1())
        assert client.seen(quiet=0.02).peer == CLIENT4


def test_a_full_table_refuses_and_a_closed_connection_makes_room() -> None:
    """No live connection loses its entry; the new one is refused at once and counted."""
    with running(max_connections=3) as pod:
        clients = [pod.connect() for _ in range(3)]
        for number, client in enumerate(clients):
            client.send(v1(("203.0.113.7", 1000 + number)))
            assert client.seen(quiet=0.02).peer == ("203.0.113.7", 1000 + number)
        assert pod.seen(v1()).refused
        assert pod.stats()["refused no_room"] == 1
        clients[0].finish()
        assert clients[0].seen(quiet=1).end == "end"
        time.sleep(0.15)  # dead entries are looked for ten times a second at most
        assert pod.seen(v1()).peer == CLIENT4
        assert all(still_echoes(client, b"alive") for client in clients[1:])


def test_parts_of_headers_have_bounded_room() -> None:
    """Whoever sends many parts is refused in the end; a header in one segment needs no room, and passes."""
    with running(header_timeout_ms=20_000) as pod:
        clients = [pod.connect() for _ in range(HELD + 4)]
        for client in clients:
            client.send(v1()[:20])
        ends = [client.seen(timeout=0.01 if n < HELD else 2).end for n, client in enumerate(clients)]
        assert (ends[:HELD], ends[HELD:]) == (["open"] * HELD, ["reset"] * 4)
        assert pod.stats() == {"refused no_room": 4}
        assert pod.seen(v2()).peer == CLIENT4
        clients[7].send(v1()[20:])
        assert clients[7].seen(quiet=0.02).peer == CLIENT4
        for client in clients:
            client.sock.close()


def test_nothing_survives_the_pod() -> None:
    """The programs go with the network namespace and the cgroup, and their maps with them."""
    with running() as pod:
        shown = pod.sh("pod", "tc filter show dev eth0 ingress; tc filter show dev eth0 egress")
        shown += pod.sh("pod", f"bpftool cgroup show {pod.cgroup} | awk '/srcip/ {{print \" id \" $1}}'")
        ids = re.findall(r" id (\d+)", shown)
        assert len(ids) == 4
        assert all(exists(number) for number in ids)
    deadline = time.monotonic() + 5
    while any(exists(number) for number in ids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def exists(program: str) -> bool:
    return subprocess.run(["bpftool", "prog", "show", "id", program], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("closes_first", ["server", "client"])
def test_a_port_that_is_used_again_gets_its_new_client(pod: Pod, closes_first: str) -> None:
    """Also while the Pod holds the old connection in TIME_WAIT, with a header of another length."""
    source = (LB4_ADDRESS, 40000 + (closes_first == "server"))
    for number in range(4):
        client_address = ("203.0.113.7", 5 * 10**number)
        with pod.net.lb.connect(POD4, 7001 if closes_first == "server" else 7000, source=source) as sock:
            client = Client(sock)
            client.send(v1(client_address))
            if closes_first == "client":
                client.finish()
            seen = client.seen()
            assert (seen.peer, seen.end) == (client_address, "end")
        time.sleep(0.02)


def test_connections_from_before_the_attach_go_on() -> None:
    """They keep their own address, and every byte."""
    with running(attached=False) as pod, pod.connect() as client:
        client.send(b"before")
        assert client.seen(rest=6, quiet=0.02).peer == client.sock.getsockname()
        assert pod.attach().returncode == 0
        assert still_echoes(client, b"after")
        assert pod.seen(v1()).peer == CLIENT4


def test_two_pods_know_nothing_of_each_other(pods: Pods) -> None:
    """The same addresses and ports at the same time, on one machine: each application sees its own client."""
    source = (LB4_ADDRESS, 40100)
    with (
        running() as other,
        pods().net.lb.connect(POD4, 7000, source=source) as one,
        other.net.lb.connect(POD4, 7000, source=source) as two,
    ):
        clients = [Client(one), Client(two)]
        clients[0].send(v1(("203.0.113.1", 1)))
        clients[1].send(v2(CLIENT6))
        assert clients[0].seen(quiet=0.02).peer == ("203.0.113.1", 1)
        assert clients[1].seen(quiet=0.02).peer == CLIENT6


def test_a_stray_segment_is_answered_by_rst(pod: Pod) -> None:
    """A balancer that believes in a connection of an earlier Pod learns at once that it is gone."""
    with Forger(pod.net.lb, (LB4_ADDRESS, 40200), (POD4, 7000)) as forger:
        forger.send(PSH | ACK, b"are you there?", seq=100, ack=777)
        seq, _, flags = forger.receive()
    assert (seq, flags & RST) == (777, RST)


def test_a_silent_connection_is_refused_when_its_time_is_over(pod: Pod) -> None:
    """The application sees none of it, no half-open connection is left, and the balancer is told."""
    before = pod.accepted()
    with pod.connect() as client:
        assert pod.half_open() == 1
        assert client.seen(timeout=1.5 + HEADER_TIMEOUT).end == "reset"
    assert (pod.accepted(), pod.half_open()) == (before, 0)


def test_a_health_check_that_only_connects_never_reaches_the_application(pod: Pod) -> None:
    before, empty = pod.accepted(), pod.stats().get("refused empty", 0)
    with pod.connect() as client:
        client.finish()
        client.seen(timeout=0.3)
    assert (pod.accepted(), pod.half_open()) == (before, 0)
    assert pod.stats()["refused empty"] == empty + 1


def test_a_server_that_speaks_first_is_released_where_no_header_is_needed(pods: Pods) -> None:
    """With the policy `optional` a silent connection becomes native when the time for a header is over."""
    with pods(proxy_protocol="optional").connect() as client:
        assert client.seen(timeout=3).peer == client.sock.getsockname()
        assert still_echoes(client, b"native")


def test_policy_off_keeps_every_byte(pods: Pods) -> None:
    pod = pods(proxy_protocol="off")
    assert pod.seen(v1()).rest == v1()


def test_a_client_that_cannot_be_shown_is_refused_where_the_plan_says_so(pods: Pods) -> None:
    """An AF_INET socket and an IPv6 client."""
    pod = pods(("0.0.0.0", "7000"), client_address="exact")
    assert pod.seen(v1(CLIENT6)).refused
    assert pod.seen(v1(CLIENT4)).peer == CLIENT4


def test_fragments_do_not_pass_below_the_programs(pod: Pod) -> None:
    """Of a segment in fragments only the first has the ports: it is dropped, and so the rest comes to nothing."""
    before = pod.stats().get("dropped fragment", 0)
    whole = segment((LB4_ADDRESS, 40300), (POD4, 7000), (1, 1), SYN, b"x" * 12)
    with pod.net.lb.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)) as raw:
        for offset, more in ((0, 0x2000), (24, 0)):
            addresses = socket.inet_aton(LB4_ADDRESS) + socket.inet_aton(POD4)
            head = struct.pack(">BBHHHBBH", 0x45, 0, 0, 77, more | offset // 8, 64, 6, 0) + addresses
            raw.sendto(head + whole[offset : offset + 24], (POD4, 0))
    time.sleep(0.05)
    assert pod.stats()["dropped fragment"] == before + 1
    assert pod.half_open() == 0


def test_a_closed_port_is_refused_at_once(pod: Pod) -> None:
    with pytest.raises(ConnectionRefusedError):
        pod.connect(7099)


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


@pytest.mark.parametrize(("server", "client"), [("0x403", "0x1"), ("0x603", "0x5")])
def test_fast_open_is_not_offered(server: str, client: str) -> None:
    """Data in a SYN would reach the application before its client is known, with a cookie or without. The connection
    works, and the same connection to a Pod without the programs does open fast."""
    with running(attached=False) as pod:
        pod.sh("pod", f"sysctl -qw net.ipv4.tcp_fastopen={server}")
        pod.sh("lb", f"sysctl -qw net.ipv4.tcp_fastopen={client}")
        pod.start([sys.executable, str(APP), "0.0.0.0", "7010"])  # a listener takes the setting when it begins
        assert fast_opened(pod)
        assert pod.attach().returncode == 0
        pod.sh("lb", "ip tcp_metrics flush")
        assert not fast_opened(pod)


def fast_opened(pod: Pod) -> bool:
    """Whether one of two connections had its data in the SYN."""
    count = "nstat -asz TcpExtTCPFastOpenPassive | awk '/Fast/ {print $2}'"
    before = int(pod.sh("pod", count))
    for _ in range(2):
        with pod.net.lb.open_socket() as sock:
            sock.sendto(v1() + b"early", socket.MSG_FASTOPEN, (POD4, 7010))
            assert Client(sock).seen(rest=5, quiet=0.02).rest.endswith(b"early")
    return int(pod.sh("pod", count)) > before
