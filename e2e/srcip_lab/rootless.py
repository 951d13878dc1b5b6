"""The lab without root: everything happens inside a user namespace, where this user is root.

One process, the holder, keeps that namespace (and a mount and a network namespace) open from one command to the next;
every command enters it again. It ends by itself when no lab is left in it. /run is a directory of its own there, so
the namespaces under /run/netns are seen only from inside: `enter` in the `--json` output is the command to get there.
"""

from __future__ import annotations

import fcntl
import getpass
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from srcip_lab import image, places
from srcip_lab.errors import LabError
from srcip_lab.state import Process, read_json, root, wait_until, write_json
from srcip_lab.tools import machine_path, run

HOLDER = "SRCIP_LAB_HOLDER"
"""Set inside: the process number of the holder."""
UNSHARE = ("unshare", "--user", "--map-root-user", "--map-auto", "--mount")
EVERYBODY = ["0", "0", "4294967295"]
"""uid_map of the first user namespace."""
POLL_S = 1.0
START_S = 60.0
PACKAGES = {"newuidmap": "uidmap", "unshare": "util-linux", "nsenter": "util-linux"}
OWN = ("netns", root().name)
"""Entries of /run that are not the machine's own inside."""


def needed() -> bool:
    """Whether this process is neither root nor inside already."""
    return os.geteuid() != 0


def is_inside() -> bool:
    """Whether this process is in a user namespace that somebody made (user_namespaces(7)), this module or another."""
    return Path("/proc/self/uid_map").read_text().split() != EVERYBODY


def run_inside(command: Sequence[str]) -> int:
    """Run `command` inside, with a holder that is there or is started; its exit code. Raises LabError if impossible."""
    _check()
    if not image.cached():
        _unshared([*UNSHARE, sys.executable, "-m", "srcip_lab.image"])
    with _locked(fcntl.LOCK_SH):
        with _locked(fcntl.LOCK_EX, "starting"):
            found = _running() or _start()
        environment = {**os.environ, HOLDER: str(found.pid), "PATH": machine_path()}
        return subprocess.run([*enter(found.pid), *command], env=environment, check=False).returncode


def enter(pid: int) -> list[str]:
    """The command line that runs what follows it inside."""
    return ["nsenter", f"--target={pid}", "--user", "--mount", "--net", "--setuid=0", "--setgid=0", "--"]


def holder() -> Process | None:
    """The holder of the namespace that this process is in; None outside."""
    number = os.environ.get(HOLDER)
    return Process.of(int(number)) if number else None


def seen_from_outside(path: str) -> str:
    """The same file under a name that works inside and outside."""
    number = os.environ.get(HOLDER)
    return f"/proc/{number}/root{path}" if number else path


def enter_from_outside() -> list[str]:
    """What a person has to put before a command to reach the lab's namespaces; nothing for root's labs."""
    number = os.environ.get(HOLDER)
    return enter(int(number)) if number else []


def hold() -> None:
    """`python -m srcip_lab.rootless`: prepare /run, then stay until no lab and no command is left."""
    _own_run()
    run("ip", "link", "set", "lo", "up")
    own = Process.of(os.getpid())
    write_json(_file("holder"), asdict(own) if own else None)
    while True:
        time.sleep(POLL_S)
        with _locked(fcntl.LOCK_EX | fcntl.LOCK_NB) as ours:
            if ours and not any(path.is_dir() for path in root().glob("*")):
                _file("holder").unlink()
                return


def _check() -> None:
    """Raise LabError that names what this machine lacks for a lab without root."""
    user = getpass.getuser()
    missing = [f"package {name}" for tool, name in PACKAGES.items() if shutil.which(tool, path=machine_path()) is None]
    for path in ("/etc/subuid", "/etc/subgid"):
        lines = Path(path).read_text().splitlines() if Path(path).exists() else []
        if not any(line.split(":")[0] in (user, str(os.getuid())) for line in lines):
            missing.append(
                f"a range for {user} in {path} (usermod --add-subuids 100000-165535 --add-subgids 100000-165535)"
            )
    if missing:
        raise LabError("without root the lab needs (or run it as root):", *(f"  {each}" for each in missing))
    _unshared([*UNSHARE, "--net", "true"])


def _unshared(command: Sequence[str]) -> None:
    done = subprocess.run(
        command, env={**os.environ, "PATH": machine_path()}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        hint = (
            "the kernel may forbid user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, "
        )
        hint += "kernel.apparmor_restrict_unprivileged_userns); run the lab as root then"
        raise LabError(f"without root: {' '.join(command)}: {done.stderr.strip()}", hint)


def _start() -> Process:
    """A new holder. It writes its own number down, once it is ready."""
    _file("holder").unlink(missing_ok=True)
    log = _file("log")
    with log.open("w") as output:
        subprocess.run(
            ["setsid", "--fork", *UNSHARE, "--net", sys.executable, "-m", "srcip_lab.rootless"],
            env={**os.environ, "PATH": machine_path()},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            check=True,
        )
    wait_until(lambda: _running() is not None, START_S)
    found = _running()
    if found is None:
        raise LabError("without root: the namespace does not start", log.read_text().strip())
    return found


def _running() -> Process | None:
    found = Process.read(read_json(_file("holder")))
    return found if found and found.alive() else None


def _own_run() -> None:
    """A /run of our own, with everything that the machine has in its own but the lab's directories."""
    run("mount", "--make-rprivate", "/")
    old = os.open("/run", os.O_RDONLY | os.O_DIRECTORY)
    entries = [entry for entry in os.scandir("/run") if entry.name not in OWN and entry.is_dir(follow_symlinks=False)]
    run("mount", "-t", "tmpfs", "-o", "mode=755", "srcip-lab", "/run")
    for name in ("netns", *(entry.name for entry in entries)):
        Path("/run", name).mkdir()
    for entry in entries:
        run("mount", "--rbind", f"/proc/{os.getpid()}/fd/{old}/{entry.name}", f"/run/{entry.name}")
    os.close(old)


def _file(kind: str) -> Path:
    return places.cache() / f".rootless-{kind}"


@contextmanager
def _locked(how: int, kind: str = "lock") -> Iterator[bool]:
    with _file(kind).open("w") as file:
        try:
            fcntl.flock(file, how)
        except BlockingIOError:
            yield False
            return
        yield True


if __name__ == "__main__":
    hold()
