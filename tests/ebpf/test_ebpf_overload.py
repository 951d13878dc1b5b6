"""Listeners whose queue is full while headers arrive."""

import socket
import time

import pytest

from support.ebpf_rig import Pod, running
from support.rig import CLIENT4, POD4, v1
from support.waiting import DEADLINE_S, until

pytestmark = pytest.mark.dataplane

ROOM, PORT = 3, 7050
"""One more fits in the queue, and as many half-open connections where there are no SYN cookies."""


def refused_by_the_queue(pod: Pod) -> int:
    return int(pod.sh("pod", "nstat -asz TcpExtListenOverflows | tail -1").split()[1])


@pytest.mark.parametrize("data", [b"", b"hello"])
@pytest.mark.parametrize("cookies", [0, 2])
def test_a_full_queue_of_the_listener_is_waited_for(cookies: int, data: bytes) -> None:
    """What the kernel drops then comes again from the balancer, and not from the programs, which would never stop."""
    with running() as pod:
        pod.sh("pod", f"sysctl -qw net.ipv4.tcp_syncookies={cookies}")
        listener = pod.net.pod.call(lambda: socket.create_server((POD4, PORT), backlog=ROOM))
        clients = []
        for _ in range(2):
            some = [pod.net.lb.connect(POD4, PORT) for _ in range(ROOM)]
            for client in some:
                client.sendall(v1() + data)
            clients += some
        until(lambda: refused_by_the_queue(pod))
        time.sleep(0.3)
        assert refused_by_the_queue(pod) < 50
        listener.settimeout(DEADLINE_S)
        for _ in clients:
            with listener.accept()[0] as accepted:
                accepted.settimeout(DEADLINE_S)
                assert not data or accepted.recv(100) == data
        for sock in (*clients, listener):
            sock.close()


def test_an_end_behind_the_data_of_a_first_segment_takes_none_of_it_away() -> None:
    """Header, data and FIN in one segment, with SYN cookies and without."""
    with running() as pod:
        for cookies in (0, 1, 2):
            pod.sh("pod", f"sysctl -qw net.ipv4.tcp_syncookies={cookies}")
            for data in (b"", b"hello"):
                with pod.connect() as client:
                    client.sock.send(v1() + data, socket.MSG_MORE)
                    client.finish()
                    seen = client.end(rest=len(data) + 5)
                    assert (seen.peer, seen.rest) == (CLIENT4, data + b"<end>")
