"""The command line of `srcip-agent`. Pure."""

from __future__ import annotations

import argparse
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from srcip_proxy.ebpf.attach import OBJECTS
from srcip_proxy.pod import Address

NODE, HOST_IPS = "NODE_NAME", "HOST_IPS"


class UsageError(ValueError):
    """`faults` names every option, its value and what is allowed."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(faults))


@dataclass(frozen=True)
class Options:
    """What the command line and the environment ask for."""

    node: str
    """Whose Pods are followed, by its name in Kubernetes."""
    addresses: tuple[Address, ...]
    """The node's own."""
    port: int
    cgroups: Path
    namespaces: Path
    objects: tuple[Path, ...]
    events: str
    """A file of watch events in place of an API server, `-` for standard input; else empty."""


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Options:
    """Read both. Raises UsageError with all faults; argparse ends the process for --help and unknown options."""
    given = parser().parse_args(list(arguments))
    faults: list[str] = []
    addresses = _addresses(environment.get(HOST_IPS, ""), faults)
    node = environment.get(NODE, "")
    if not node and not given.events:
        faults.append(f"{NODE}: not set; it is the node's name (spec.nodeName)")
    if not 0 <= given.port <= 65535:
        faults.append(f"--port {given.port}: expected is a number from 0 to 65535")
    faults += [
        f"--{name} {value}: an absolute path is expected"
        for name, value in (("cgroups", given.cgroups), ("namespaces", given.namespaces))
        if not value.is_absolute()
    ]
    if faults:
        raise UsageError(faults)
    objects = tuple(given.object or OBJECTS)
    return Options(node, addresses, given.port, given.cgroups, given.namespaces, objects, given.events)


def _addresses(text: str, faults: list[str]) -> tuple[Address, ...]:
    found: list[Address] = []
    for each in filter(None, map(str.strip, text.split(","))):
        try:
            found.append(ipaddress.ip_address(each))
        except ValueError:
            faults.append(f"{HOST_IPS}: {each!r} is not an IP address")
    return tuple(found)


def parser() -> argparse.ArgumentParser:
    about = (
        "Sets up the Pods of this node that have no privilege of their own. Reads NODE_NAME and HOST_IPS, the node's "
        "name and its addresses, from the environment. docs/agent.md says what it needs."
    )
    parser = argparse.ArgumentParser(prog="srcip-agent", description=about, allow_abbrev=False)
    parser.add_argument("--port", type=int, default=15330, help="of /metrics, /healthz and /readyz (default: 15330)")
    text = "the node's cgroup file system (default: /sys/fs/cgroup)"
    parser.add_argument("--cgroups", type=Path, default=Path("/sys/fs/cgroup"), help=text)
    text = "namespaces of a process in the node's own (default: /proc/1/ns)"
    parser.add_argument("--namespaces", type=Path, default=Path("/proc/1/ns"), help=text)
    text = "the compiled programs; of several the first that the kernel takes (default: those of the image)"
    parser.add_argument("--object", type=Path, action="append", help=text)
    text = (
        "take the Pods from this file of watch events, one JSON object a line, and ask no API server; -: standard input"
    )
    parser.add_argument("--events", default="", metavar="FILE", help=text)
    return parser
