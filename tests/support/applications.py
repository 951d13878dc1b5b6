"""Servers that the tests of ebpf mode ask for their client: how each is built and started, how it writes addresses."""

import hashlib
import ipaddress
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from srcip_lab import image, places
from srcip_lab.tools import machine_path, run

Address = tuple[str, int]
SOURCES = Path(__file__).with_name("apps")
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


def words_or_skip(words: Callable[[], list[str]]) -> list[str]:
    """A command. Where there can be none, the test is skipped with the reason; in CI that is a failure."""
    try:
        return words()
    except Missing as missing:
        if os.environ.get("CI"):
            pytest.fail(str(missing))
        pytest.skip(str(missing))


def built(sources: tuple[str, ...], *words: str, by: str = "") -> Path:
    """The directory with what a compiler makes of the sources; compiled when it is not in the cache yet."""
    files = [SOURCES / name for name in sources]
    parts = [by.encode(), *(word.encode() for word in words), *(file.read_bytes() for file in files)]
    key = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    done = places.cache() / f"peer-{key}"
    with image.locked(places.cache() / ".peer.lock"):
        if not done.is_dir():
            aside = done.with_name(f".building-{done.name}")
            shutil.rmtree(aside, ignore_errors=True)  # of a build that was interrupted: the lock is ours
            aside.mkdir()
            run(*words, str(aside), *map(str, files))
            aside.rename(done)
    return done


def go(name: str = "peer") -> list[str]:
    """Its own runtime is a part of the program, so another Go makes another one."""
    compiler = program("go", "install Go, which builds Kubernetes for ring 3, too")
    variables = ("env", "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
    words = (*variables, compiler, "build", "-trimpath", "-o")
    return [str(built((f"{name}.go",), *words, by=run(compiler, "version")) / name)]


def java(main: str, sources: tuple[str, ...] = ("Peer.java", "ChannelPeer.java")) -> list[str]:
    """The compiler may be that of the JDK or Debian's ecj, which goes by its name; both know these options."""
    compiler = (program("javac"), "-source", "17", "-target", "17", "-proc:none", "-d")
    classes = built(sources, *compiler)
    return [program("java"), "-Xmx64m", "-cp", str(classes), main]


def node(name: str = "peer") -> list[str]:
    return [program("node"), str(SOURCES / f"{name}.js")]


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
