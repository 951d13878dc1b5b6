"""`srcip-proxy ebpf attach | stats | exporter`: the real client address without a proxy. See docs/ebpf.md."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from srcip_proxy import capset
from srcip_proxy.ebpf import counters, libbpf, maps, preflight
from srcip_proxy.environment import load
from srcip_proxy.plan import Plan
from srcip_proxy.pod import Pod

_SO_NETNS_COOKIE = 71  # asm-generic/socket.h
OBJECTS = tuple(Path("/usr/lib/srcip") / name for name in ("srcip.bpf.o", "srcip-copies.bpf.o"))
"""The same programs, compiled for newer and for older kernels."""


class AlreadyAttachedError(libbpf.BpfError):
    """Programs with another configuration are attached to this Pod: no other data plane may read its headers."""


@dataclass(frozen=True)
class Place:
    """Where the programs are attached."""

    interfaces: tuple[str, ...]
    cgroup: Path
    """The Pod's directory in cgroup v2."""
    tcx: bool = True
    """Whether tcx is used where the kernel has it: it costs less for each packet than clsact."""


def attach(plan: Plan, pod: Pod, objects: Sequence[Path], place: Place, number: int | None = None) -> str:
    """Attach everything and say what was done. Raises BpfError, OSError.

    `number` is the fingerprint that the programs are to answer with, by default that of all that they are told. Of the
    `objects` the first is used that the kernel's verifier takes. The programs do nothing until the last entry of their
    maps is written, so an interrupted attach has no effect.
    """
    number = number or maps.fingerprint(plan, pod, b"".join(path.read_bytes() for path in objects))
    before = counters.fingerprint()
    if before == number:
        return "already attached"
    if before is not None:
        raise AlreadyAttachedError(
            "programs with another configuration are attached to this Pod already, and can't be "
            "replaced; recreate the Pod"
        )
    entries = maps.entries(plan, pod, number, _netns_cookie())
    loaded = _loaded(objects, plan.max_connections)
    try:
        hook = _attach_to(loaded, place)
    except (libbpf.BpfError, OSError):
        loaded.detach()
        raise
    for entry in entries:
        loaded.put(entry.name, entry.key, entry.value)
    loaded.close()
    return f"attached to {', '.join(place.interfaces)} ({hook}) and {place.cgroup}"


def _loaded(objects: Sequence[Path], connections: int) -> libbpf.Object:
    """The first that can be loaded; raises the BpfError of the last."""
    first, *others = objects
    loaded = libbpf.Object(first)
    try:
        loaded.resize("conns", connections)
        loaded.load()
    except libbpf.BpfError:
        loaded.close()
        if not others:
            raise
        return _loaded(others, connections)
    return loaded


def _attach_to(loaded: libbpf.Object, place: Place) -> str:
    """Attach the programs for packets to each interface, the others to the cgroup. Returns `tcx` or `clsact`."""
    programs = (("srcip_egress", libbpf.TC_EGRESS), ("srcip_ingress", libbpf.TC_INGRESS))
    hooks = [(program, interface, point) for interface in place.interfaces for program, point in programs]
    has_tcx = place.tcx and all(loaded.attach_tcx(*hook) for hook in hooks)
    for hook in () if has_tcx else hooks:
        loaded.attach_clsact(*hook)
    loaded.attach_cgroup("srcip_peer6", place.cgroup, libbpf.GETPEERNAME6)
    loaded.attach_cgroup("srcip_peer4", place.cgroup, libbpf.GETPEERNAME4)
    return "tcx" if has_tcx else "clsact"


def _netns_cookie() -> int:
    """The cookie of this network namespace: no other ever has the same (socket(7) of Linux 5.14)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)


def main(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> int:
    """`srcip-proxy ebpf`. Exit code 0 when done, 1 with the reason, 2 on wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        return _stats() if options.what == "stats" else _attach(options, environment)
    except (libbpf.BpfError, OSError) as error:
        print(f"srcip-proxy ebpf {options.what}: {error}", file=sys.stderr)
        return 1


def _attach(options: argparse.Namespace, environment: Mapping[str, str]) -> int:
    plan, pod = load(environment)
    capset.use_all()
    objects = tuple(options.object or OBJECTS)
    interfaces = tuple(options.interface or preflight.ethernets())
    if findings := preflight.findings(interfaces, options.cgroup, objects):
        for finding in findings:
            print(f"srcip-proxy ebpf attach: {finding}", file=sys.stderr)
        return 1
    place = Place(interfaces, options.cgroup, options.hook != "clsact")
    print(f"srcip-proxy ebpf: {attach(plan, pod, objects, place)}")
    return 0


def _stats() -> int:
    values = counters.read()
    if values is None:
        print(
            (
                "srcip-proxy ebpf stats: no program of srcip is attached to the cgroup of this process; "
                "run it in a container of the Pod"
            ),
            file=sys.stderr,
        )
        return 1
    print(counters.text(values), end="")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="srcip-proxy ebpf", description=__doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    attaching = commands.add_parser("attach", help="attach the programs to this Pod; needs CAP_BPF and CAP_NET_ADMIN")
    attaching.add_argument("--cgroup", type=Path, required=True, help="the Pod's directory in cgroup v2")
    text = "where the balancers' packets arrive; repeat it for several (default: each that is Ethernet)"
    attaching.add_argument("--interface", action="append", help=text)
    text = f"the compiled programs; of several the first that the kernel takes (default: {' '.join(map(str, OBJECTS))})"
    attaching.add_argument("--object", type=Path, action="append", help=text)
    attaching.add_argument("--hook", choices=("auto", "clsact"), default="auto", help="auto: tcx if the kernel has it")
    commands.add_parser("stats", help="print the counters of this Pod; needs no capability")
    text = "serve the counters of all Pods of this node: srcip-proxy ebpf exporter --help"
    commands.add_parser("exporter", add_help=False, help=text)
    return parser
