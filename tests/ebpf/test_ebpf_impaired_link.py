"""TCP under loss, reordering and duplication, with every offload, and with segments as stacks send them."""

import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from srcip_lab import bpf
from support.ebpf_rig import Pod, Pods, running
from support.rig import CLIENT4, POD4, POD6, Client, v1, v2
from support.waiting import DEADLINE_S, fast_enough, until

pytestmark = pytest.mark.dataplane

IMPAIRED_LINK = Path(__file__).with_name("impaired_link.bpf.c")
CONNECTIONS = 5
SIZE = 60_000
DATA = bytes(n * n % 251 for n in range(100_000))
TIMER_S = 0.2
"""The kernel's shortest time until it sends again (TCP_RTO_MIN)."""
OFFLOADS = "tx rx sg tso gso gro"
"""Of ethtool -K."""


def client_of(number: int) -> tuple[str, int]:
    return (f"203.0.113.{number + 1}" if number % 2 else f"2001:db8::{number + 1:x}", 10000 + number)


def is_right(pod: Pod, number: int, *, to: str, split: bool) -> bool:
    """One connection that sends a header and data, ends its side, and gets everything back: is all of it right?"""
    client, payload = client_of(number), DATA[number : number + SIZE]
    header = (v1 if number % 4 < 2 else v2)(client)
    with pod.connect(to=to, timeout_s=DEADLINE_S).sock as sock:
        sock.settimeout(DEADLINE_S)
        if split:
            sock.sendall(header[:7])
            time.sleep(0.01)
            sock.sendall(header[7:])
            time.sleep(0.01)
            header = b""
        sending = threading.Thread(target=lambda: (sock.sendall(header + payload), sock.shutdown(socket.SHUT_WR)))
        sending.start()
        got = b"".join(iter(lambda: sock.recv(65536), b""))
        sending.join()
    return got == f"{client[0]} {client[1]}\n".encode() + payload + b"<end>"


def check(pod: Pod) -> None:
    """Many connections at once, with the header in one segment and in two, over both IP versions."""
    ways = [(number, to, split) for number in range(CONNECTIONS) for to in (POD4, POD6) for split in (False, True)]
    with ThreadPoolExecutor(len(ways)) as pool:
        right = pool.map(lambda way: is_right(pod, way[0], to=way[1], split=way[2]), ways)
        assert sum(right) == len(ways)
    assert pod.half_open() == 0
    assert not {name for name in pod.stats() if name.startswith("refused")}


@pytest.fixture(scope="module")
def lossless() -> Iterator[Pod]:
    """A Pod behind links that lose nothing, whose settings a test may change if it changes them back."""
    with running() as pod:
        yield pod


@pytest.fixture(scope="module")
def lossy() -> Iterator[Pod]:
    """The same with 3 % loss, 3 % duplication and 6 % reordering, in each direction."""
    with running() as pod:
        for device in ("lb", "pod"):
            words = f"tc qdisc add dev {device} clsact; tc filter add dev {device} ingress"
            pod.sh("node", f"{words} bpf da obj {bpf.compiled(IMPAIRED_LINK)} sec tc")
        yield pod


def everywhere(pod: Pod, command: str) -> None:
    """Run `command` for each end of both links; DEV stands for it."""
    for host, device in (("pod", "eth0"), ("lb", "eth0"), ("node", "lb"), ("node", "pod")):
        pod.sh(host, command.replace("DEV", device))


SETTINGS = {
    "SYN cookies": "net.ipv4.tcp_syncookies=2",
    "no timestamps": "net.ipv4.tcp_timestamps=0",
    "no window scaling": "net.ipv4.tcp_window_scaling=0",
    "no SACK": "net.ipv4.tcp_sack=0",
    "no D-SACK": "net.ipv4.tcp_dsack=0",
    "ECN": "net.ipv4.tcp_ecn=1",
}


@pytest.mark.parametrize(
    ("link", "setting"), [("lossless", None), ("lossless", "SYN cookies"), *(("lossy", s) for s in (None, *SETTINGS))]
)
def test_every_byte_arrives_under(link: str, setting: str | None, request: pytest.FixtureRequest) -> None:
    """Loss, duplication and reordering in both directions, with each of these settings of the stacks."""
    pod: Pod = request.getfixturevalue(link)
    if setting is None:
        return check(pod)
    name, value = SETTINGS[setting].split("=")
    before = {host: pod.sh(host, f"sysctl -n {name}").strip() for host in ("pod", "lb")}
    for host in before:
        pod.sh(host, f"sysctl -qw {name}={value}")
    try:
        return check(pod)
    finally:
        for host, old in before.items():
            pod.sh(host, f"sysctl -qw {name}={old}")


@pytest.mark.parametrize("state", ["off", "on"])
def test_every_byte_arrives_with_all_offloads(lossy: Pod, state: str) -> None:
    """Checksums that the card would finish, and segments that it would cut and join; and none of it. In the Pod no
    checksum is ever wrong."""
    pod = lossy
    everywhere(pod, f"ethtool -K DEV {' '.join(f'{word} {state}' for word in OFFLOADS.split())}")
    try:
        check(pod)
    finally:
        everywhere(pod, "ethtool -K DEV tx on rx on sg on tso on gso on gro off")
    for host in ("pod", "lb"):
        assert pod.sh(host, "nstat -asz TcpInCsumErrors | awk '/Csum/ {print $2}'").strip() == "0"


@pytest.mark.parametrize("mtu", [1280, 9000])
def test_every_byte_arrives_with_mtu(lossy: Pod, mtu: int) -> None:
    everywhere(lossy, f"ip link set DEV mtu {mtu}")
    try:
        check(lossy)
    finally:
        everywhere(lossy, "ip link set DEV mtu 1500")


def tlvs(size: int) -> bytes:
    """One TLV that makes the version 2 header of an IPv4 client `size` bytes."""
    rest = size - 28 - 3
    return b"\xe0" + rest.to_bytes(2, "big") + b"t" * rest


@pytest.mark.parametrize("size", [536, 1448, 1449, 4096])
def test_long_headers(pod: Pod, size: int) -> None:
    """At once, and by a sender that waits for each acknowledgement (Nagle), with data behind or none."""
    header = v2(tlvs=tlvs(size))
    assert len(header) == size
    assert pod.seen(header + b"data").rest == b"data"
    for data in (b"data", b""):
        fast_enough(lambda data=data: send_in_parts(pod, header, data), TIMER_S)  # type: ignore[misc]


def send_in_parts(pod: Pod, header: bytes, data: bytes) -> None:
    """A sender that waits for each acknowledgement."""
    with pod.connect() as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
        for at in range(0, len(header), 100):
            client.sock.sendall(header[at : at + 100])
        client.sock.sendall(data)
        seen = client.seen(rest=len(data), quiet=0.02)
        assert (seen.peer, seen.rest) == (CLIENT4, data)


def test_a_header_in_slow_parts(pod: Pod) -> None:
    """The clock of TCP's timestamps goes on between them: Linux 6.15 and newer refuse, in a handshake, the echo of any
    other than the SYN-ACK's."""

    def attempt() -> None:
        with pod.connect() as client:
            for at in range(0, len(v1()), 10):
                time.sleep(0.01)
                client.send(v1()[at : at + 10])
            time.sleep(0.01)
            client.send(b"data")
            assert client.seen(rest=4, quiet=0.02).peer == CLIENT4

    fast_enough(attempt, TIMER_S)


def test_a_header_that_is_too_long_is_refused(pod: Pod) -> None:
    assert pod.seen(v2(tlvs=tlvs(4097))).refused


def test_a_header_alone_is_acknowledged_at_once(pod: Pod) -> None:
    """A sender with Nagle's algorithm would otherwise wait for its own timer before it sends the first data. The
    server must not speak first here: its greeting would acknowledge, too."""

    def attempt() -> None:
        with pod.connect(7030) as client:
            client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
            client.send(v1())
            while unacknowledged(client.sock):
                pass

    fast_enough(attempt, TIMER_S)


@pytest.fixture(autouse=True)
def silent_listener(request: pytest.FixtureRequest) -> Iterator[None]:
    """Nobody ever accepts on port 7030."""
    if "acknowledged_at_once" not in request.node.name:
        yield
        return
    pod: Pod = request.getfixturevalue("pod")
    with pod.net.pod.listen(7030):
        yield


def unacknowledged(sock: socket.socket) -> int:
    """Segments that were sent and not acknowledged: tcpi_unacked of struct tcp_info."""
    return int.from_bytes(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)[24:28], "little")


SLOW = """
import os, socket, sys, time
listener = socket.create_server(("0.0.0.0", 7040), backlog=1)
print("listening", flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.05)
while True:
    connection, peer = listener.accept()
    print("accepted", peer[1], connection.recv(100).decode(), flush=True)
"""


def test_a_full_queue_of_the_listener_loses_nobody(pod: Pod, tmp_path: Path) -> None:
    """The kernel drops what completes a handshake, and lets it come again: with its client, and without the header."""
    may_accept = tmp_path / "accept"
    log = pod.start([sys.executable, "-c", SLOW, str(may_accept)])
    connected = [pod.connect(7040) for _ in range(2)]
    with ThreadPoolExecutor(8) as pool:
        connected += pool.map(lambda _: pod.connect(7040), range(6))
    for number, client in enumerate(connected):
        client.send(v1(("203.0.113.7", 1000 + number)) + b"data%d" % number)
    until(lambda: pod.sh("pod", "nstat -asz TcpExtListenOverflows | awk '/Over/ {print $2}'").strip() != "0")
    may_accept.touch()
    until(lambda: log.read_text().count("accepted") == len(connected), log.read_text)
    said = {line for line in log.read_text().splitlines() if line != "listening"}
    assert said == {f"accepted {1000 + number} data{number}" for number in range(len(connected))}


def test_urgent_data_stands_where_it_was_sent(pod: Pod) -> None:
    """A server that does not ask for it gets the bytes around it."""
    with pod.connect() as client:
        client.send(v1() + b"before ")
        client.sock.send(b"!", socket.MSG_OOB)
        client.send(b"after")
        assert client.seen(rest=12).rest == b"before after"


def test_a_reset_of_the_client_reaches_the_application(pod: Pod) -> None:
    before = pod.log.read_text().count("lost ::ffff:203.0.113.7 54321")
    with pod.connect() as client:
        client.send(v1() + b"data")
        assert client.seen(rest=4, quiet=0.02).peer == CLIENT4
    until(lambda: pod.log.read_text().count("lost ::ffff:203.0.113.7 54321") > before)


def test_a_reset_of_the_application_reaches_the_client(pod: Pod) -> None:
    """It closes with data unread."""
    with pod.connect(7001) as client:
        client.send(v1() + b"x" * 5000)
        assert client.end().end == "reset"


def test_the_server_may_end_its_side_first(pod: Pod) -> None:
    """The other direction goes on, and counts every byte."""
    before = pod.log.read_text().count("received 70000")
    with pod.connect(7002) as client:
        client.send(v1())
        assert client.end().end == "end"
        client.send(b"x" * 70000)
        client.finish()
        until(lambda: pod.log.read_text().count("received 70000") > before)


def test_a_window_that_closes_opens_again(pods: Pods) -> None:
    """The client does not read for a while, so that the application's window for it closes, and the reverse."""
    text = DATA * 160
    with pods().connect() as client:
        client.sock.settimeout(DEADLINE_S)
        sending = threading.Thread(target=lambda: client.send(v1() + text))
        sending.start()
        time.sleep(0.5)
        assert sending.is_alive(), "everything fits into the buffers: nothing was closed"
        got = Client(client.sock).seen(rest=len(text), quiet=0.02)
        sending.join()
        assert (got.peer, got.rest) == (CLIENT4, text)
