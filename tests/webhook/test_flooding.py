"""Strangers who reach the port take bounded memory, and keep nobody out."""

import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_server import PATIENCE_S, Process, answer, ask, head, receive

from support import flooding_client
from support.keypairs import pair, write
from support.reviews import body, pod
from support.shapes import SHAPES

pytestmark = pytest.mark.timeout(600)

MIB = 1024 * 1024
LIMIT = 240 * MIB
"""Of all processes together; the chart's limit is 256 MiB, and the kernel counts some of its own memory, too."""
P = "srcip.io/"


@pytest.fixture
def webhook(tmp_path: Path) -> Iterator[Process]:
    write(tmp_path, *pair("one"))
    with Process(tmp_path, SRCIP_REQUEST_TIMEOUT="1m") as process:
        process.wait("listening")
        yield process


@pytest.fixture
def trusting(tmp_path: Path) -> Iterator[Process]:
    """A webhook that waits very long for those who say nothing: longer than these tests wait for it."""
    write(tmp_path, *pair("one"))
    with Process(tmp_path, change="listener.SILENCE_S = 600", SRCIP_REQUEST_TIMEOUT="1m") as process:
        process.wait("listening")
        yield process


def memory(webhook: Process, which: str = "VmRSS") -> int:
    """Bytes of memory that the process has now, or VmHWM had at most."""
    status = Path(f"/proc/{webhook.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith(which))


def whole_memory(process: int) -> int:
    """Bytes that a process and all below it have; what they share counts once (proc(5), Pss)."""
    try:
        rollup = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        below = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return 0
    own = next((int(line.split()[1]) * 1024 for line in rollup if line.startswith("Pss:")), 0)
    return own + sum(whole_memory(int(each)) for each in below)


@contextmanager
def watched(webhook: Process) -> Iterator[list[int]]:
    """What all processes of the webhook have, again and again: a large review is worked at by one of its own."""
    seen, is_over = [whole_memory(webhook.process.pid)], threading.Event()

    def watch() -> None:
        while not is_over.wait(0.005):
            seen.append(whole_memory(webhook.process.pid))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield seen
    finally:
        is_over.set()
        watching.join()


@contextmanager
def strangers(webhook: Process, conduct: str, connections: int, sources: int) -> Iterator[None]:
    """Beside so many other addresses that hold, each, as many connections as they get up to this number."""
    port, addresses = webhook.wait("listening")["port"], [f"127.0.0.{2 + i}" for i in range(sources)]
    command = [sys.executable, flooding_client.__file__, str(port), conduct, str(connections), *addresses]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"tried\n"
        yield
    finally:
        process.kill()
        process.wait()


def answered(webhook: Process, content: bytes) -> bool:
    """Whether a review over its own connection has an answer while the strangers still hold what they have."""
    try:
        with webhook.connect() as connection:
            return ask(connection, content) == 200
    except OSError:
        return False


def reviews_answered(webhook: Process, number: int, content: bytes) -> int:
    """Of so many reviews, those that have an answer. Where this process stalls for the seconds that a handshake has,
    the webhook is right to end it; so a second attempt counts, as it does for whoever creates a Pod."""
    return sum(answered(webhook, content) or answered(webhook, content) for _ in range(number))


@pytest.mark.parametrize("sources", [2, 6])
@pytest.mark.parametrize("conduct", [each for each in flooding_client.CONDUCTS if each != "large requests"])
def test_reviews_go_on_beside_several_strangers(webhook: Process, conduct: str, sources: int) -> None:
    """However many connections each of several addresses holds, and whatever it leaves half done."""
    with strangers(webhook, conduct, 1000 // sources, sources):
        assert reviews_answered(webhook, 10, body(pod())) == 10
    assert memory(webhook, "VmHWM") < 200 * MIB


@pytest.mark.parametrize(("conduct", "connections"), [("slow large body", 160), ("large requests", 10)])
def test_large_reviews_go_on_beside_large_requests_of_strangers(
    webhook: Process, conduct: str, connections: int
) -> None:
    """Turns for large requests are shared, too, and lost by who takes one and sends nothing."""
    with watched(webhook) as seen, strangers(webhook, conduct, connections, sources=4):
        assert reviews_answered(webhook, 5, body(pod({"example.org/big": "x" * MIB}))) == 5
    assert max(seen) < LIMIT


def test_few_files_are_enough(tmp_path: Path) -> None:
    """Where the process may open few files, fewer sockets wait; none is kept from those that are worked at."""
    write(tmp_path, *pair("one"))
    long = Process(tmp_path, files=300, change="listener.SILENCE_S = 600")
    with long as webhook, strangers(webhook, "silent", 500, 2):
        assert reviews_answered(webhook, 10, body(pod())) == 10


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def open_files(webhook: Process) -> int:
    return len(list(Path(f"/proc/{webhook.process.pid}/fd").iterdir()))


def test_an_answer_that_nobody_reads_is_not_kept(tmp_path: Path) -> None:
    """Its client has some seconds for it; then the connection ends, and its memory is free."""
    write(tmp_path, *pair("one"))
    large = body(SHAPES["probes"](20000))  # its answer is larger than what the kernel takes
    with Process(tmp_path) as webhook:
        port, plain = webhook.wait("listening")["port"], socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        before = open_files(webhook)
        plain.connect(("127.0.0.1", port))
        with webhook.secured(plain) as connection:
            connection.sendall(head(len(large)) + large)
            webhook.wait("decision")
            until(lambda: open_files(webhook) <= before)


def many_files() -> int:
    """As many connections as this process may open, 4,000 at most."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return min(4000, hard - 200)


def test_silent_connections_take_no_memory_and_keep_nobody_out(trusting: Process) -> None:
    port = trusting.wait("listening")["port"]
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(many_files())]
    try:
        assert reviews_answered(trusting, 10, body(pod())) == 10
        assert memory(trusting) < 128 * MIB
    finally:
        for each in silent:
            each.close()


def test_half_a_handshake_takes_no_room_from_another_address(trusting: Process) -> None:
    """500 from one address, which has no more than its share; the other one does not wait until they time out."""
    port = trusting.wait("listening")["port"]
    begun = [socket.create_connection(("127.0.0.1", port)) for _ in range(500)]
    try:
        for each in begun:
            each.sendall(b"\x16\x03\x01\x02\x00")
        other = socket.socket()
        other.settimeout(PATIENCE_S)
        other.bind(("127.0.0.2", 0))
        other.connect(("127.0.0.1", port))
        with trusting.secured(other) as connection:
            assert ask(connection, body(pod())) == 200
        assert memory(trusting) < 128 * MIB
    finally:
        for each in begun:
            each.close()


def test_idle_connections_make_room_for_new_ones(webhook: Process) -> None:
    idle = [webhook.connect() for _ in range(200)]
    try:
        with webhook.connect() as connection:
            assert ask(connection, body(pod())) == 200
        until(lambda: sum(is_open(each) for each in idle) < 80)
        assert memory(webhook) < 128 * MIB
    finally:
        for each in idle:
            each.close()


def is_open(connection: socket.socket) -> bool:
    connection.settimeout(0.01)
    try:
        return connection.recv(1) != b""
    except TimeoutError:
        return True
    except OSError:
        return False


def test_the_largest_request_of_anybody_stays_within_the_limit(webhook: Process) -> None:
    """Of many small values, which take far more memory than bytes; several at the same time."""
    junk = b'{"a":[' + b"[]," * (7 * MIB // 3) + b"[]]}"
    large = body(pod({"example.org/big": "x" * 3 * MIB}))

    def send(content: bytes, wanted: int) -> None:
        with webhook.connect() as connection:
            connection.settimeout(2 * PATIENCE_S)
            connection.sendall(head(len(content)) + content)
            assert answer(connection)[0] == wanted

    threads = [threading.Thread(target=send, args=work) for work in [(junk, 413), (large, 200)] * 4]
    with watched(webhook) as seen:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert seen[0] + 20 * MIB < max(seen) < LIMIT
    refused = [line for line in webhook.events("rejected") if line["status"] == 413]
    assert len(refused) == 4
    assert "values" in refused[0]["error"]


def test_endless_headers_end(webhook: Process) -> None:
    with webhook.connect() as connection:
        connection.sendall(b"POST /mutate HTTP/1.1\r\n")
        with pytest.raises(OSError, match=r"closed|reset|EOF|[Bb]roken|ended") as ended:
            for _ in range(2000):
                connection.sendall(b"X-A: " + b"x" * 200 + b"\r\n")
            assert receive(connection) == b""
            raise ConnectionResetError("ended")
        assert ended
