"""The programs of ebpf mode, compiled from proxy/bpf by clang; the image's Dockerfile does the same."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import srcip_proxy
from srcip_lab import compiling, places
from srcip_lab.errors import LabError
from srcip_lab.tools import machine_path

SOURCES = Path(srcip_proxy.__file__).parents[1] / "bpf"
FLAGS = ("-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", "bpf")
PROGRAMS = SOURCES / "srcip.bpf.c"
BOTH = (PROGRAMS, SOURCES / "srcip-copies.bpf.c")
"""For newer and for older kernels."""
HEADERS = Path("/usr/include/bpf/bpf_helpers.h")


def compiled(source: Path = PROGRAMS) -> Path:
    """The object of `source` as it is now; compiled when it is not in the cache yet. Raises LabError."""
    if not source.exists():
        raise LabError(f"{source} is missing: ebpf mode needs srcip's source tree, or {places.ROOTFS}")
    _require_compiler()
    headers = f"-I/usr/include/{os.uname().machine}-linux-gnu"
    command = ("clang", *FLAGS, headers, "-c", str(source))
    name = f"{source.name.partition('.')[0]}-{{}}.bpf.o"
    return compiling.compiled(places.cache(), name, command, {source, *SOURCES.glob("*.[ch]")})


def _require_compiler() -> None:
    """Raise LabError that names what this machine lacks to compile."""
    packages = {"clang": shutil.which("clang", path=machine_path()), "libbpf-dev": HEADERS.exists()}
    if names := " ".join(name for name, is_there in packages.items() if not is_there):
        command = f"apt-get install -y --no-install-recommends {names}"
        raise LabError(f"missing on this machine to compile the programs of ebpf mode: {names} ({command})")
