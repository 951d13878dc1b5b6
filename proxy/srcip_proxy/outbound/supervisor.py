"""Runs the application beside HAProxy, as the first process of a container does or as any other.

Every signal is held back and read from a queue, so that none is lost and no handler runs: what is not about a child is
passed on to the application. Children and orphans are reaped.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

START_S = 10.0
"""How long HAProxy may take until it listens."""
STOP_S = 2.0
"""How long HAProxy may take, once the application has ended, to send what is under way."""
KILL_S = 10.0
"""How long the application may take to end when HAProxy is gone."""
POLL_S = 0.02

FAULTS = frozenset(
    (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGABRT, signal.SIGSYS)
)
"""Raised by what a process itself does wrong: ours, not the application's."""
HELD = frozenset(signal.valid_signals()) - FAULTS - {signal.SIGKILL, signal.SIGSTOP}
HARMLESS = frozenset(
    (signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
)
"""Signals that by default do not end a process."""
_PYTHONS = (signal.SIGPIPE, signal.SIGXFSZ)
"""What Python ignores, and a program that it starts would ignore as well."""
_SI_KERNEL = 0x80  # asm-generic/siginfo.h

Signals = frozenset[int]


@dataclass(frozen=True)
class Outcome:
    """How it ended."""

    code: int
    """The exit code for whoever started us."""
    orderly: bool
    """Whether the application, or a signal before its start, was the reason; HAProxy otherwise."""


def hold() -> Signals:
    """Hold signals back from now on, for `supervise`; which ones were held back before."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # were it ignored, children would vanish without an exit code
    return frozenset(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, HELD)))


def release(held: Signals) -> int | None:
    """End what `hold` began; the first signal that has come since and would have ended us, if any."""
    came = sorted(signal.sigpending() - HARMLESS)
    signal.pthread_sigmask(signal.SIG_SETMASK, held)
    return came[0] if came else None


def supervise(proxy: Proxy, application: Sequence[str], held: Signals) -> Outcome:
    """Start `proxy`, then the application; wait for the end of either. `held` is what `hold` said."""
    family = Family(held)
    started = proxy.start(family)
    outcome = _until_ready(family, started, proxy.ready) or _run(family, started, application)
    _stop(family, started)
    return outcome


def _run(family: Family, proxy: int, application: Sequence[str]) -> Outcome:
    """Start the application and wait for its end."""
    try:
        child = family.start(application, dict(os.environ))
    except OSError as error:
        say(f"{application[0]}: {error.strerror}")
        return Outcome(127 if error.errno == errno.ENOENT else 126, orderly=True)
    return _until_the_end(family, proxy, child)


@dataclass(frozen=True)
class Proxy:
    """HAProxy, not started yet."""

    command: tuple[str, ...]
    """Its command line."""
    ready: Callable[[], bool]
    """Whether it listens; asked again and again."""
    stdin: int
    """A file descriptor: what it reads as standard input."""

    def start(self, family: Family) -> int:
        """Its process number. It gets nothing of the application's environment, writes to standard error alone, and
        has a process group of its own, so that Ctrl-C in a terminal does not reach it. Raises OSError."""
        files = ((os.POSIX_SPAWN_DUP2, self.stdin, 0), (os.POSIX_SPAWN_DUP2, 2, 1))
        environment = {"PATH": os.environ.get("PATH", os.defpath)}
        return family.start(self.command, environment, file_actions=files, setpgroup=0)


class Family:
    """The children that this process starts, and how they ended. `held` is what `hold` said."""

    def __init__(self, held: Signals) -> None:
        self._held = held
        self._started: set[int] = set()
        self.codes: dict[int, int] = {}
        """Exit code by process number, 128 + N for signal N."""

    def start(self, command: Sequence[str], environment: dict[str, str], **options: Any) -> int:
        """Start a program with signals as they were before `hold`; its process number. Raises OSError."""
        options |= {"setsigmask": self._held, "setsigdef": _PYTHONS}
        child = os.posix_spawnp(command[0], list(command), environment, **options)
        self._started.add(child)
        return child

    def wait(self, seconds: float | None = None) -> signal.struct_siginfo | None:
        """The next signal; None after `seconds`. A child that has ended is in `codes` then."""
        info = signal.sigwaitinfo(HELD) if seconds is None else signal.sigtimedwait(HELD, max(seconds, 0))
        if info and info.si_signo == signal.SIGCHLD:
            self._reap()
        return info

    def _reap(self) -> None:
        """One SIGCHLD may stand for many children, and orphans are ours if we are the first process."""
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                code = os.waitstatus_to_exitcode(ended[1])
                if ended[0] in self._started:
                    self.codes[ended[0]] = code if code >= 0 else 128 - code


def _until_ready(family: Family, proxy: int, ready: Callable[[], bool]) -> Outcome | None:
    """None once HAProxy listens; otherwise how it ended before."""
    deadline = time.monotonic() + START_S
    while True:
        listens = ready()
        info = family.wait(POLL_S if not listens else 0)
        if proxy in family.codes:
            return _failed(f"HAProxy did not start: exit code {family.codes[proxy]}; see its output above")
        if info and info.si_signo not in HARMLESS:
            return Outcome(128 + info.si_signo, orderly=True)
        if listens and not info:
            return None
        if time.monotonic() > deadline:
            return _failed(f"HAProxy does not listen within {START_S:.0f} s; see its output above")


def _until_the_end(family: Family, proxy: int, application: int) -> Outcome:
    """Pass signals on until the application has ended; without HAProxy it has to."""
    kill_at = None
    while application not in family.codes:
        info = family.wait(kill_at - time.monotonic() if kill_at else None)
        if info is None:
            _send(application, signal.SIGKILL)
            kill_at = time.monotonic() + KILL_S
        elif info.si_signo != signal.SIGCHLD:
            _pass_on(info, application)
        elif proxy in family.codes and kill_at is None and application not in family.codes:
            say(f"HAProxy ended with exit code {family.codes[proxy]}; stopping the application")
            _send(application, signal.SIGTERM)
            kill_at = time.monotonic() + KILL_S
    return Outcome(1, orderly=False) if kill_at else Outcome(family.codes[application], orderly=True)


def _pass_on(info: signal.struct_siginfo, application: int) -> None:
    """A signal that a terminal sent went to our whole process group, and so to the application already."""
    if info.si_code != _SI_KERNEL:
        _send(application, info.si_signo)


def _stop(family: Family, proxy: int) -> None:
    """Let HAProxy finish what is under way, for a short time; after it HAProxy is gone."""
    for number, seconds in ((signal.SIGUSR1, STOP_S), (signal.SIGKILL, STOP_S)):
        if proxy not in family.codes:
            _send(proxy, number)
        deadline = time.monotonic() + seconds
        while proxy not in family.codes and time.monotonic() < deadline:
            family.wait(deadline - time.monotonic())


def _send(child: int, number: int) -> None:
    """A child that has ended and is not reaped yet takes any signal; only one that changed its user may refuse."""
    try:
        os.kill(child, number)
    except PermissionError:
        say(f"no permission to send signal {number} to process {child}: add the capability KILL")


def _failed(reason: str) -> Outcome:
    say(reason)
    return Outcome(1, orderly=False)


def say(line: str) -> None:
    """To standard error: standard output is the application's."""
    print(f"srcip-proxy outbound: {line}", file=sys.stderr, flush=True)
