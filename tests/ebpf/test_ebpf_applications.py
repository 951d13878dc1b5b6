"""Unmodified servers of Go, Java, Node and Redis name the client as their users ask for it.

Go and Java keep what accept() said; Node asks getpeername(); Redis logs what accept() said and lists what getpeername()
says. Go, Java and Node listen with one AF_INET6 socket for both versions of IP. Redis has a socket of its own for each,
so on IPv4 it cannot be shown an IPv6 client.
"""

import hashlib
import ipaddress
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
from ebpf_rig import Pod, Pods
from rig import CLIENT4, CLIENT6, LB4, LB6, LOCAL, POD4, POD6, Client, v2

from srcip_lab import image
from srcip_lab.tools import machine_path, run
from srcip_proxy.plan import PortRange

pytestmark = pytest.mark.dataplane

Address = tuple[str, int]
APPS = Path(__file__).with_name("apps")
EVERY_PORT = (PortRange(1, 65535),)
"""Also those that the Pod's own connections have."""
PORTS = count(20000)
"""Of clients: each test claims another one."""
DATA = b"".join(number.to_bytes(4, "big") for number in range(25_000))
REFUSED = {"no header": b"hello\n", "a loopback address": v2(("127.0.0.1", 1))}
REPLICATION = ("--repl-diskless-sync-delay", "0", "--repl-diskless-load", "on-empty-db")
"""At once, and no file is written."""


class Missing(Exception):
    """What this machine does not have."""


@dataclass(frozen=True)
class Application:
    """How one is started, how it says who its client is, and how it is asked to send data back."""

    name: str
    words: Callable[[], list[str]]
    """Its command; raises Missing."""
    writes: Callable[[str, int], str]
    """How it writes an address that the kernel gave it."""
    logs: Callable[[str, int], str]
    listen: str = "listen"
    """What comes before the port in its command."""
    ready: str = "listening"
    is_dual: bool = True
    """Whether one AF_INET6 socket serves both versions of IP."""
    question: bytes = b""
    answer: bytes = rb"(.*)\n"
    echo: bytes = b""
    frame: Callable[[bytes], bytes] = bytes
    """How data is written, in the question and in the answer."""

    def given(self, client: Address, balancer: Address) -> Address:
        """What the kernel says of a client: its socket has an address of its own family only."""
        if not self.is_dual and ":" not in balancer[0]:
            return balancer if ":" in client[0] else client
        return client if ":" in client[0] else (f"::ffff:{client[0]}", client[1])


def program(name: str, hint: str = "e2e/setup.sh test") -> str:
    """Where the program is. Raises Missing."""
    found = shutil.which(name, path=f"{machine_path()}:/usr/local/go/bin")
    if not found:
        raise Missing(f"missing on this machine: {name} ({hint})")
    return found


def built(sources: tuple[str, ...], *words: str, by: str = "") -> Path:
    """The directory with what a compiler makes of the sources; compiled when it is not in the cache yet."""
    files = [APPS / name for name in sources]
    parts = [by.encode(), *(word.encode() for word in words), *(file.read_bytes() for file in files)]
    key = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    done = image.cache() / f"peer-{key}"
    with image.locked(image.cache() / ".peer.lock"):
        if not done.is_dir():
            aside = done.with_name(f".building-{done.name}")
            shutil.rmtree(aside, ignore_errors=True)  # of a build that was interrupted: the lock is ours
            aside.mkdir()
            run(*words, str(aside), *map(str, files))
            aside.rename(done)
    return done


def go() -> list[str]:
    """Its own runtime is a part of the program, so another Go makes another one."""
    compiler = program("go", "install Go, which builds Kubernetes for ring 3, too")
    variables = ("env", "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
    words = (*variables, compiler, "build", "-trimpath", "-o")
    return [str(built(("peer.go",), *words, by=run(compiler, "version")) / "peer")]


def java(main: str) -> list[str]:
    """By the JDK's compiler if it is there, or by the small one of Eclipse."""
    flags = ("javac", "--release", "17") if shutil.which("javac") else ("ecj", "-17", "-proc:none")
    compiler = (program(flags[0]), *flags[1:], "-d")
    classes = built(("Peer.java", "ChannelPeer.java"), *compiler)
    return [program("java"), "-Xmx64m", "-cp", str(classes), main]


def node() -> list[str]:
    return [program("node"), str(APPS / "peer.js")]


def redis() -> list[str]:
    """Debian's server, from the package of its tools: both are one program, and that package starts no service."""
    named = ("bash", "-c", 'exec -a redis-server "$0" "$@"', program("redis-check-rdb"))
    return [*named, "--loglevel", "verbose", "--save", "", "--protected-mode", "no", *REPLICATION]


def with_brackets(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def in_go(address: str, port: int) -> str:
    return with_brackets(address.removeprefix("::ffff:"), port)


def in_java(address: str, port: int) -> str:
    """With all eight groups of an IPv6 address."""
    plain = ipaddress.ip_address(address.removeprefix("::ffff:"))
    groups = plain.exploded.split(":") if plain.version == 6 else []
    return "/" + with_brackets(":".join(f"{int(group, 16):x}" for group in groups) or str(plain), port)


def in_words(address: str, port: int) -> str:
    return f"{address} {port}"


def in_redis_log(address: str, port: int) -> str:
    return f"{address}:{port}"


def bulk(data: bytes) -> bytes:
    """A string in Redis' protocol."""
    return b"$%d\r\n%s\r\n" % (len(data), data)


REDIS = Application(
    "redis",
    redis,
    with_brackets,
    in_redis_log,
    listen="--port",
    ready="Ready to accept connections",
    is_dual=False,
    question=b"CLIENT INFO\r\n",
    answer=rb"\$\d+\r\nid=\d+ addr=(\S+) .*\n\r\n",
    echo=b"*2\r\n$4\r\nECHO\r\n",
    frame=bulk,
)
PEERS = (
    Application("go", go, in_go, in_go),
    Application("java", lambda: java("Peer"), in_java, in_java),
    Application("java-channel", lambda: java("ChannelPeer"), in_java, in_java),
    Application("node", node, in_words, in_words),
)
APPLICATIONS = (*PEERS, REDIS)


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


def until(is_true: Callable[[], object], failure: Callable[[], str]) -> None:
    """Wait for what takes an application some time."""
    deadline = time.monotonic() + 20
    while not is_true():
        assert time.monotonic() < deadline, failure()
        time.sleep(0.02)


def words_of(app: Application) -> list[str]:
    """Its command. Where there can be none, the test is skipped with the reason; in CI that is a failure."""
    try:
        return app.words()
    except Missing as missing:
        if os.environ.get("CI"):
            pytest.fail(str(missing))
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def served(request: pytest.FixtureRequest, pods: Pods, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """The application, in a Pod where every port is intercepted."""
    app: Application = request.param
    words = words_of(app)
    pod = pods(mode="ebpf", inbound_ports=EVERY_PORT)
    port = 7010 + APPLICATIONS.index(app)
    log = tmp_path_factory.mktemp("log") / app.name
    with log.open("w") as output:
        pod.processes.append(pod.inside([*words, app.listen, str(port)], stdout=output, stderr=subprocess.STDOUT))
    until(lambda: app.ready in log.read_text(), log.read_text)
    return Served(app, pod, port, log)


def answer(client: Client, app: Application, size: int = 0) -> tuple[str, bytes]:
    """Who the application says the client is, and the bytes after that, at least `size`."""
    client.sock.settimeout(10)
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
        assert unnamed(done.stdout) == f"{served.app.writes(balancer, port)}\n"


def unnamed(text: str) -> str:
    """Java writes the name before the slash where it knows one: here it is the address again."""
    return text[text.find("/") :] if "/" in text else text


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
