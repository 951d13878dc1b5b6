"""Docker archives made of a directory, without a container engine, and the cache that keeps them.

The layer is made by GNU tar, which keeps file capabilities.
Format: https://github.com/moby/docker-image-spec (image.tar with manifest.json).
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

from srcip_e2e.images.archive import XATTRS
from srcip_lab import image, places
from srcip_lab.tools import run

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def cached(kind: str, parts: Sequence[str], build: Callable[[Path], None], suffix: str = "") -> Path:
    """The file or directory that `build` makes, made once for each content of `parts`; older ones go."""
    digest = hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()[:16]
    finished = places.cache() / f"{kind}-{digest}{suffix}"
    with image.locked(places.cache() / f".{kind}.lock"):
        if not finished.exists():
            for old in (*places.cache().glob(f"{kind}-*"), *places.cache().glob(f".building-{kind}-*")):
                shutil.rmtree(old) if old.is_dir() else old.unlink()
            aside = places.cache() / f".building-{finished.name}"
            build(aside)
            aside.rename(finished)
    return finished


def write(archive: Path, name: str, rootfs: Path, command: Sequence[str]) -> None:
    """Write the docker archive of an image called `name` that holds all of `rootfs`."""
    layer = archive.with_suffix(".layer")
    options = (*XATTRS, "--numeric-owner", "--sort=name")
    run("tar", *options, "-C", str(rootfs), "-cf", str(layer), ".")
    with layer.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    config = json.dumps(_config(digest, command)).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": [name], "Layers": [f"{digest}.tar"]}]
    with tarfile.open(archive, "w") as tar:
        _put(tar, "manifest.json", json.dumps(manifest).encode())
        _put(tar, config_name, config)
        tar.add(layer, f"{digest}.tar")
    layer.unlink()


def _config(digest: str, command: Sequence[str]) -> dict[str, object]:
    return {
        "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Cmd": list(command), "Env": ["PATH=/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }


def _put(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))
