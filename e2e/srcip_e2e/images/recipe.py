"""What an image is made of: its Dockerfile and the files that this copies. Pure, but for reading them.

All that decides what comes out goes into the key, so that equal keys mean an equal image, apart from newer versions of
Debian's packages.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
"""The repository: the context of every build."""
NAMES = ("proxy", "webhook", "certs", "agent")
SUITE = "trixie"
VERSION = "1"
"""Raise it when the builder makes an image in another way."""


@dataclass(frozen=True)
class Recipe:
    """How one image is built."""

    name: str
    root: Path = ROOT

    @property
    def dockerfile(self) -> Path:
        return self.root / self.name / "Dockerfile"

    def sources(self) -> tuple[str, ...]:
        """What the Dockerfile copies from the repository. Raises ValueError for an option other than --from."""
        return tuple(source for line in _instructions(self.dockerfile.read_text()) for source in _copied(line))

    def files(self) -> tuple[Path, ...]:
        """The Dockerfile and every file that it copies, sorted."""
        paths = [self.root / source for source in self.sources()]
        found = {file for path in paths for file in (path.rglob("*") if path.is_dir() else [path])}
        kept = (file for file in found if file.is_file() and "__pycache__" not in file.parts)
        return tuple(sorted({self.dockerfile, self.root / ".dockerignore", *kept}))

    def key(self, base: str) -> str:
        """Names the image that these files make of the base image `base`."""
        files = [(str(file.relative_to(self.root)).encode(), file.read_bytes()) for file in self.files()]
        return digest(VERSION.encode(), base.encode(), *(part for file in files for part in file))


def _instructions(text: str) -> Iterator[str]:
    """The instructions of a Dockerfile, each in one line."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            yield line.strip()


def _copied(instruction: str) -> tuple[str, ...]:
    verb, *words = shlex.split(instruction)
    if verb != "COPY" or words[0].startswith("--from="):
        return ()
    if any(word.startswith("--") for word in words):
        raise ValueError(f"{instruction}: the only option of COPY that the builder knows is --from")
    return tuple(words[:-1])


def digest(*parts: bytes) -> str:
    """A short name for these parts, in this order."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "big") + part)
    return total.hexdigest()[:16]


def base_key(*words: str) -> str:
    """Names the base image that these words of a command make on this kind of machine."""
    return digest(*(word.encode() for word in (VERSION, SUITE, os.uname().machine, *words)))


def project_version() -> str:
    """The version of the project, which is the tag of its images."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def reference(name: str) -> str:
    """The name under which the image `name` is loaded, such as srcip/proxy:0.1.0."""
    return f"srcip/{name}:{project_version()}"
