"""A kernel as Debian packages it, unpacked: boot/vmlinuz-RELEASE and lib/modules/RELEASE below one directory."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from srcip_lab.errors import LabError
from srcip_lab.image import locked
from srcip_lab.places import cache
from srcip_lab.tools import run


@dataclass(frozen=True)
class Kernel:
    """A kernel that can be booted."""

    release: str
    """What `uname -r` will say."""
    root: Path

    @property
    def image(self) -> Path:
        return self.root / f"boot/vmlinuz-{self.release}"

    @property
    def modules(self) -> Path:
        return self.root / f"lib/modules/{self.release}"


def kernel(wanted: str) -> Kernel:
    """Of a version such as 6.1, by this machine's package sources, or of a directory with unpacked packages.

    Raises LabError.
    """
    if Path(wanted).is_dir():
        return unpacked(Path(wanted).resolve())
    if not re.fullmatch(r"\d+\.\d+", wanted):
        raise LabError(f"{wanted!r} is no version of a kernel such as 6.1 and no directory")
    package = _newest(wanted)
    place = cache() / f"kernel-{package}"
    with locked(cache() / ".kernel.lock"):
        if not place.is_dir():
            _download(package, place)
    return unpacked(place)


def unpacked(root: Path) -> Kernel:
    """The one kernel below `root`, with the index of its modules. Raises LabError."""
    images = sorted(root.glob("boot/vmlinuz-*"))
    if len(images) != 1:
        raise LabError(f"{root} has {len(images)} files boot/vmlinuz-*: it takes the packages of one kernel")
    found = Kernel(images[0].name.removeprefix("vmlinuz-"), root)
    if not (found.modules / "modules.dep").exists():
        run("depmod", "-b", str(root), found.release)
    return found


def _newest(version: str) -> str:
    """The name of the newest package; a kernel for clouds has all that the tests need, and is small."""
    pattern = rf"^linux-image-{re.escape(version)}\.[0-9].*-cloud-amd64$"
    names = [line.split()[0] for line in run("apt-cache", "search", "--names-only", pattern).splitlines()]
    if not names:
        raise LabError(f"no package of this machine's sources fits {pattern} (apt-get update)")
    return max(names, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])


def _download(package: str, place: Path) -> None:
    """By apt, which checks the signature; the directory has its name only once it is whole."""
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".building-kernel-") as aside:
        run("sh", "-c", 'cd "$1" && apt-get -qq -o APT::Sandbox::User=root download "$2"', "sh", aside, package)
        (archive,) = Path(aside).glob("*.deb")
        run("dpkg-deb", "-x", str(archive), f"{aside}/root")
        Path(aside, "root").rename(place)
