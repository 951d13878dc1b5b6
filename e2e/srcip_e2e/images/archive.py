"""A docker archive: what it says of its image, its layers, and the root file system they make.

Format: https://github.com/moby/docker-image-spec (image.tar with manifest.json).
"""

from __future__ import annotations

import json
import subprocess
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

CHUNK = 1 << 20
GZIP_LEVEL = 6
"""What engines push layers with."""
XATTRS = ("--xattrs", "--xattrs-include=security.capability")


@dataclass(frozen=True)
class Archive:
    """One image in a file."""

    path: Path

    def manifest(self) -> dict[str, Any]:
        """Names and layers. Raises ValueError if there is more than one image."""
        (entry,) = self._json("manifest.json")
        return dict(entry)

    def config(self) -> dict[str, Any]:
        """The image's configuration: config.User, config.Labels and so on."""
        return dict(self._json(self.manifest()["Config"]))

    @contextmanager
    def layer(self) -> Iterator[IO[bytes]]:
        """The only layer, as an uncompressed tar file. Raises ValueError if there are more."""
        (name,) = self.manifest()["Layers"]
        with tarfile.open(self.path) as outer, _member(outer, name) as inner:
            yield inner

    def sizes(self) -> tuple[int, int]:
        """Bytes of the layer as it is transferred (gzip), and unpacked."""
        packer, packed, whole = zlib.compressobj(GZIP_LEVEL), 0, 0
        with self.layer() as layer:
            while chunk := layer.read(CHUNK):
                whole += len(chunk)
                packed += len(packer.compress(chunk))
        return packed + len(packer.flush()), whole

    def unpack(self, target: Path) -> None:
        """Write the root file system into `target`, with owners and file capabilities: needs root."""
        target.mkdir(parents=True)
        command = ["tar", "-C", str(target), *XATTRS, "--numeric-owner", "-xp"]
        with self.layer() as layer, subprocess.Popen(command, stdin=subprocess.PIPE) as tar:
            while chunk := layer.read(CHUNK):
                tar.stdin.write(chunk)  # type: ignore[union-attr]
        if tar.returncode:
            raise OSError(f"{self.path}: tar ended with {tar.returncode}")

    def _json(self, name: str) -> Any:
        with tarfile.open(self.path) as outer, _member(outer, name) as file:
            return json.load(file)


def _member(outer: tarfile.TarFile, name: str) -> IO[bytes]:
    file = outer.extractfile(name)
    if file is None:
        raise ValueError(f"{name}: not a file in the archive")
    return file
