"""Large reviews are worked at by processes of their own: what happens to one of these harms nobody else."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_server import PATIENCE_S, Process, answer, ask, head

from srcip_webhook.app import LARGE
from support.keypairs import pair, write
from support.reviews import body, pod

SMALL_POD = body(pod())
LARGE_POD = body(pod({"example.org/big": "x" * LARGE}))
WAITING = """
import os, time
from pathlib import Path
judge = work.JUDGES["/mutate"]
def waiting(request, settings):
    if "example.org/big" in request.object["metadata"]["annotations"]:
        Path("{folder}/worker").write_text(str(os.getpid()))
        while not Path("{folder}/go").exists():
            time.sleep(0.01)
    return judge(request, settings)
work.JUDGES["/mutate"] = waiting
"""
"""A large review takes until a file is there, and says in another one who works at it."""


@contextmanager
def webhook(folder: Path, change: str = "") -> Iterator[Process]:
    write(folder, *pair("one"))
    with Process(folder, change=WAITING.format(folder=folder) + change, SRCIP_DRAIN_TIMEOUT="5m") as process:
        process.wait("listening")
        yield process


def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def worker(folder: Path) -> int:
    """The process that works at a large review now."""
    said = folder / "worker"
    until(lambda: said.exists() and said.read_text())
    return int(said.read_text())


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def is_there(process: int) -> bool:
    """Whether it runs; what has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_others_are_answered_while_a_large_review_is_worked_at(tmp_path: Path) -> None:
    """However long it takes: it is worked at in a process that is not the server's."""
    with webhook(tmp_path) as process, process.connect() as slow, process.connect() as quick:
        slow.sendall(head(len(LARGE_POD)) + LARGE_POD)
        assert worker(tmp_path) != process.process.pid
        assert [ask(quick, SMALL_POD) for _ in range(3)] == [200] * 3
        (tmp_path / "go").touch()
        status, said = answer(slow)
    assert status == 200
    assert json.loads(said)["response"]["patchType"] == "JSONPatch"
    assert [line["pod"] for line in process.events("decision")] == ["web"] * 4


def test_a_worker_that_is_killed_fails_its_review_alone(tmp_path: Path) -> None:
    """With status 500, so that the failure policy decides; the next one has another worker."""
    with webhook(tmp_path) as process, process.connect() as unlucky, process.connect() as next_:
        unlucky.sendall(head(len(LARGE_POD)) + LARGE_POD)
        os.kill(worker(tmp_path), signal.SIGKILL)
        assert answer(unlucky)[0] == 500
        (tmp_path / "go").touch()
        assert [ask(next_, each) for each in (LARGE_POD, SMALL_POD)] == [200, 200]
        assert process.events("rejected")[0]["status"] == 500


def test_a_worker_that_hangs_is_ended(tmp_path: Path) -> None:
    """After some seconds, which are one here, by the kernel: nothing in it need go on."""
    with webhook(tmp_path, "workers.WORK_S = 1") as process, process.connect() as unlucky:
        unlucky.sendall(head(len(LARGE_POD)) + LARGE_POD)
        hanging = worker(tmp_path)
        assert answer(unlucky)[0] == 500
        until(lambda: not is_there(hanging))


def test_a_fault_in_a_worker_is_logged_and_answered(tmp_path: Path) -> None:
    change = 'work.JUDGES["/mutate"] = lambda request, settings: 1 / 0'
    with webhook(tmp_path, change) as process, process.connect() as unlucky:
        assert ask(unlucky, LARGE_POD) == 500
        assert "ZeroDivisionError" in process.wait("large review failed")["error"]


@pytest.mark.parametrize(
    ("content", "status"), [(b"[" + b"[]," * 500_000 + b"[]]", 413), (b"x" * (LARGE + 1), 400), (LARGE_POD, 200)]
)
def test_a_worker_answers_as_the_server_would(tmp_path: Path, content: bytes, status: int) -> None:
    (tmp_path / "go").touch()
    with webhook(tmp_path) as process, process.connect() as connection:
        assert ask(connection, content) == status


def test_without_its_helper_the_server_works_itself(tmp_path: Path) -> None:
    """And says so, once."""
    with webhook(tmp_path) as process, process.connect() as connection:
        connection.sendall(head(len(LARGE_POD)) + LARGE_POD)
        helper = parent(worker(tmp_path))
        (tmp_path / "go").touch()
        assert answer(connection)[0] == 200
        os.kill(helper, signal.SIGKILL)
        until(lambda: not is_there(helper))
        assert [ask(connection, LARGE_POD) for _ in range(2)] == [200, 200]
        assert worker(tmp_path) == process.process.pid
        assert len(process.events("large reviews hold the event loop from now on")) == 1


def test_sigterm_lets_a_large_review_finish(tmp_path: Path) -> None:
    """Also where it is sent to the whole group of processes, and nothing is left behind."""
    with webhook(tmp_path) as process, process.connect() as working:
        working.sendall(head(len(LARGE_POD)) + LARGE_POD)
        working_at = worker(tmp_path)
        helper = parent(working_at)
        for each in (process.process.pid, helper, working_at):
            os.kill(each, signal.SIGTERM)
        (tmp_path / "go").touch()
        assert answer(working)[0] == 200
        assert process.process.wait(PATIENCE_S) in (0, -signal.SIGTERM)
        until(lambda: not is_there(helper))


def test_the_helper_ends_with_the_server(tmp_path: Path) -> None:
    """However that ends."""
    with webhook(tmp_path) as process, process.connect() as working:
        working.sendall(head(len(LARGE_POD)) + LARGE_POD)
        helper = parent(worker(tmp_path))
        assert parent(helper) == process.process.pid
        process.process.kill()
        until(lambda: not is_there(helper))
        (tmp_path / "go").touch()
