"""Archives of the images, each made once for each state of its files, and kept under the user's cache directory."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from srcip_e2e.images import buildah
from srcip_e2e.images.archive import Archive
from srcip_e2e.images.recipe import NAMES, Recipe, reference
from srcip_lab.errors import LabError
from srcip_lab.image import locked
from srcip_lab.places import cache

KEPT, KEPT_SECONDS = 4, 3600
"""How many archives and root file systems are kept of each image; none goes that was used in the last seconds."""


def build(names: Iterable[str] = NAMES, *, fresh: bool = False) -> dict[str, Path]:
    """The docker archive of each image. What is not there yet is built (a minute for all); needs root and buildah.

    `fresh` builds anew, from the newest packages. Raises LabError with every reason why it cannot, or what a step said.
    """
    recipes = [Recipe(name) for name in _known(names)]
    archives = {recipe: _archive(recipe) for recipe in recipes}  # once: the files may change while it builds
    if wanted := [recipe for recipe, archive in archives.items() if fresh or not archive.exists()]:
        _require()
        with _locked() as storage:
            storage.base(fresh=fresh)
            for recipe in wanted:
                _made(archives[recipe], partial(storage.build, recipe, reference(recipe.name)), fresh=fresh)
    return {recipe.name: _used(archive) for recipe, archive in archives.items()}


def unpacked(name: str) -> Path:
    """The root file system of the image, with its file capabilities. Nobody may change it: others use it, too."""
    archive = build([name])[name]
    rootfs = archive.with_suffix(".rootfs")
    if not rootfs.is_dir():
        with _locked():
            _made(rootfs, Archive(archive).unpack)
    return _used(rootfs)


def _known(names: Iterable[str]) -> tuple[str, ...]:
    wanted = tuple(names)
    if unknown := sorted(set(wanted) - set(NAMES)):
        raise LabError(*(f"{name}: no such image. Allowed: {', '.join(NAMES)}" for name in unknown))
    return wanted


def _require() -> None:
    if os.geteuid():
        raise LabError("building images needs root: file capabilities belong to its files")
    buildah.require()


def _archive(recipe: Recipe) -> Path:
    return cache() / f"image-{recipe.name}-{recipe.key(buildah.BASE)}.tar"


@contextmanager
def _locked() -> Iterator[buildah.Storage]:
    directory = cache() / "buildah"
    directory.mkdir(exist_ok=True)
    with locked(directory / "lock"):
        yield buildah.Storage(directory)


def _made(finished: Path, make: Callable[[Path], None], *, fresh: bool = False) -> None:
    """Make it aside; only what is whole ever has the name. Another process may have been first."""
    if finished.exists() and not fresh:
        return
    aside = finished.with_name(f".building-{finished.name}")
    for old in (aside, *_unused(finished)):
        _remove(old)
    make(aside)
    _remove(finished.with_suffix(".rootfs"))
    aside.rename(finished)


def _unused(finished: Path) -> list[Path]:
    """Older states of the same image: all but the ones used last, or in use just now."""
    states = list(cache().glob(f"{finished.name.rpartition('-')[0]}-*"))
    newest_first = sorted(states, key=lambda path: path.lstat().st_mtime, reverse=True)
    return [path for path in newest_first[KEPT:] if time.time() - path.lstat().st_mtime > KEPT_SECONDS]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _used(path: Path) -> Path:
    os.utime(path)
    return path
