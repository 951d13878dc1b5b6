"""The programs of ebpf mode, compiled from proxy/bpf by clang for the tests; the image's Dockerfile does the same."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import srcip_proxy
from srcip_lab import image
from srcip_lab.tools import run

SOURCES = Path(srcip_proxy.__file__).parents[1] / "bpf"
FLAGS = ("-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", "bpf")
PROGRAMS = SOURCES / "srcip.bpf.c"


def compiled(source: Path = PROGRAMS) -> Path:
    """The object of `source` as it is now; compiled when it is not in the cache yet. Raises LabError."""
    sources = sorted({source, *SOURCES.glob("*.[ch]")})
    key = hashlib.sha256(b"\0".join([" ".join(FLAGS).encode(), *(s.read_bytes() for s in sources)])).hexdigest()[:16]
    done = image.cache() / f"{source.name.partition('.')[0]}-{key}.bpf.o"
    if not done.exists():
        aside = done.with_suffix(f".{os.getpid()}")
        headers = f"-I/usr/include/{os.uname().machine}-linux-gnu"
        run("clang", *FLAGS, headers, "-c", str(source), "-o", str(aside))
        aside.rename(done)
    return done
