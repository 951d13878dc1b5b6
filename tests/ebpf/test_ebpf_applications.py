"""Unmodified servers of Go, Java, Node and Redis name the client as their users ask for it.

Go and Java keep what accept() said; Node asks getpeername(); Redis logs what accept() said and lists what getpeername()
says. Go, Java and Node listen with one AF_INET6 socket for both versions of IP. Redis has a socket of its own for each,
so on IPv4 it cannot be shown an IPv6 client.
"""

import re
import socket
import subprocess
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from srcip_proxy.plan import PortRange
from support.applications import APPLICATIONS, PEERS, REDIS, Application, program, redis, with_brackets, words_or_skip
from support.ebpf_rig import Pod, Pods
from support.rig import CLIENT4, CLIENT6, LB4, LB6, LOCAL, POD4, POD6, Client, v2
from support.waiting import DEADLINE_S, until

pytestmark = pytest.mark.dataplane

EVERY_PORT = (PortRange(1, 65535),)
"""Also those that the Pod's own connections have."""
PORTS = count(20000)
"""Of clients: each test claims another one."""
IPPROTO_MPTCP = 262
DATA = b"".join(number.to_bytes(4, "big") for number in range(25_000))
REFUSED = {"no header": b"hello\n", "a loopback address": v2(("127.0.0.1", 1))}


def served_by(*apps: Application) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("served", apps, indirect=True, ids=lambda app: app.name)


to_each = pytest.mark.parametrize("to", [POD4, POD6], ids=["over IPv4", "over IPv6"])
from_each = pytest.mark.parametrize("address", [CLIENT4[0], CLIENT6[0]], ids=["IPv4 client", "IPv6 client"])


@dataclass(frozen=True)
class Served:
    """An application that listens in the Pod."""

    app: Application
    pod: Pod
    port: int
    log: Path

    def accepted(self, who: str = "") -> int:
        """How often it says that it has accepted a connection of this client, or of any."""
        return len(re.findall(f"[Aa]ccepted {re.escape(who) or '.*'}$", self.log.read_text(), re.MULTILINE))

    def connect(self, to: str) -> Client:
        return self.pod.connect(self.port, to=to)


@pytest.fixture(scope="module")
def served(request: pytest.FixtureRequest, pods: Pods, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """The application, in a Pod where every port is intercepted."""
    app: Application = request.param
    words = words_or_skip(app.words)
    pod = pods(mode="ebpf", inbound_ports=EVERY_PORT)
    port = 7010 + APPLICATIONS.index(app)
    log = tmp_path_factory.mktemp("log") / app.name
    with log.open("w") as output:
        pod.processes.append(pod.inside([*words, app.listen, str(port)], stdout=output, stderr=subprocess.STDOUT))
    until(lambda: app.ready in log.read_text(), log.read_text)
    return Served(app, pod, port, log)


def answer(client: Client, app: Application, size: int = 0) -> tuple[str, bytes]:
    """Who the application says the client is, and the bytes after that, at least `size`."""
    client.sock.settimeout(DEADLINE_S)
    while not ((told := re.match(app.answer, client.got)) and len(client.got) >= told.end() + size):
        data = client.sock.recv(65536)
        assert data, client.got
        client.got += data
    return told[1].decode(), client.got[told.end() :]


@served_by(*APPLICATIONS)
@to_each
@from_each
def test_the_application_names_the_client(served: Served, address: str, to: str) -> None:
    """To the client itself and in its log. Redis is shown the balancer in place of an IPv6 client on IPv4."""
    stated = (address, next(PORTS))
    with served.connect(to) as client:
        client.send(v2(stated) + served.app.question)
        given = served.app.given(stated, client.sock.getsockname()[:2])
        assert answer(client, served.app) == (served.app.writes(*given), b"")
        assert served.accepted(served.app.logs(*given)) == 1


@served_by(*APPLICATIONS)
@to_each
def test_a_local_connection_shows_the_balancer(served: Served, to: str) -> None:
    with served.connect(to) as client:
        client.send(LOCAL + served.app.question)
        balancer = client.sock.getsockname()[:2]
        given = served.app.given(balancer, balancer)
        assert answer(client, served.app) == (served.app.writes(*given), b"")
        assert served.accepted(served.app.logs(*given)) == 1


@served_by(*APPLICATIONS)
@to_each
def test_all_data_comes_and_goes_and_then_the_end(served: Served, to: str) -> None:
    """The first of it in one segment with the header."""
    text = served.app.frame(DATA)
    with served.connect(to) as client:
        client.send(v2((CLIENT4[0], next(PORTS))) + served.app.question + served.app.echo + text)
        assert answer(client, served.app, len(text))[1] == text
        client.finish()
        assert client.sock.recv(1) == b""


@served_by(*APPLICATIONS)
@to_each
@pytest.mark.parametrize("refused", REFUSED, ids=str)
def test_a_refused_connection_never_reaches_the_application(served: Served, refused: str, to: str) -> None:
    """It would come out of accept() before the good one that follows, and be logged before it."""
    before = served.accepted()
    with served.connect(to) as client:
        client.send(REFUSED[refused] + served.app.question)
        assert client.seen().refused
    with served.connect(to) as client:
        client.send(v2((CLIENT4[0], next(PORTS))) + served.app.question)
        answer(client, served.app)
    assert served.accepted() == before + 1


@served_by(*PEERS)
@to_each
def test_a_connection_of_its_own_shows_whom_it_reaches(served: Served, to: str) -> None:
    """Also while it serves a client of that balancer's: its own port is intercepted, too."""
    balancer = {POD4: LB4, POD6: LB6}[to]
    with served.connect(to) as client, served.pod.net.lb.listen(0, balancer) as listener:
        client.send(v2((CLIENT6[0], next(PORTS))))
        answer(client, served.app)
        port = listener.getsockname()[1]
        done = served.pod.run([*served.app.words(), "connect", balancer, str(port)])
        assert done.stderr == ""
        assert done.stdout == f"{served.app.writes(balancer, port)}\n"


@served_by(REDIS)
@to_each
@from_each
def test_redis_lists_the_client(served: Served, address: str, to: str) -> None:
    """To whoever asks, as long as the connection is open; who is shown the balancer instead is counted."""
    stated = (address, next(PORTS))
    before = served.pod.stats().get("fallback family", 0)
    with served.connect(to) as client:
        client.send(v2(stated) + served.app.question)
        answer(client, served.app)
        balancer = client.sock.getsockname()[:2]
        given = served.app.given(stated, balancer)
        assert f" addr={with_brackets(*given)} " in redis_cli(served, "CLIENT", "LIST")
    assert served.pod.stats().get("fallback family", 0) - before == (given == balancer)


def redis_cli(served: Served, *words: str) -> str:
    done = served.pod.run([program("redis-cli"), "-p", str(served.port), *words])
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@served_by(REDIS)
@to_each
def test_a_replica_of_redis_knows_its_true_master(served: Served, to: str, tmp_path: Path) -> None:
    """Its master runs where the balancer does, and getpeername() says so."""
    address, log = {POD4: LB4, POD6: LB6}[to], tmp_path / "master.log"
    with log.open("w") as output:
        master = served.pod.net.lb.popen([*redis(), "--port", "6379"], stdout=output, cwd=tmp_path)
    try:
        until(lambda: REDIS.ready in log.read_text(), log.read_text)
        redis_cli(served, "REPLICAOF", address, "6379")
        row = re.compile(rf" addr={re.escape(with_brackets(address, 6379))} .* flags=M ")
        until(lambda: row.search(redis_cli(served, "CLIENT", "LIST")), served.log.read_text)
    finally:
        redis_cli(served, "REPLICAOF", "NO", "ONE")
        master.kill()
        master.wait()


@served_by(PEERS[0])
@to_each
def test_a_balancer_that_speaks_mptcp_is_answered_in_tcp(served: Served, to: str) -> None:
    """Go listens for MPTCP since 1.24. Its mapping of sequence numbers would count the header, and no hook speaks for
    such a socket, so the option goes from the SYN, and both ends fall back."""
    stated = (CLIENT6[0], next(PORTS))
    with Client(served.pod.net.lb.call(lambda: mptcp(to))) as client:
        client.sock.settimeout(DEADLINE_S)
        client.sock.connect((to, served.port))
        client.send(v2(stated) + DATA)
        assert answer(client, served.app, len(DATA)) == (served.app.writes(*stated), DATA)
        client.finish()
        assert client.sock.recv(1) == b""


def mptcp(to: str) -> socket.socket:
    """Skips where the kernel has none."""
    try:
        return socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP)
    except OSError as error:
        pytest.skip(f"no MPTCP in this kernel: {error}")
