"""What the programs remember: forgers harm nobody, room is bounded, nothing outlives its connection."""

import socket
import subprocess
import sys
import time

import pytest

from support.ebpf_rig import LB4_ADDRESS, Pod, Pods, running, still_echoes
from support.rig import APP, CLIENT4, CLIENT6, POD4, SHORT, Client, Seen, v1, v2
from support.waiting import DEADLINE_S, until

pytestmark = pytest.mark.dataplane

HELD = 256
"""Entries of the map `partial_headers`."""


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
        assert clients[0].end().end == "end"
        until(lambda: pod.seen(v1()).peer == CLIENT4)  # dead entries are looked for ten times a second at most
        assert all(still_echoes(client, b"alive") for client in clients[1:])


def test_connections_in_time_wait_make_room() -> None:
    """A server that closes first holds each of its connections there for a minute."""
    with running(max_connections=3) as pod, pod.connect() as alive:
        alive.send(v1())
        assert alive.seen(quiet=0.02).peer == CLIENT4
        for number in range(6):
            with pod.connect(7001) as client:
                client.send(v1(("203.0.113.7", number)))
                assert client.end() == Seen(("203.0.113.7", number), b"", "end")
            time.sleep(0.11)
        assert still_echoes(alive, b"alive")


def test_parts_of_headers_have_bounded_room() -> None:
    """Whoever sends many parts is refused in the end; a header in one segment needs no room, and passes."""
    with running() as pod:
        clients = [pod.connect() for _ in range(HELD + 4)]
        for client in clients:
            client.send(v1()[:20])
        ends = [client.seen(timeout=0.01 if n < HELD else DEADLINE_S).end for n, client in enumerate(clients)]
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
        ids = pod.programs()
        assert len(ids) == 4
        assert all(exists(number) for number in ids)
    until(lambda: not any(exists(number) for number in ids))


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
            seen = client.end()
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


def test_a_silent_connection_is_half_open(pod: Pod) -> None:
    with pod.connect():
        assert pod.half_open() == 1


def test_a_silent_connection_is_refused_when_its_time_is_over(pods: Pods) -> None:
    """The application sees none of it, no half-open connection is left, and the balancer is told."""
    pod = pods(**SHORT)
    before = pod.accepted()
    with pod.connect() as client:
        assert client.seen().end == "reset"
    assert (pod.accepted(), pod.half_open()) == (before, 0)


def test_a_health_check_that_only_connects_never_reaches_the_application(pod: Pod) -> None:
    before, empty = pod.accepted(), pod.stats().get("refused empty", 0)
    with pod.connect() as client:
        client.finish()
        client.seen()
    assert (pod.accepted(), pod.half_open()) == (before, 0)
    assert pod.stats()["refused empty"] == empty + 1


def test_a_server_that_speaks_first_is_released_where_no_header_is_needed(pods: Pods) -> None:
    """With the policy `optional` a silent connection becomes native when the time for a header is over."""
    with pods(proxy_protocol="optional", **SHORT).connect() as client:
        assert client.seen().peer == client.sock.getsockname()
        assert still_echoes(client, b"native")


def test_policy_off_keeps_every_byte(pods: Pods) -> None:
    pod = pods(proxy_protocol="off")
    assert pod.seen(v1()).rest == v1()


def test_a_client_that_cannot_be_shown_is_refused_where_the_plan_says_so(pods: Pods) -> None:
    """An AF_INET socket and an IPv6 client."""
    pod = pods(("0.0.0.0", "7000"), client_address="exact")
    assert pod.seen(v1(CLIENT6)).refused
    assert pod.seen(v1(CLIENT4)).peer == CLIENT4


OWN_CONNECTION = """
import socket
with socket.create_server(("0.0.0.0", 7060)) as listener:
    print("listening", flush=True)
    accepted, peer = listener.accept()
    print(*peer, flush=True)
    while accepted.recv(100):
        pass
    accepted.close()
connection = socket.socket()
connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
connection.bind(("0.0.0.0", 7060))
input()
connection.connect(("10.77.1.2", 40500))
print(*connection.getpeername(), flush=True)
input()
"""


def test_an_entry_of_a_closed_connection_says_nothing_of_a_new_one(pod: Pod) -> None:
    """The Pod opens a connection with exactly the addresses and ports of an old one: its peer is its peer."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = pod.inside([sys.executable, "-c", OWN_CONNECTION], **pipes)
    pod.processes.append(process)
    assert process.stdin and process.stdout
    assert process.stdout.readline() == "listening\n"
    with pod.net.lb.connect(POD4, 7060, source=(LB4_ADDRESS, 40500)) as sock:
        sock.sendall(v1())
        assert process.stdout.readline() == "203.0.113.7 54321\n"
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""
    with pod.net.lb.listen(40500) as listener:
        listener.settimeout(DEADLINE_S)
        process.stdin.write("\n")
        process.stdin.flush()
        connection, peer = listener.accept()
        with connection:
            assert peer == (POD4, 7060)
            assert process.stdout.readline() == f"{LB4_ADDRESS} 40500\n"
            process.stdin.write("\n")
            process.stdin.flush()


def test_a_first_part_that_proves_to_be_no_header_is_refused_where_none_is_needed(pods: Pods) -> None:
    """It was acknowledged, so it cannot be given to the application later; nothing of it ever is."""
    pod = pods(proxy_protocol="optional")
    before = pod.accepted()
    with pod.connect() as client:
        client.send(b"PR")
        time.sleep(0.05)
        client.send(b"IVMSG\r\n")
        assert client.seen().refused
    assert pod.accepted() == before


def test_a_closed_port_is_refused_at_once(pod: Pod) -> None:
    with pytest.raises(ConnectionRefusedError):
        pod.connect(7099)


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
