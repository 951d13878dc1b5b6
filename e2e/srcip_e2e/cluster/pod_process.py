"""The first process of a container of `cluster.podrunner`: it makes the container's view of the machine and becomes it.

Runs as a script in the Pod's network namespace. It makes a mount namespace, puts the volumes where the container wants
them, gives up root for the container's user, and executes the command. Mount points that this machine does not have are
made in an overlay in memory: the machine's own directories stay as they are.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TypedDict

CLONE_NEWNS = 0x20000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
EVERYBODY_MAY_PASS = 0o711
_libc = ctypes.CDLL(None, use_errno=True)


class Mount(TypedDict):
    """A volume of the container."""

    source: str
    target: str
    read_only: bool


class Process(TypedDict):
    """What is to run, and how."""

    args: list[str]
    env: dict[str, str]
    uid: int
    gid: int
    mounts: list[Mount]
    scratch: str
    """A directory of this machine to mount memory over; nobody else sees it."""
    readable: list[str]
    """Directories of this machine that the user must be able to enter."""


def main(process: Process) -> None:
    """Become the container's process. Returns never."""
    _check(_libc.unshare(CLONE_NEWNS), "unshare")
    _mount("none", "/", "", MS_REC | MS_PRIVATE)
    sources = [os.open(mount["source"], os.O_PATH) for mount in process["mounts"]]  # an overlay may hide their path
    targets = [Path(mount["target"]).resolve() for mount in process["mounts"]]
    _overlay(_tops(targets, process["readable"]), Path(process["scratch"]))
    for path in process["readable"]:
        _open_way(Path(path))
    for mount, source, target in zip(process["mounts"], sources, targets, strict=True):
        target.mkdir(parents=True, exist_ok=True)
        _mount(f"/proc/self/fd/{source}", str(target), "", MS_BIND)
        if mount["read_only"]:
            _mount("none", str(target), "", MS_BIND | MS_REMOUNT | MS_RDONLY)
        os.close(source)
    _give_up_root(process["uid"], process["gid"])
    os.chdir("/")
    os.execvpe(process["args"][0], process["args"], process["env"])  # noqa: S606 (that is what it is for)


def _tops(targets: Iterable[Path], readable: Iterable[str]) -> list[Path]:
    """Directories right under / in which something has to be made or opened."""
    missing = [path for path in targets if not path.exists()]
    closed = [Path(path) for path in readable if any(not _passable(each) for each in _way(Path(path)))]
    return sorted({Path("/", path.parts[1]) for path in (*missing, *closed)})


def _overlay(tops: Iterable[Path], scratch: Path) -> None:
    """Make these directories writable for this mount namespace only."""
    _mount("tmpfs", str(scratch), "tmpfs", 0, "mode=755")
    for top in tops:
        upper, work = scratch / f"upper-{top.name}", scratch / f"work-{top.name}"
        upper.mkdir()
        work.mkdir()
        _mount("overlay", str(top), "overlay", 0, f"lowerdir={top},upperdir={upper},workdir={work}")


def _open_way(path: Path) -> None:
    for directory in _way(path):
        if not _passable(directory):
            directory.chmod(EVERYBODY_MAY_PASS)


def _way(path: Path) -> list[Path]:
    return [*reversed(path.parents), path]


def _passable(directory: Path) -> bool:
    return bool(directory.stat().st_mode & 0o001)


def _give_up_root(uid: int, gid: int) -> None:
    """Setting the user takes all capabilities away."""
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    _check(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    _check(_libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "pdeathsig")  # a change of user would clear it


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    done = _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())
    _check(done, f"mount {source} on {target}")


def _check(failed: int, what: str) -> None:
    if failed:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
