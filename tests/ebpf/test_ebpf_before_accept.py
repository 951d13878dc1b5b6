"""A connection that is over before the application accepts it: its client is told all the same, whoever ended it."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.ebpf_rig import LB4_ADDRESS, Pod, running
from support.rig import POD4, POD6, Client, v1
from support.waiting import until

pytestmark = pytest.mark.dataplane

SLOW = """
import socket, sys
address, *options = sys.argv[1:]
listeners = []
for port in (7000, 7001):
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for option in options:
        level, name, value = option.split(",")
        listener.setsockopt(getattr(socket, level), getattr(socket, name), int(value))
    listener.bind((address, port))
    listener.listen(64)
    listeners.append(listener)
print("listening", flush=True)
while True:
    connection, peer = listeners[int(sys.stdin.readline()) - 7000].accept()
    print("accepted", peer[0].removeprefix("::ffff:"), peer[1], flush=True)
    connection.close()
"""
KEEPALIVE = ("SOL_SOCKET,SO_KEEPALIVE,1", "IPPROTO_TCP,TCP_KEEPIDLE,1", "IPPROTO_TCP,TCP_KEEPINTVL,1")
COUNT = (*KEEPALIVE, "IPPROTO_TCP,TCP_KEEPCNT,1")
"""The listener's, which its connections inherit: given up 2 s after the last packet."""
USER_TIMEOUT = (*KEEPALIVE, "IPPROTO_TCP,TCP_USER_TIMEOUT,1000")
Accept = Callable[..., str]


@contextmanager
def slow(folder: Path, listener: str, *options: str, **changes: object) -> Iterator[tuple[Pod, Accept]]:
    """A Pod whose application accepts when it is told to, and says whom. `options` are the listener's."""
    fifo = folder / "next"
    os.mkfifo(fifo)
    with running(**changes) as pod:
        pod.stop()
        with fifo.open("r+b", buffering=0) as orders:
            words = ["sh", "-c", f'exec "$@" <{fifo}', "sh", sys.executable, "-c", SLOW, listener, *options]
            log = pod.start(words)

            def accept(port: int = 7000) -> str:
                count = log.read_text().count("accepted")
                orders.write(f"{port}\n".encode())
                until(lambda: log.read_text().count("accepted") > count)
                return log.read_text().split("accepted ")[-1].strip()

            yield pod, accept


def waiting(pod: Pod) -> int:
    """Connections that the kernel has not given up."""
    return len(pod.sh("pod", "ss -Htn state established").splitlines())


def given_up(pod: Pod, left: int = 0) -> None:
    """Wait until the Pod's kernel has no more than `left` of them."""
    until(lambda: waiting(pod) <= left, lambda: pod.sh("pod", "ss -tno"))


def begun(pod: Pod, number: int, *, to: str = POD4, port: int = 7000, source: int = 0) -> Client:
    """A connection of another client, with its header and some data."""
    at = (LB4_ADDRESS, source) if source else None
    before = waiting(pod)
    client = Client(pod.net.lb.connect(to, port, source=at)) if at else pod.connect(port, to=to)
    client.send(v1(("198.51.100.43", number)) + b"data")
    until(lambda: waiting(pod) > before)
    return client


def cut(pod: Pod, host: str, hook: str, verdict: str = "drop") -> None:
    """From now on packets of this host's connections to or from the ports end at a hook of netfilter."""
    pod.sh(host, f"nft 'add table inet cut; add chain inet cut c {{ type filter hook {hook} priority 300; }}'")
    way = "sport" if host == "pod" or hook == "input" else "dport"
    pod.sh(host, f"nft add rule inet cut c tcp {way} 7000-7001 {verdict}")


WAYS: dict[str, tuple[tuple[str, ...], Callable[[Pod], object]]] = {
    "keep-alives without an answer": (COUNT, lambda pod: cut(pod, "lb", "input")),
    "keep-alives that never leave the Pod": (COUNT, lambda pod: cut(pod, "pod", "output")),
    "no way back": (COUNT, lambda pod: pod.sh("pod", "ip route flush default; ip -6 route flush default")),
    "a firewall that resets the Pod's own packets": (
        COUNT,
        lambda pod: cut(pod, "pod", "output", "reject with tcp reset"),
    ),
    "user timeout": (USER_TIMEOUT, lambda pod: cut(pod, "lb", "input")),
    "user timeout, and nothing leaves": (USER_TIMEOUT, lambda pod: cut(pod, "pod", "output")),
    "destroyed by an administrator": ((), lambda pod: pod.sh("pod", 'ss -K state established "( sport = 7000 )"')),
}


@pytest.mark.parametrize("listener", ["::", "0.0.0.0"])
@pytest.mark.parametrize("way", WAYS)
def test_a_connection_that_the_pods_kernel_gives_up_tells_its_client(way: str, listener: str, tmp_path: Path) -> None:
    """The application reads the data and knows whose it is; the balancer is never taken for the client."""
    options, give_up = WAYS[way]
    with slow(tmp_path, listener, *options) as (pod, accept):
        clients = [begun(pod, 4300 + number, to=POD6 if listener == "::" and number else POD4) for number in range(2)]
        assert waiting(pod) == 2
        give_up(pod)
        given_up(pod)
        assert [accept(), accept()] == ["198.51.100.43 4300", "198.51.100.43 4301"]
        assert "fallback reset" not in pod.stats()
        for client in clients:
            client.sock.close()


def destroy_unseen(pod: Pod, left: int = 0) -> None:
    """End the Pod's connections, and let no packet tell."""
    cut(pod, "pod", "output")
    pod.sh("pod", 'ss -K state established "( sport = 7000 or sport = 7001 )"')
    given_up(pod, left)
    pod.sh("pod", "nft delete table inet cut")


def test_what_makes_room_in_the_table_is_still_told(tmp_path: Path) -> None:
    """The kernel has no socket of such a flow any more, and one that waits to be accepted all the same."""
    with slow(tmp_path, "0.0.0.0", max_connections=2) as (pod, accept):
        clients = [begun(pod, 4400 + number) for number in range(2)]
        destroy_unseen(pod)
        clients += [begun(pod, 4402 + number) for number in range(2)]
        assert [accept() for _ in clients] == [f"198.51.100.43 {4400 + number}" for number in range(4)]
        assert "refused no_room" not in pod.stats()
        for client in clients:
            client.sock.close()


def test_a_port_that_is_used_again_takes_nothing_from_whom_was_there_before(tmp_path: Path) -> None:
    """The new connection has the old one's flow, and each its own client."""
    with slow(tmp_path, "0.0.0.0") as (pod, accept):
        old = begun(pod, 4500, source=40778)
        destroy_unseen(pod)
        cut(pod, "lb", "output")
        old.reset()
        pod.sh("lb", "nft delete table inet cut")
        new = begun(pod, 4501, source=40778)
        assert [accept(), accept()] == ["198.51.100.43 4500", "198.51.100.43 4501"]
        new.sock.close()


def test_two_that_were_given_up_unseen_from_one_port_are_nobody(tmp_path: Path) -> None:
    """As with those that were reset; one that is alive is told apart by its own port."""
    with slow(tmp_path, "0.0.0.0") as (pod, accept):
        clients = [begun(pod, 4600 + number, port=7000 + number, source=40779) for number in range(2)]
        destroy_unseen(pod)
        assert (accept(7000), accept(7001)) == ("0.0.0.0 0", "0.0.0.0 0")
        assert pod.stats()["fallback reset"] == 2
        for client in clients:
            client.sock.close()


@pytest.mark.parametrize("listener", ["::", "0.0.0.0"])
def test_a_client_that_resets_before_it_is_accepted_is_told(listener: str, tmp_path: Path) -> None:
    """Its socket has given its port back, and still says who it was; once is enough."""
    with slow(tmp_path, listener) as (pod, accept):
        for number in range(3):
            with pod.connect() as client:
                client.send(v1(("198.51.100.40", 4000 + number)) + b"data")
                until(lambda: waiting(pod) == 1)
            given_up(pod)
            assert accept() == f"198.51.100.40 {4000 + number}"
        assert "fallback reset" not in pod.stats()


def test_two_that_were_reset_from_one_port_are_nobody(tmp_path: Path) -> None:
    """Nothing tells them apart: the application sees no address rather than another's, and it is counted. The next one
    from there is told."""
    with slow(tmp_path, "0.0.0.0") as (pod, accept):
        for number in range(2):
            with Client(pod.net.lb.connect(POD4, 7000, source=(LB4_ADDRESS, 40777))) as client:
                client.send(v1(("198.51.100.41", 4000 + number)) + b"data")
                until(lambda: waiting(pod) == 1)
            given_up(pod)
        assert (accept(), accept()) == ("0.0.0.0 0", "0.0.0.0 0")
        assert pod.stats()["fallback reset"] == 2
        with Client(pod.net.lb.connect(POD4, 7000, source=(LB4_ADDRESS, 40777))) as client:
            client.send(v1(("198.51.100.42", 4242)) + b"data")
            until(lambda: waiting(pod) == 1)
        given_up(pod)
        assert accept() == "198.51.100.42 4242"
