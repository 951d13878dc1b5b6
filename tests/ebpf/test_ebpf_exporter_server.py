"""Ring 2 of the exporter: the process that speaks HTTP, whoever asks it, and how both processes end."""

import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest

from srcip_proxy.ebpf import libbpf
from srcip_proxy.ebpf.exporter.http import DEADLINE_S, MOST
from srcip_proxy.ebpf.exporter.run import FRESH_S, NEEDED
from srcip_proxy.ebpf.libbpf import GETPEERNAME4
from support.exporter_rig import Exporter, Node, exporter, only
from support.waiting import DEADLINE_S as TEST_DEADLINE_S
from support.waiting import until

pytestmark = pytest.mark.dataplane
GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


def fields(process: int) -> dict[str, str]:
    rows = (row.split(":", 1) for row in Path(f"/proc/{process}/status").read_text().splitlines())
    return {name: value.strip() for name, value in rows}


def test_the_process_that_speaks_http_may_do_nothing(served: Exporter) -> None:
    """No capability, no root, no way to gain either; the other one has just the four, and no socket but the channel."""
    child = fields(served.child())
    assert child["Uid"].split() == child["Gid"].split() == ["7363"] * 4
    assert child["Groups"] == ""
    assert {int(child[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    assert child["NoNewPrivs"] == "1"
    assert int(fields(served.process.pid)["CapPrm"], 16) == 1 << 21 | 1 << 12 | 1 << 7 | 1 << 6
    assert len(sockets(served.process.pid)) == 1


def sockets(process: int) -> list[str]:
    """Those it holds; one that it closes meanwhile is none."""
    found = []
    for each in Path(f"/proc/{process}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(str(each.readlink()))
    return [each for each in found if each.startswith("socket:")]


def connections(served: Exporter) -> list[str]:
    """Those of clients: the others are the one that listens, and the channel."""
    return sockets(served.child())[2:]


def test_paths_and_methods(served: Exporter) -> None:
    status, text, answer = served.ask("/metrics")
    assert (status, answer.headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    status, empty, head = served.ask("/metrics", "HEAD")
    assert (status, empty, head.headers["Content-Length"]) == (200, "", str(len(text.encode())))
    assert served.ask("/healthz")[:2] == (200, "ok\n")
    assert served.ask("/")[0] == served.ask("/metrics/x")[0] == 404
    assert served.ask("/metrics", "POST")[0] == 405
    assert served.ask("/metrics?debug=1")[:2] == (200, text)


def test_without_an_address_it_listens_on_all(here: Node) -> None:
    """Over both versions of IP."""
    with exporter(here.root, here.logs, address="") as served:
        for address in ("127.0.0.1", "::1"):
            with socket.create_connection((address, served.port), timeout=TEST_DEADLINE_S) as client:
                client.sendall(b"HEAD /healthz HTTP/1.1\r\n\r\n")
                assert whole(client).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("noise", [b"\x16\x03\x01\x02\x00\r\n\r\n", b"\0" * 9000, b"GET\r\n\r\n", b"\r\n\r\n" * 9])
def test_bad_clients_get_an_answer_that_arrives(served: Exporter, noise: bytes) -> None:
    """Also when more comes behind the request: the end is a FIN, no reset that would take the answer along."""
    with served.connect() as client:
        client.sendall(noise)
        client.sendall(b"more" * 1000)
        assert whole(client).startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 "))
    assert served.ask("/healthz")[0] == 200


def whole(client: socket.socket) -> bytes:
    """Everything until the peer's end."""
    client.shutdown(socket.SHUT_WR)
    found = b""
    while data := client.recv(65536):
        found += data
    return found


def test_slow_and_many_clients_keep_nobody_out(served: Exporter) -> None:
    """Twice as many silent connections as there is room for: others are answered at once, and the oldest go."""
    silent = [served.connect() for _ in range(2 * MOST)]
    started = time.monotonic()
    assert served.ask("/metrics")[0] == 200
    assert time.monotonic() - started < DEADLINE_S
    silent[0].settimeout(TEST_DEADLINE_S)
    assert silent[0].recv(1) == b""
    for byte in GET[:-1]:
        silent[-1].sendall(bytes([byte]))
    silent[-1].sendall(GET[-1:])
    assert whole(silent[-1]).startswith(b"HTTP/1.1 200 OK\r\n")
    assert MOST - 2 <= len(connections(served)) <= MOST
    for each in silent:
        each.close()


def test_a_client_that_never_reads_is_cut_off(here: Node, served: Exporter, loaded: libbpf.Object) -> None:
    """After DEADLINE_S at the latest, and nobody waits for it meanwhile."""
    for number in range(40):
        loaded.attach_cgroup("srcip_peer4", here.cgroup(number), GETPEERNAME4)
        here.name(number, "shop", f"web-{number}")
    stuck = socket.socket()
    stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    stuck.connect(("127.0.0.1", served.port))
    stuck.sendall(GET)
    assert served.states() == {"shown": 40}
    until(lambda: len(connections(served)) == 1)
    until(lambda: not connections(served))
    stuck.close()


def test_many_questions_ask_the_kernel_once_a_second(here: Node, served: Exporter, loaded: libbpf.Object) -> None:
    """A page is given out for a second: a Pod whose name comes meanwhile is on the next one."""
    loaded.attach_cgroup("srcip_peer4", here.cgroup(1), GETPEERNAME4)
    deadline = time.monotonic() + 300
    while True:
        time.sleep(FRESH_S)
        started = time.monotonic()
        page = served.ask("/metrics")[1]
        name = here.name(1, "shop", "web")
        pages = {served.ask("/metrics")[1] for _ in range(3)}
        if time.monotonic() - started < FRESH_S:
            break
        assert time.monotonic() < deadline, "this machine is too slow to tell"
        name.rmdir()
    assert pages == {page}
    assert served.states() == {"shown": 1}


def test_a_directory_of_logs_that_goes_is_an_error_that_says_so(here: Node, served: Exporter) -> None:
    """It is no empty page, which would look like Pods that have gone; and it ends when the directory is back."""
    here.logs.rmdir()
    time.sleep(1.05)
    status, text, _ = served.ask("/metrics")
    assert (status, "can't be read" in text, str(here.logs) in text) == (500, True, True)
    assert served.ask("/healthz")[0] == 200
    here.logs.mkdir()
    assert served.states() == {}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
@pytest.mark.parametrize("is_first", [False, True])
def test_it_stops_at_once(here: Node, number: int, is_first: bool) -> None:
    """Also as the first process of a container, and by SIGUSR1, which is what the image says; nobody is left behind."""
    prefix = ("unshare", "--pid", "--fork", "--kill-child") if is_first else ()
    with exporter(here.root, here.logs, *prefix, *only(*NEEDED)) as served:
        parent = served.child() if is_first else served.process.pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        os.kill(parent, number)
        assert served.process.wait(TEST_DEADLINE_S) == 0
        until(lambda: not any(Path(f"/proc/{each}/cmdline").exists() and is_alive(int(each)) for each in children))
    assert children


def is_alive(process: int) -> bool:
    try:
        return fields(process)["State"][0] != "Z"
    except OSError:
        return False


def test_neither_process_stays_without_the_other(here: Node) -> None:
    """When the one that speaks HTTP dies, the exporter ends and says so; when the other one dies, it ends as well."""
    with exporter(here.root, here.logs) as served:
        os.kill(served.child(), signal.SIGKILL)
        assert served.process.wait(TEST_DEADLINE_S) == 1
        assert served.process.stderr
        assert "the HTTP process ended: signal 9" in served.process.stderr.read()
    with exporter(here.root, here.logs) as served:
        child = served.child()
        served.process.kill()
        served.process.wait()
        until(lambda: not is_alive(child))
