"""`srcip-agent`: two processes. This one has the privilege, and takes nothing but orders from its child. The child,
user 7363 without any capability, talks to the API server and to whoever asks for metrics."""

from __future__ import annotations

import json
import os
import platform
import signal
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NoReturn

from srcip_agent.channel import Channel, ChannelError
from srcip_agent.keeper import Keeper
from srcip_agent.options import Options, UsageError, parse
from srcip_agent.setup import Node
from srcip_proxy import capabilities, capset
from srcip_proxy.ebpf import cgroups, preflight
from srcip_proxy.ebpf.libbpf import BpfError, library

NEEDED = ("SYS_ADMIN", "SYS_PTRACE", "NET_ADMIN", "SETUID", "SETGID")
"""docs/agent.md says what for."""


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """Exit code 0 when it was stopped, 1 with the reasons, 2 on wrong usage."""
    try:
        options = parse(sys.argv[1:] if arguments is None else arguments, environment)
    except UsageError as error:
        return _refuse(error.faults, 2)
    if reasons := list(obstacles(options)):
        return _refuse(reasons, 1)
    return _run(options)


def obstacles(options: Options) -> Iterator[str]:
    """What is missing on this node or in this container, each with what to do."""
    permitted = capabilities.held("CapPrm")
    for name in NEEDED:
        if not permitted >> capabilities.NUMBERS[name] & 1:
            yield f"CAP_{name} is missing: run it as user 0, and add {name} to the container's capabilities"
    yield from preflight.kernel(platform.release())
    if not options.cgroups.is_dir():
        yield f"--cgroups {options.cgroups}: no such directory; it is the node's /sys/fs/cgroup, a hostPath volume"
    elif not cgroups.version_2(options.cgroups):
        yield (
            f"--cgroups {options.cgroups} is not cgroup v2, without which there is no ebpf mode: boot the node with "
            "systemd.unified_cgroup_hierarchy=1, or keep the agent away from it (agent.nodeSelector)"
        )
    try:
        (options.namespaces / "net").stat()
    except OSError as error:
        yield f"--namespaces {options.namespaces}: {error.strerror}; the container needs hostPID and SYS_PTRACE"
    yield from (f"{each} is missing: it is part of the image" for each in options.objects if not each.exists())
    try:
        library()
    except BpfError as error:
        yield str(error)


def _run(options: Options) -> int:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    capset.use_all()
    root = cgroups.version_2(options.cgroups) or options.cgroups
    ours, theirs = socket.socketpair()
    if not (child := os.fork()):
        ours.close()
        _serve(options, theirs)
    theirs.close()
    node = Node(options.namespaces, options.addresses, options.objects)
    try:
        Keeper(root, node, Channel(ours)).run()
    except (ChannelError, OSError) as error:
        os.kill(child, signal.SIGTERM)
        say("stopped", error=str(error))
    return 1


def _stop(number: int, _: object) -> None:
    """At once: there is nothing to finish. The child sees the end of the channel."""
    raise SystemExit(0)


def _serve(options: Options, channel: socket.socket) -> NoReturn:
    """The child."""
    from srcip_agent import service  # noqa: PLC0415 - the process with privilege loads no client of the API

    code = 1
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        service.run(options, Channel(channel), say)
    except (OSError, ChannelError) as error:
        say("stopped", error=str(error))
    finally:
        os._exit(code)


def say(event: str, **fields: object) -> None:
    """One line of the container's log, as JSON."""
    now = time.time()
    stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03d}Z"
    line = json.dumps({"time": stamp, "event": event, **fields}, separators=(",", ":"), default=str)
    os.write(sys.stdout.fileno(), line.encode() + b"\n")


def _refuse(reasons: Iterable[str], code: int) -> int:
    for reason in reasons:
        print(f"srcip-agent: {reason}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
