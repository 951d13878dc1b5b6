"""The programs of this machine that the lab runs, and the packages they come from."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

from srcip_lab.errors import LabError, raise_all

PACKAGES = {
    "cc": "gcc libc6-dev",
    "ip": "iproute2",
    "mmdebstrap": "mmdebstrap",
    "mount": "mount",
    "nsenter": "util-linux",
    "runc": "runc",
    "setcap": "libcap2-bin",
}
"""Each program the lab needs and the Debian package that holds it."""

STANDARD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def machine_path() -> str:
    """PATH of this machine's programs: the standard one first, then what the caller has besides."""
    standard = STANDARD_PATH.split(":")
    extra = [entry for entry in os.environ.get("PATH", "").split(":") if entry and entry not in standard]
    return ":".join(standard + extra)


def missing_packages(programs: Sequence[str] = tuple(PACKAGES)) -> tuple[str, ...]:
    """Packages of the `programs` that this machine does not have, sorted."""
    absent = (name for name in programs if shutil.which(name, path=machine_path()) is None)
    return tuple(sorted({PACKAGES[name] for name in absent}))


def require(programs: Sequence[str] = tuple(PACKAGES)) -> None:
    """Raise LabError that names every missing package."""
    if missing := missing_packages(programs):
        names = " ".join(missing)
        raise_all([f"missing on this machine: {names} (apt-get install -y --no-install-recommends {names})"])


def run(*args: str, stdin: str | None = None) -> str:
    """Run a program to its end and return what it printed. Raises LabError with the program's own words."""
    try:
        done = subprocess.run(
            args, input=stdin, capture_output=True, text=True, env={**os.environ, "PATH": machine_path()}, check=False
        )
    except FileNotFoundError as error:
        raise LabError(f"{args[0]}: not found (package {PACKAGES.get(args[0], args[0])})") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise LabError(f"{' '.join(args[:6])}: exit code {done.returncode}: {said}")
    return done.stdout
