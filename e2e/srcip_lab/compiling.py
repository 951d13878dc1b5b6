"""C sources of the proxy's image, compiled on this machine as its Dockerfile does, and kept."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from srcip_lab.tools import run


def compiled(cache: Path, name: str, command: Sequence[str], sources: Iterable[Path]) -> Path:
    """The object that `command` with `-o FILE` makes of `sources`; its name in `cache` is `name` with a key in place of
    `{}`, so that it is made once. Raises LabError with the compiler's words.
    """
    parts = [" ".join(command).encode(), *(source.read_bytes() for source in sorted(sources))]
    done = cache / name.format(hashlib.sha256(b"\0".join(parts)).hexdigest()[:16])
    if not done.exists():
        aside = done.with_suffix(f".{os.getpid()}")
        run(*command, "-o", str(aside))
        aside.rename(done)
    return done
