"""The command line of `srcip-proxy ebpf exporter`. Pure."""

from __future__ import annotations

import argparse
import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

HELP = """usage: srcip-proxy ebpf exporter [OPTION VALUE]...

Serves the counters of all Pods of this node that are in ebpf mode, for Prometheus: /metrics, and /healthz. Needs cgroup
v2, and root with the capabilities SYS_ADMIN, NET_ADMIN, SETUID and SETGID: docs/exporter.md says what for.

  --listen ADDRESS:PORT   where to listen; without ADDRESS, on all; default :15320
  --cgroups DIRECTORY     the node's cgroup file system; default /sys/fs/cgroup
  --pods DIRECTORY        where kubelet keeps the logs of the Pods, whose names are read there; default /var/log/pods
  -h, --help              this text

Exit codes: 0 when it was stopped, 1 when it cannot start or go on, 2 for a wrong command line.
"""
DEFAULTS = {"listen": ":15320", "cgroups": "/sys/fs/cgroup", "pods": "/var/log/pods"}
_LISTEN = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9.]*):([0-9]{1,5})", re.ASCII)
_EXPECTED = "expected is ADDRESS:PORT, such as :15320, 127.0.0.1:15320 or [::1]:15320"


class UsageError(ValueError):
    """The command line is wrong; `faults` names every option, its value and what is allowed."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(self.faults))


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    address: str | None
    """None: all of them, of both versions of IP."""
    port: int
    cgroups: Path
    pods: Path


def wants_help(arguments: Sequence[str]) -> bool:
    """Whether the help is asked for."""
    return not {"-h", "--help"}.isdisjoint(arguments)


def parse(arguments: Sequence[str]) -> Options:
    """Read the command line. Raises UsageError with all faults."""
    given, unknown = _parser().parse_known_args(list(arguments))
    faults = [f"{word!r}: no such option; srcip-proxy ebpf exporter --help names them" for word in unknown]
    values = {name: _once(name, getattr(given, name), faults) for name in DEFAULTS}
    address, port = _listen(values["listen"], faults)
    for name in ("cgroups", "pods"):
        if not Path(values[name]).is_absolute():
            faults.append(f"--{name} {values[name]!r}: expected is an absolute path, such as {DEFAULTS[name]}")
    if faults:
        raise UsageError(faults)
    return Options(address, port, Path(values["cgroups"]), Path(values["pods"]))


def _parser() -> argparse.ArgumentParser:
    """Reads every option as a list of texts, "" where the value is missing: judging them is ours, all at once."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in DEFAULTS:
        parser.add_argument(f"--{name}", action="append", nargs="?", const="", default=[])
    return parser


def _once(name: str, given: list[str], faults: list[str]) -> str:
    if len(given) > 1:
        faults.append(f"--{name}: given {len(given)} times; give it once")
    return given[-1] if given else DEFAULTS[name]


def _listen(text: str, faults: list[str]) -> tuple[str | None, int]:
    match = _LISTEN.fullmatch(text)
    host, port = (match[1].strip("[]"), int(match[2])) if match else ("", 0)
    if not match or not 1 <= port <= 65535 or (host and not _is_address(host, match[1].startswith("["))):
        faults.append(f"--listen {text!r}: {_EXPECTED}, with a port from 1 to 65535")
    return host or None, port


def _is_address(text: str, is_bracketed: bool) -> bool:
    try:
        return (ipaddress.ip_address(text).version == 6) == is_bracketed
    except ValueError:
        return False
