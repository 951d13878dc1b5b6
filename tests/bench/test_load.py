"""The load generator against its own server: what it counts is what happened."""

import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from srcip_e2e.bench.pods import SIZE, pod, review
from srcip_e2e.bench.rig import LOAD_SOURCES, claimed

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (apt-get install gcc libc6-dev)")


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled program; a warning is an error."""
    program = tmp_path_factory.mktemp("load") / "load"
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, *LOAD_SOURCES], check=True)
    return program


@pytest.fixture(scope="module")
def port(load: Path) -> Iterator[int]:
    """First of six ports with a server behind them, below those that the kernel gives to others."""
    for first in range(20000, 20400, 6):
        with subprocess.Popen([load, "server", str(first)], stdout=subprocess.PIPE) as server:
            assert server.stdout
            if server.stdout.readline() == b"ready\n":
                yield first
                server.terminate()
                return
    pytest.fail("no six free ports between 20000 and 20400")


def client(load: Path, mode: str, port: int, **options: int | str) -> dict[str, Any]:
    given: dict[str, int | str] = {"to": "127.0.0.1", "ms": 100, **options}
    words = [f"{key}={value}" for key, value in given.items()]
    out = subprocess.run([load, "client", mode, f"port={port}", *words], capture_output=True, check=True, input=b"")
    return dict(json.loads(out.stdout))


def answered(load: Path, mode: str, port: int, **options: int | str) -> dict[str, Any]:
    """A run that has come to anything: a busy machine needs longer for it."""
    runs = (client(load, mode, port, **{**options, "ms": ms}) for ms in (100, 1000, 10_000, 60_000))
    return next(said for said in runs if said["done"] or said["errors"])


@pytest.mark.parametrize("http", [0, 1])
@pytest.mark.parametrize("mode", ["connect", "request"])
@pytest.mark.parametrize("to", ["127.0.0.1", "::1"])
def test_requests_are_answered_and_timed(load: Path, port: int, mode: str, to: str, http: int) -> None:
    for milliseconds in (100, 1000, 10_000, 30_000):  # as long as this machine needs
        said = client(load, mode, port, n=4, to=to, http=http, ms=milliseconds)
        assert said["errors"] == 0
        if said["done"] > 100:
            break
    assert said["done"] > 100
    assert 0 < said["p50_us"] <= said["p99_us"]


def test_a_number_of_connections_at_a_rate(load: Path, port: int) -> None:
    """No more connections than asked for, and none sooner."""
    began = time.monotonic()
    said = client(load, "connect", port, n=64, most=1000, rate=2000, ms=60000)
    assert said["done"] == 1000
    assert time.monotonic() - began > 0.49


def answer_slowly(listener: socket.socket, seconds: float) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            connection.recv(8)
            time.sleep(seconds)
            connection.sendall(bytes(8))


def test_a_slow_answer_is_told_as_slow(load: Path) -> None:
    """The histogram's buckets are right: an answer that takes 20 ms is counted as 20 ms."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer_slowly, args=(listener, 0.02), daemon=True).start()
        began = time.monotonic()
        said = client(load, "connect", listener.getsockname()[1], size=8, n=1)
        mean_us = (time.monotonic() - began) * 1e6 / said["done"]
    assert 19_000 < said["p50_us"] < 2 * mean_us, "half of them take less than twice the mean, whatever they take"


ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 512\r\n\r\n" + bytes(512)


def answer_in_pieces(listener: socket.socket, pieces: list[bytes]) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            connection.recv(4096)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(0.005)


@pytest.mark.parametrize(("pieces", "whole"), [
    ([ANSWER], True), ([ANSWER[:20], ANSWER[20:]], True), ([ANSWER[:37], ANSWER[37:]], True),
    ([ANSWER[:40], ANSWER[40:300], ANSWER[300:]], True), ([ANSWER[:-1]], False), ([ANSWER + b"x"], False),
    ([ANSWER.replace(b"200", b"502")], False), ([ANSWER.replace(b"\r\n\r\n", b"\r\n\n")], False),
])  # fmt: skip
def test_only_a_whole_answer_with_status_200_counts(load: Path, pieces: list[bytes], whole: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer_in_pieces, args=(listener, pieces), daemon=True).start()
        said = answered(load, "connect", listener.getsockname()[1] - 4, http=1)
    assert (said["done"] > 0, said["errors"] == 0) == (whole, whole)


@pytest.mark.parametrize("mode", ["up", "down"])
def test_bulk_is_counted_in_bytes(load: Path, port: int, mode: str) -> None:
    said = client(load, mode, port, n=2, ms=2000)
    assert said["mb_per_second"] > 0
    assert said["errors"] == 0


def test_the_server_says_who_its_peer_is(load: Path, port: int) -> None:
    seen = client(load, "peer", port, **{"from": "127.0.0.9"})["seen"]
    assert seen.startswith("127.0.0.9:")


def test_the_server_says_which_request_it_got(load: Path, port: int) -> None:
    """Headers that a client forged are in it, so that a relay can be seen to take them out."""
    head = client(load, "seen", port)["seen"]
    assert head.startswith(f"GET /shop/cart?item=4711 HTTP/1.1\r\nHost: 127.0.0.1:{port + 5}\r\n")
    assert "\r\nX-Forwarded-For: 203.0.113.9\r\n" in head
    assert head.endswith("\r\n\r\n")


@pytest.mark.parametrize("http", [0, 1])
def test_a_header_that_reaches_the_server_is_a_failure(load: Path, port: int, http: int) -> None:
    """Without a relay the header comes back with the answer: the run must not look like a success. After a thousand
    failures it ends by itself."""
    words = ["connect", f"port={port}", "to=127.0.0.1", "ms=60000", "proxy=2", f"http={http}"]
    run = subprocess.run([load, "client", *words], check=False, capture_output=True, text=True, input="")
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith("load: too many failed connections, the last one: ")


@pytest.mark.parametrize(
    ("version", "start"), [(1, b"PROXY TCP4 198.18.0.6 127.0.0.1 1024 "), (2, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c")]
)
def test_the_header_comes_first_and_with_the_request(load: Path, version: int, start: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.getsockname()[1]
        words = [f"port={number}", "to=127.0.0.1", "ms=300", "n=1", "size=8", f"proxy={version}", "seed=5"]
        with subprocess.Popen([load, "client", "connect", *words], stdout=subprocess.PIPE) as process:
            connection, _ = listener.accept()
            with connection:
                data = connection.recv(4096)
            process.kill()
    assert data.startswith(start)
    assert data.endswith(bytes(8))
    if version == 2:
        assert f"{socket.inet_ntoa(data[16:20])}:{int.from_bytes(data[24:26])}" == claimed(5)


def test_no_two_runs_claim_the_same_client() -> None:
    assert len({claimed(seed) for seed in range(5000)}) == 5000
    assert claimed(1024) == "198.18.0.1:1025"


@pytest.mark.parametrize("words", [["client"], ["client", "connect"], ["client", "fly", "to=::1"], ["server", "0"],
                                   ["client", "connect", "to=nowhere"], ["client", "connect", "to=::1", "n=0"],
                                   ["client", "connect", "to=::1", "size"],
                                   ["client", "connect", "to=::1", "http=2"]])  # fmt: skip
def test_a_wrong_call_is_refused_with_what_is_wrong(load: Path, words: list[str]) -> None:
    done = subprocess.run([load, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("load: ")


def test_the_review_holds_a_pod_of_ten_kilobytes_to_inject() -> None:
    assert SIZE <= len(json.dumps(pod())) < SIZE + 200
    assert json.loads(review())["request"]["object"]["metadata"]["annotations"] == {"srcip.io/mode": "tproxy"}
