"""The real process over real TLS: certificates change under load, hostile clients harm nobody, SIGTERM drains."""

import json
import os
import resource
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pytest

from support.keypairs import common_name, pair, write
from support.reviews import body, pod

REQUEST_TIMEOUT_S = 2.0
PATIENCE_S = 60.0
"""How long an event is waited for, in seconds, on however busy a machine. What must not be waited for takes LONG."""
LONG = "600s"


class Process:
    """One running webhook."""

    def __init__(self, folder: Path, files: int = 0, change: str = "", **environ: str) -> None:
        """`files` is how many it may have open; 0 for as many as this process. `change` is Python code that runs
        first, such as one that makes a constant time-out very long."""
        self.folder = folder
        self.log = folder / "log"
        settings = {
            "SRCIP_PROXY_IMAGE": "registry.example/srcip-proxy:1",
            "SRCIP_LISTEN_ADDRESS": "127.0.0.1",
            "SRCIP_LISTEN_PORT": "0",
            "SRCIP_TLS_CERT_FILE": str(folder / "tls.crt"),
            "SRCIP_TLS_KEY_FILE": str(folder / "tls.key"),
            "SRCIP_REQUEST_TIMEOUT": f"{REQUEST_TIMEOUT_S}s",
            "SRCIP_DRAIN_TIMEOUT": "5s",
            "PATH": os.environ["PATH"],
            **environ,
        }
        with self.log.open("wb") as log:
            code = f"from srcip_webhook import listener, server, work, workers\n{change}\nserver.main()"
            command = [sys.executable, *(["-c", code] if change else ["-m", "srcip_webhook.server"])]
            self.process = subprocess.Popen(command, env=settings, stdout=log, stderr=subprocess.STDOUT)
        if files:
            resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, (files, files))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def events(self, name: str) -> list[dict[str, Any]]:
        whole = (line for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n"))
        return [json.loads(line) for line in whole if f'"event":"{name}"' in line]

    def wait(self, name: str, count: int = 1, seconds: float = PATIENCE_S) -> dict[str, Any]:
        """The `count`th log line with this event."""
        end = time.monotonic() + seconds
        while len(found := self.events(name)) < count:
            assert self.process.poll() is None, self.log.read_text()[-2000:]
            assert time.monotonic() < end, f"no {name!r}: {self.log.read_text()[-2000:]}"
            time.sleep(0.02)
        return found[count - 1]

    def connect(self) -> ssl.SSLSocket:
        port = self.wait("listening")["port"]
        return self.secured(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S))

    def secured(self, plain: socket.socket) -> ssl.SSLSocket:
        """TLS on a connection to the webhook."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context.wrap_socket(plain, server_hostname="localhost")


@pytest.fixture
def webhook(tmp_path: Path) -> Iterator[Process]:
    write(tmp_path, *pair("one"))
    with Process(tmp_path) as process:
        yield process


def head(length: int, path: str = "/mutate", kind: str = "application/json") -> bytes:
    lines = (f"POST {path}?timeout=10s HTTP/1.1", "Host: webhook", f"Content-Type: {kind}", f"Content-Length: {length}")
    return "\r\n".join((*lines, "", "")).encode()


def answer(connection: ssl.SSLSocket) -> tuple[int, bytes]:
    """Status and body of one response; status 0 if the server closed instead."""
    top, rest = answer_with_head(connection)
    return (int(top.split()[1]), rest) if top else (0, rest)


def answer_with_head(connection: ssl.SSLSocket) -> tuple[bytes, bytes]:
    """The head of one response, nothing if the server closed instead, and its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += (chunk := receive(connection))
        if not chunk:
            return b"", data
    top, _, rest = data.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in top.split(b"\r\n")[1:])
    while len(rest) < int(fields[b"content-length"]):
        rest += (chunk := receive(connection))
        assert chunk, "the answer is not whole"
    return top, rest


def receive(connection: ssl.SSLSocket) -> bytes:
    try:
        return connection.recv(65536)
    except (ConnectionResetError, ssl.SSLEOFError):
        return b""


def ask(connection: ssl.SSLSocket, content: bytes) -> int:
    connection.sendall(head(len(content)) + content)
    status, _ = answer(connection)
    return status


def test_a_review_is_answered_over_tls(webhook: Process) -> None:
    with webhook.connect() as connection:
        assert connection.version() == "TLSv1.3"
        connection.sendall(head(len(body(pod()))) + body(pod()))
        status, content = answer(connection)
        assert status == 200
        assert json.loads(content)["response"]["patchType"] == "JSONPatch"
        assert ask(connection, body(pod())) == 200
    assert webhook.events("decision")[0]["reason"] == "requested"


def test_the_process_does_not_import_what_only_the_command_line_needs() -> None:
    code = "import sys, srcip_webhook.server; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not {"yaml", "kubernetes", "cryptography", "srcip_lab", "srcip_certs", "jsonpatch"} & set(loaded)


def test_the_certificate_changes_under_load_and_no_handshake_fails(webhook: Process) -> None:
    """Four clients handshake all the time while the pair is exchanged, half-written and mismatched on the way."""
    stop, failures, names = threading.Event(), list[str](), list[str]()

    def client() -> None:
        while not stop.is_set() and len(failures) < 10:
            try:
                with webhook.connect() as connection:
                    names.append(common_name(connection.getpeercert(binary_form=True) or b""))
                    if ask(connection, body(pod())) != 200:
                        failures.append("status")
            except OSError as error:
                failures.append(repr(error))

    def seen(name: str) -> None:
        """Wait for ten handshakes with this certificate."""
        end = time.monotonic() + PATIENCE_S
        while names.count(name) < 10 and not failures:
            assert time.monotonic() < end, names[-10:]
            time.sleep(0.02)

    webhook.wait("listening")
    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        new, third = pair("two", kind="rsa"), pair("three")
        seen("one")
        write(webhook.folder, new[0], None)
        webhook.wait("certificate ignored")
        write(webhook.folder, None, new[1])
        webhook.wait("certificate loaded", 2)
        seen("two")
        write(webhook.folder, *third)
        webhook.wait("certificate loaded", 3)
        seen("three")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert list(dict.fromkeys(names)) == ["one", "two", "three"]


def test_the_process_waits_for_its_first_certificate(tmp_path: Path) -> None:
    with Process(tmp_path) as process:
        process.wait("certificate ignored")
        write(tmp_path, *pair("late"))
        with process.connect() as connection:
            assert common_name(connection.getpeercert(binary_form=True) or b"") == "late"


def test_wrong_settings_end_the_process_with_every_fault(tmp_path: Path) -> None:
    with Process(tmp_path, SRCIP_LISTEN_PORT="x", SRCIP_TRUSTED_CIDRS="0.0.0.0/0") as process:
        assert process.process.wait(PATIENCE_S) == 2
        assert [line["error"].partition(":")[0] for line in process.events("bad setting")] == [
            "SRCIP_LISTEN_PORT",
            "SRCIP_TRUSTED_CIDRS",
        ]


def parts(slow: str) -> tuple[bytes, bytes]:
    """A request whose headers or whose body comes slowly: what is sent at once, and what byte by byte."""
    content = body(pod())
    return (b"", head(len(content)) + content) if slow == "headers" else (head(len(content)), content)


@pytest.mark.parametrize("slow", ["headers", "body"])
def test_a_client_of_one_byte_at_a_time_blocks_nobody(tmp_path: Path, slow: str) -> None:
    """Others are answered between its bytes, and so is it in the end: it has plenty of time here."""
    write(tmp_path, *pair("one"))
    first, rest = parts(slow)
    with (
        Process(tmp_path, SRCIP_REQUEST_TIMEOUT="1m") as webhook,
        webhook.connect() as lazy,
        webhook.connect() as quick,
    ):
        lazy.sendall(first)
        for byte in rest[:10]:
            lazy.sendall(bytes([byte]))
            assert ask(quick, body(pod())) == 200
        lazy.sendall(rest[10:])
        assert answer(lazy)[0] == 200


@pytest.mark.parametrize("slow", ["headers", "body"])
def test_a_client_of_one_byte_at_a_time_is_cut_off(webhook: Process, slow: str) -> None:
    """Not before its time is over, and long before it would have sent all."""
    started, (first, rest) = time.monotonic(), parts(slow)
    with webhook.connect() as lazy:
        lazy.sendall(first)
        end = cut_off(lazy, rest)
        assert time.monotonic() - started > REQUEST_TIMEOUT_S
        assert end == b"" if slow == "headers" else end.startswith(b"HTTP/1.1 408 ")


def cut_off(lazy: ssl.SSLSocket, rest: bytes) -> bytes:
    """What comes back while these bytes are sent one by one."""
    try:
        for byte in rest:
            lazy.sendall(bytes([byte]))
            time.sleep(0.1)
            lazy.settimeout(0.001)
            with suppress(TimeoutError):
                return lazy.recv(65536)
            lazy.settimeout(PATIENCE_S)
    except OSError:
        return b""
    pytest.fail("all of it was taken")


def test_many_silent_connections_are_cut_off_and_block_nobody(webhook: Process) -> None:
    silent = [webhook.connect() for _ in range(100)]
    with webhook.connect() as quick:
        assert ask(quick, body(pod())) == 200
    assert {receive(connection) for connection in silent} == {b""}
    for connection in silent:
        connection.close()


def test_an_idle_connection_outlives_the_header_timeout(webhook: Process) -> None:
    """The API server keeps its connections; between requests only the long keep-alive limit counts."""
    with webhook.connect() as connection:
        assert ask(connection, body(pod())) == 200
        time.sleep(REQUEST_TIMEOUT_S + 1)
        assert ask(connection, body(pod())) == 200


def test_bad_requests_get_their_status_and_harm_nobody(webhook: Process) -> None:
    big = body(pod({"example.org/big": "x" * 3 * 1024 * 1024}))
    cases = [
        (head(len(big)) + big, 200),
        (head(10_000_000), 413),
        (head(2, kind="text/plain") + b"{}", 415),
        (head(2) + b"{}", 400),
        (head(20) + body(pod())[:20], 400),
        (head(len(b"{}"), path="/other") + b"{}", 404),
        (b"NONSENSE\r\n\r\n", 400),
        (b"POST /mutate HTTP/1.1\r\nContent-Length: -5\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 60_000 + b"\r\n\r\n", 404),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 200_000 + b"\r\n\r\n", 0),
        (bytes(range(256)) * 4, 400),
    ]
    for request, status in cases:
        with webhook.connect() as connection:
            with suppress(OSError):  # it may be cut off before it has sent all
                connection.sendall(request)
            assert answer(connection)[0] == status, request[:60]
    with webhook.connect() as connection:
        connection.sendall(head(5000) + b"{")
    with webhook.connect() as connection:
        assert ask(connection, body(pod())) == 200
    assert webhook.process.poll() is None
    assert "Traceback" not in webhook.log.read_text()


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Process]:
    """A webhook that would wait very long for its clients."""
    write(tmp_path, *pair("one"))
    change = "server.PARTING_S = 600"
    with Process(tmp_path, change=change, SRCIP_REQUEST_TIMEOUT="1m", SRCIP_DRAIN_TIMEOUT=LONG) as process:
        yield process


def terminate(webhook: Process) -> None:
    """Send SIGTERM, and return when the webhook goes by it: it tells clients to leave then."""
    webhook.process.send_signal(signal.SIGTERM)
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        with webhook.connect() as connection:
            connection.sendall(head(len(body(pod()))) + body(pod()))
            if b"connection: close" in answer_with_head(connection)[0].lower():
                return
    pytest.fail("SIGTERM changed nothing")


def test_sigterm_lets_an_open_request_finish_and_ends_in_time(patient: Process) -> None:
    """When the last client has gone, which is long before the time-outs end."""
    content = body(pod())
    with patient.connect() as working, patient.connect() as idle:
        assert ask(idle, content) == 200
        working.sendall(head(len(content)) + content[:100])
        terminate(patient)
        working.sendall(content[100:])
        assert answer(working)[0] == 200
        assert ask(idle, content) == 200
    assert patient.process.wait(PATIENCE_S) in (0, -signal.SIGTERM)


def test_sigterm_closes_what_stays_idle(webhook: Process) -> None:
    with webhook.connect() as idle:
        assert ask(idle, body(pod())) == 200
        webhook.process.send_signal(signal.SIGTERM)
        assert receive(idle) == b""
    assert webhook.process.wait(PATIENCE_S) in (0, -signal.SIGTERM)


def test_after_sigterm_a_busy_client_is_told_to_leave_instead_of_being_cut_off(patient: Process) -> None:
    content = body(pod())
    with patient.connect() as busy, patient.connect() as later:
        assert ask(busy, content) == 200
        terminate(patient)
        for connection in (busy, later):
            connection.sendall(head(len(content)) + content)
            assert answer(connection)[0] == 200
            assert receive(connection) == b""
    assert patient.process.wait(PATIENCE_S) in (0, -signal.SIGTERM)
