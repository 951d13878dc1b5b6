"""buildah with a storage of its own, and the base image, made of Debian's packages in place of a registry's."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from srcip_e2e.images import machine
from srcip_e2e.images.recipe import SUITE, Recipe, base_key
from srcip_lab.errors import raise_all
from srcip_lab.tools import machine_path, run

PROGRAMS = {"buildah": "buildah", "mmdebstrap": "mmdebstrap", "apt-config": "apt"}
"""Each program the builder needs, and its Debian package."""
EXCLUDED = tuple(f"/usr/share/{name}/*" for name in ("doc", "man", "locale", "info", "lintian"))
BASE_OPTIONS = (
    "--variant=minbase",
    *(f"--dpkgopt=path-exclude={pattern}" for pattern in EXCLUDED),
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
)
"""What makes mmdebstrap's image like the slim one that is published."""
BASE = f"localhost/srcip-base:{base_key(*BASE_OPTIONS)}"
DRIVER = "vfs"
"""Copies whole layers, and works on every file system, also where overlay cannot be mounted."""


def missing() -> tuple[str, ...]:
    """Packages of this machine that are not there, sorted."""
    absent = {package for name, package in PROGRAMS.items() if shutil.which(name, path=machine_path()) is None}
    return tuple(sorted(absent))


def require() -> None:
    """Raise LabError that names every missing package."""
    names = " ".join(missing())
    raise_all(
        [f"missing on this machine: {names} (apt-get install -y --no-install-recommends {names})"] if names else []
    )


@dataclass(frozen=True)
class Storage:
    """Images and containers of buildah under one directory; nothing else on the machine is touched."""

    directory: Path

    def run(self, *words: str) -> str:
        """One command of buildah. Raises LabError with what it said."""
        place = (f"--root={self.directory / 'root'}", f"--runroot={self.directory / 'run'}")
        return run("buildah", *place, f"--storage-driver={DRIVER}", *words)

    def base(self, *, fresh: bool = False) -> str:
        """The name of the base image, made first where it is missing, or anew with `fresh` (some 15 s)."""
        self.run("rm", "--all")  # containers of a build that failed
        if fresh or not self.run("images", "--quiet", "--filter", f"reference={BASE}").strip():
            with TemporaryDirectory(dir=self.directory) as directory:
                self._make_base(Path(directory))
        return BASE

    def _make_base(self, directory: Path) -> None:
        run("mmdebstrap", "--quiet", *BASE_OPTIONS, SUITE, str(directory / "base.tar"))
        (directory / "Dockerfile").write_text("FROM scratch\nADD base.tar /\n")
        self.run("build", "--quiet", "--isolation=chroot", f"--tag={BASE}", str(directory))

    def build(self, recipe: Recipe, name: str, archive: Path) -> None:
        """Build the recipe's Dockerfile and write it as a docker archive that is loaded as `name`."""
        with TemporaryDirectory(dir=self.directory) as directory:
            image = Path(directory) / "image"
            options = ["--isolation=chroot", "--pull-never", f"--build-arg=BASE={BASE}", f"--iidfile={image}"]
            mounts = machine.settings().volumes(Path(directory))
            self.run("build", *options, *mounts, f"--file={recipe.dockerfile}", str(recipe.root))
            self.run("push", "--quiet", image.read_text(), f"docker-archive:{archive}:{name}")
            self.run("rmi", image.read_text())
