"""A process is known by more than its number, and a lab by its directory."""

import os
import signal
import subprocess
from dataclasses import replace

import pytest

from srcip_lab import state
from srcip_lab.errors import LabError
from srcip_lab.state import Process


@pytest.fixture
def child():
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def test_a_process_can_be_signalled_and_waited_for(child):
    known = Process.of(child.pid)
    assert known and known.alive() and not known.wait(0)
    assert known.signal(signal.SIGTERM)
    assert known.wait(5)
    child.wait()
    assert not known.alive() and not known.signal(signal.SIGTERM)


@pytest.mark.parametrize("change", [{"start": 1}, {"boot": "another"}])
def test_a_reused_number_is_never_signalled(child, change):
    known = Process.of(child.pid)
    assert known
    other = replace(known, **change)
    assert not other.alive()
    assert not other.signal(signal.SIGKILL)
    assert child.poll() is None


def test_one_that_ended_but_was_not_waited_for_is_not_alive(child):
    known = Process.of(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert known and not known.alive()
    assert Process.of(child.pid) is None


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a/b", "../x", "a" * 33, "a\n"])
def test_a_name_that_could_leave_the_directory_is_refused(name):
    with pytest.raises(LabError, match="lab name"):
        state.directory(name)


def test_a_file_is_written_whole(tmp_path):
    state.write_json(tmp_path / "x", {"a": 1})
    assert state.read_json(tmp_path / "x") == {"a": 1}
    assert state.read_json(tmp_path / "none") is None
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_directory_that_is_gone_cannot_be_locked(tmp_path):
    with state.Directory(tmp_path / "gone").locked() as there:
        assert not there
