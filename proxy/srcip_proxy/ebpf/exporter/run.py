"""`srcip-proxy ebpf exporter`: the counters of all Pods of a node in ebpf mode. docs/exporter.md says what it needs.

Two processes: this one reads the kernel's programs, for which it needs SYS_ADMIN, and takes nothing from anybody but
the question for another page. Its child speaks HTTP with whoever comes, as user 7363 without any capability.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from srcip_proxy import capabilities, capset
from srcip_proxy.ebpf import cgroups
from srcip_proxy.ebpf.exporter.http import Answer, Server, bound
from srcip_proxy.ebpf.exporter.kernel import Kernel
from srcip_proxy.ebpf.exporter.options import HELP, Options, UsageError, parse, wants_help
from srcip_proxy.ebpf.exporter.pods import read
from srcip_proxy.ebpf.libbpf import GETPEERNAME4, BpfError
from srcip_proxy.plan import UID

NEEDED = ("SYS_ADMIN", "NET_ADMIN", "SETUID", "SETGID")
STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""SIGUSR1 is what the image says a container is stopped with: HAProxy wants it so."""
FRESH_S = 1.0
"""A page is given out for so long: however many ask, the kernel is asked once a second."""
ANSWER_S = 10.0
_KIND = "text/plain; version=0.0.4; charset=utf-8"
_HEAD = struct.Struct("!?I")
_READY = b"!"
_NO_NEW_PRIVILEGES = 38  # PR_SET_NO_NEW_PRIVS


def main(arguments: Sequence[str]) -> int:
    """`srcip-proxy ebpf exporter`. Exit code 0 when it was stopped, 1 with the reasons, 2 on wrong usage."""
    if wants_help(arguments):
        print(HELP, end="")
        return 0
    try:
        options = parse(arguments)
    except UsageError as error:
        return _refuse(error.faults, 2)
    if reasons := list(obstacles(options)):
        return _refuse(reasons, 1)
    try:
        return _start(options, Kernel())
    except (BpfError, OSError) as error:
        return _refuse([str(error)], 1)


def obstacles(options: Options) -> Iterator[str]:
    """What is missing, each with what to do; nothing when all is there."""
    permitted = capabilities.held("CapPrm")
    for name in NEEDED:
        if not permitted >> capabilities.NUMBERS[name] & 1:
            yield f"CAP_{name} is missing: run it as user 0, and add {name} to the container's capabilities"
    if not options.cgroups.is_dir():
        yield f"--cgroups {options.cgroups}: no such directory; it is the node's /sys/fs/cgroup, a hostPath volume"
    elif not cgroups.version_2(options.cgroups):
        yield (
            f"--cgroups {options.cgroups} is not cgroup v2, without which there is no ebpf mode: boot the node with "
            "systemd.unified_cgroup_hierarchy=1, or keep the exporter away from it (ebpfExporter.nodeSelector)"
        )
    if not options.pods.is_dir():
        yield f"--pods {options.pods}: no such directory; it is the node's /var/log/pods, a hostPath volume"


def _start(options: Options, kernel: Kernel) -> int:
    """Raises OSError."""
    for number in STOP:
        signal.signal(number, _stop)
    capset.use_all()
    root = cgroups.version_2(options.cgroups) or options.cgroups
    if reason := refusal(kernel, root):
        return _refuse([reason], 1)
    read(kernel, root, options.pods)  # better now than when somebody asks
    listener = _listener(options)
    ours, theirs = socket.socketpair()
    if not (child := os.fork()):
        ours.close()
        _serve(listener, theirs)
    theirs.close()
    listener.close()
    if ours.recv(1) == _READY:
        say(f"listening on {options.address or ''}:{options.port}")
        _answer(ours, kernel, root, options.pods)
    return _refuse([f"the HTTP process ended: {_ended(child)}"], 1)


def refusal(kernel: Kernel, root: Path) -> str | None:
    """Why the kernel does not let this process read programs, if so."""
    try:
        kernel.attached(root, GETPEERNAME4)
        kernel.program(0)  # there is none: only who may open programs by their number is told so
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            return (
                "the kernel lets this process read no programs in spite of CAP_SYS_ADMIN: a seccomp profile or a "
                "security module (SELinux, AppArmor) forbids bpf(2), or the container has a user namespace (hostUsers)"
            )
        if error.errno == errno.EINVAL:
            return "the node's Linux has no getpeername hooks; ebpf mode needs 5.17: keep the exporter from this node"
        if error.errno != errno.ENOENT:
            raise
    return None


def _stop(number: int, _: object) -> None:
    """At once: there is nothing to finish. The child sees the end of the channel."""
    raise SystemExit(0)


def _listener(options: Options) -> socket.socket:
    """Raises OSError that names the option."""
    try:
        return bound(options.address, options.port)
    except OSError as error:
        raise OSError(f"--listen {options.address or ''}:{options.port}: {os.strerror(error.errno or 0)}") from None


def _answer(channel: socket.socket, kernel: Kernel, root: Path, logs: Path) -> None:
    """Say the page whenever the child asks for it, until it ends."""
    message, until = b"", 0.0
    while channel.recv(1):
        if time.monotonic() >= until:
            message = _message(kernel, root, logs)
            until = time.monotonic() + FRESH_S
        try:
            channel.sendall(message)
        except OSError:
            return


def _message(kernel: Kernel, root: Path, logs: Path) -> bytes:
    """The page as it is now, or why there is none."""
    try:
        is_good, text = True, read(kernel, root, logs)
    except OSError as error:
        is_good, text = False, f"the programs of this node can't be read: {error}\n"
        say(text.rstrip())
    body = text.encode()
    return _HEAD.pack(is_good, len(body)) + body


def _ended(child: int) -> str:
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return f"exit code {code}" if code >= 0 else f"signal {-code}"


def _serve(listener: socket.socket, channel: socket.socket) -> NoReturn:
    """The child."""
    code = 1
    try:
        for number in STOP:
            signal.signal(number, signal.SIG_DFL)
        be_nobody()
        channel.sendall(_READY)
        Server(listener, channel, Pages(channel)).run()
        code = 0  # the parent has gone
    except (OSError, SourceError) as error:
        say(str(error))
    finally:
        os._exit(code)


def be_nobody() -> None:
    """User 7363, no capability, and no way to gain one. Raises OSError."""
    os.setgroups([])
    os.setgid(UID)
    os.setuid(UID)
    capset.drop_all()
    if ctypes.CDLL(None, use_errno=True).prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl: no_new_privs")


class SourceError(Exception):
    """The parent does not answer; what it said later would be taken for its next answer."""


class Pages:
    """What each path says; the metrics come from the parent."""

    def __init__(self, channel: socket.socket) -> None:
        channel.settimeout(ANSWER_S)
        self._channel = channel

    def __call__(self, path: str) -> Answer:
        if path == "/healthz":
            return Answer(200, "ok\n")
        if path != "/metrics":
            return Answer(404, "here are /metrics and /healthz\n")
        return self._ask()

    def _ask(self) -> Answer:
        try:
            self._channel.sendall(b"?")
            is_good, length = _HEAD.unpack(self._receive(_HEAD.size))
            text = self._receive(length).decode()
        except OSError as error:
            raise SourceError(f"the process that reads the counters does not answer: {error}") from None
        return Answer(200, text, _KIND) if is_good else Answer(500, text)

    def _receive(self, length: int) -> bytes:
        found = bytearray()
        while len(found) < length:
            if not (data := self._channel.recv(length - len(found))):
                raise ConnectionError("it has ended")
            found += data
        return bytes(found)


def say(line: str) -> None:
    """To standard error, as one line of the container's log."""
    print(f"srcip-proxy ebpf exporter: {line}", file=sys.stderr, flush=True)


def _refuse(reasons: Iterable[str], code: int) -> int:
    for reason in reasons:
        say(reason)
    return code
