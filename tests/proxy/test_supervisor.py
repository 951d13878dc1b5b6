"""The application beside HAProxy: real processes, with small scripts in HAProxy's place."""

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.waiting import DEADLINE_S

HARNESS = """
import os, sys
from srcip_proxy.outbound import supervisor

limit, proxy, ready, *application = sys.argv[1:]
supervisor.START_S = supervisor.KILL_S = supervisor.STOP_S = float(limit)
held = supervisor.hold()
wanted = supervisor.Proxy(("sh", "-c", proxy), lambda: os.path.exists(ready), os.open("/dev/null", os.O_RDONLY))
outcome = supervisor.supervise(wanted, application, held)
print("orderly" if outcome.orderly else "broken", file=sys.stderr)
sys.exit(outcome.code)
"""
IN_PID_NAMESPACE = (
    "unshare",
    *(["--user", "--map-root-user"] if os.geteuid() else []),
    "--pid",
    "--fork",
    "--mount-proc",
)
PROXY = "trap 'echo proxy stopped >&2; exit 0' USR1; trap '' INT TERM; echo proxy up; : > {ready}; {wait}"
WAIT = "while :; do sleep 0.05; done"
PASSED_ON = [
    number
    for number in sorted(signal.valid_signals())
    if number
    not in (
        *(signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE),
        *(signal.SIGILL, signal.SIGTRAP, signal.SIGABRT, signal.SIGSYS),
    )
]
REPORTER = """
import signal, sys
wanted = set(map(int, sys.argv[1].split(",")))
signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
print("started", flush=True)
while wanted:
    got = signal.sigwait(wanted)
    print(int(got), flush=True)
    wanted.discard(got)
"""

SHORT_S = 1.0
"""For tests of what happens when the supervisor has waited in vain."""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the supervisor; whatever still runs at the end of the test is killed."""
    running: list[subprocess.Popen[str]] = []

    def run(
        *application: str,
        proxy: str = PROXY,
        wait: str = WAIT,
        prefix: tuple[str, ...] = (),
        limit_s: float = DEADLINE_S,
        **options: object,
    ) -> "subprocess.Popen[str]":
        ready = str(tmp_path / "ready")
        harness = (sys.executable, "-c", HARNESS, str(limit_s))
        words = [*prefix, *harness, proxy.format(ready=ready, wait=wait), ready, *application]
        given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
        process = subprocess.Popen(words, **{**given, **options})  # type: ignore[call-overload]
        running.append(process)
        return process

    yield run
    for process in running:
        for _ in range(2):  # the session, with whatever was left behind in it
            subprocess.run(["pkill", "-KILL", "-s", str(process.pid)], check=False)
        process.communicate()


def said(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    out, err = process.communicate(timeout=DEADLINE_S)
    return process.returncode, out, err


def alive(number: int) -> bool:
    """Whether this process runs, and is no zombie."""
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -TERM $$", 143), ("kill -KILL $$", 137)],
)
def test_the_exit_code_is_the_applications(start: Start, script: str, code: int) -> None:
    """128 + N for signal N. The proxy is told to finish first, and has ended before we do."""
    ended, out, err = said(start("sh", "-c", f"echo hello; {script}"))
    assert (ended, out) == (code, "hello\n")
    assert err.splitlines() == ["proxy up", "proxy stopped", "orderly"]


def test_the_application_starts_when_the_proxy_listens_and_not_before(start: Start) -> None:
    code, _, err = said(start("sh", "-c", "echo application up >&2", proxy="sleep 0.7; " + PROXY))
    assert code == 0
    assert err.splitlines() == ["proxy up", "application up", "proxy stopped", "orderly"]


def test_every_signal_is_passed_on_to_the_application(start: Start) -> None:
    """One after the other, each reported by the application that got it."""
    numbers = ",".join(map(str, map(int, PASSED_ON)))
    process = start(sys.executable, "-c", REPORTER, numbers)
    assert process.stdout
    assert process.stdout.readline() == "started\n"
    for number in PASSED_ON:
        process.send_signal(number)
        assert int(process.stdout.readline()) == number
    assert said(process)[0] == 0


def test_the_application_gets_the_signals_mask_and_dispositions_that_we_got(start: Start) -> None:
    """Python ignores SIGPIPE and SIGXFSZ, and we hold everything back: none of it is the application's."""
    assert signals(Path("/proc/self/status").read_text())["SigIgn"] >> (signal.SIGPIPE - 1) & 1, "or it proves nothing"
    without = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True, check=True).stdout
    code, out, _ = said(start("cat", "/proc/self/status"))
    assert (code, signals(out)) == (0, signals(without))


def signals(status: str) -> dict[str, int]:
    """What a process holds back and what it ignores, as bits; without glibc's own two, which posix_spawn ignores."""
    fields = (line.split() for line in status.splitlines() if line.startswith(("SigBlk", "SigIgn")))
    return {name.strip(":"): int(value, 16) & ~(0b11 << 31) for name, value in fields}


def test_an_application_that_is_told_to_stop_may_take_its_time(start: Start) -> None:
    """The proxy runs until it has ended: its last requests need headers, too."""
    process = start("sh", "-c", "trap 'sleep 0.5; echo bye >&2; exit 3' TERM; echo up; while :; do sleep 0.05; done")
    assert process.stdout
    process.stdout.readline()
    process.terminate()
    code, _, err = said(process)
    assert code == 3
    assert err.splitlines() == ["proxy up", "bye", "proxy stopped", "orderly"]


def test_when_the_proxy_ends_the_application_is_told_and_the_exit_code_is_1(start: Start, tmp_path: Path) -> None:
    up = tmp_path / "up"
    script = f"trap 'echo told; exit 0' TERM; : > {up}; while :; do sleep 0.05; done"
    code, out, err = said(start("sh", "-c", script, wait=f"until [ -e {up} ]; do sleep 0.05; done; exit 9"))
    assert (code, out) == (1, "told\n")
    assert "HAProxy ended with exit code 9; stopping the application" in err
    assert err.splitlines()[-1] == "broken"


def test_an_application_that_does_not_listen_is_killed_when_the_proxy_has_ended(start: Start, tmp_path: Path) -> None:
    up = tmp_path / "up"
    script = f"trap '' TERM; echo $$; : > {up}; while :; do sleep 0.05; done"
    wait = f"until [ -e {up} ]; do sleep 0.05; done; kill -KILL $$"
    code, out, _ = said(start("sh", "-c", script, wait=wait, limit_s=SHORT_S))
    assert code == 1
    assert not alive(int(out))


def test_a_proxy_that_does_not_start_is_the_end_and_its_output_is_shown(start: Start) -> None:
    code, out, err = said(start("echo", "never", proxy="echo cannot bind; exit 4"))
    assert (code, out) == (1, "")
    assert "cannot bind" in err
    assert "HAProxy did not start: exit code 4" in err


def test_a_proxy_that_never_listens_is_the_end(start: Start) -> None:
    code, out, err = said(start("echo", "never", proxy=WAIT, limit_s=SHORT_S))
    assert (code, out) == (1, "")
    assert "HAProxy does not listen within 1 s" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_before_the_application_starts_is_the_end(start: Start, number: int) -> None:
    process = start("echo", "never", proxy="echo starting >&2; " + WAIT)
    assert process.stderr
    assert process.stderr.readline() == "starting\n"
    process.send_signal(number)
    code, out, err = said(process)
    assert (code, out) == (128 + number, "")
    assert err.splitlines()[-1] == "orderly"


@pytest.mark.parametrize(
    ("program", "code", "reason"),
    [("/nonexistent", 127, "No such file or directory"), ("/etc/passwd", 126, "Permission denied")],
)
def test_a_command_that_cannot_be_run_is_named(start: Start, program: str, code: int, reason: str) -> None:
    ended, _, err = said(start(program))
    assert ended == code
    assert f"{program}: {reason}" in err
    assert err.splitlines()[-2:] == ["proxy stopped", "orderly"]


def test_a_proxy_that_does_not_stop_is_killed(start: Start) -> None:
    stubborn = "trap '' USR1 TERM; echo $$ > {ready}.pid; : > {ready}; " + WAIT
    before = time.monotonic()
    assert said(start("true", proxy=stubborn, limit_s=SHORT_S))[0] == 0
    assert time.monotonic() - before > SHORT_S


def test_the_proxy_gets_nothing_of_the_applications_environment(start: Start) -> None:
    """Nor of its input and output; PATH is all."""
    show = "env | sort | grep -v -e ^PWD -e ^_ -e ^SHLVL | tr '\\n' ' '; readlink /proc/self/fd/0; " + PROXY
    process = start(
        "sh", "-c", "cat; echo $SECRET", proxy=show, env={**os.environ, "SECRET": "x"}, stdin=subprocess.PIPE
    )
    out, err = process.communicate("input\n", timeout=DEADLINE_S)
    assert out == "input\nx\n"
    assert err.splitlines()[:2] == [f"PATH={os.environ['PATH']} /dev/null", "proxy up"]


def test_as_the_first_process_it_reaps_orphans_and_takes_signals(start: Start) -> None:
    """In a PID namespace of its own, as in a container: an orphan is not left as a zombie; SIGTERM, which the kernel
    would drop for a first process without a handler, reaches the application; all children are gone at the end."""
    script = (
        "import os, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\n"
        "for _ in range(50): subprocess.run(['sh', '-c', '(sleep 0.1 & )'])\n"
        "def orphans(): return os.popen('ps --ppid 1 -o comm=').read().count('sleep')\n"
        "deadline = time.monotonic() + 50\n"
        "while orphans() and time.monotonic() < deadline: time.sleep(0.05)\n"
        "print(os.getppid(), orphans(), flush=True)\n"
        "os.kill(1, signal.SIGTERM)\n"
        "time.sleep(60)\n"
    )
    code, out, err = said(start(sys.executable, "-c", script, prefix=(*IN_PID_NAMESPACE, "--kill-child")))
    assert out == "1 0\n", err
    assert code == 5


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 15), (signal.SIGUSR1, 10), (signal.SIGWINCH, 0)])
def test_a_first_process_knows_of_a_signal_to_stop_before_it_becomes_haproxy(number: int, code: int) -> None:
    """The kernel drops such a signal for a first process that has no handler."""
    script = "import os, signal, sys\nfrom srcip_proxy.outbound import supervisor\nheld = supervisor.hold()\n"
    script += "os.kill(os.getpid(), int(sys.argv[1]))\nsys.exit(supervisor.release(held) or 0)\n"
    words = [*IN_PID_NAMESPACE, sys.executable, "-c", script, str(int(number))]
    assert subprocess.run(words, check=False).returncode == code


def test_ctrl_c_in_a_terminal_reaches_the_application_once_and_the_proxy_not_at_all(start: Start) -> None:
    """The terminal signals the whole foreground group, in which the application is and the proxy is not."""
    script = (
        "import signal, time\n"
        "got = []\n"
        "signal.signal(signal.SIGINT, lambda *_: got.append(1))\n"
        "print('up', flush=True)\n"
        "while not got: time.sleep(0.01)\n"
        "time.sleep(0.5)\n"
        "print(f'got {len(got)}', flush=True)\n"
    )
    main, terminal = pty.openpty()
    options = {"stdin": terminal, "stdout": terminal, "start_new_session": False, "preexec_fn": _controlling}
    process = start(
        sys.executable, "-c", script, proxy="trap 'echo bad >&2' INT; " + PROXY.replace("INT ", ""), **options
    )
    os.close(terminal)
    shown = b""
    while b"up" not in shown:
        shown += os.read(main, 1024)
    os.write(main, b"\x03")
    while b"got" not in shown:
        shown += os.read(main, 1024)
    assert b"got 1" in shown
    _, err = process.communicate(timeout=DEADLINE_S)
    os.close(main)
    assert "bad" not in err


def _controlling() -> None:
    """A session of its own whose terminal is standard input."""
    import fcntl  # noqa: PLC0415
    import termios  # noqa: PLC0415

    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
