"""`python -m srcip_e2e.images [--output DIR] [--unpacked] [--fresh] [NAME ...]`: build images, print their sizes."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from srcip_e2e.images.archive import Archive
from srcip_e2e.images.builder import build, unpacked
from srcip_e2e.images.recipe import NAMES, reference
from srcip_lab.errors import LabError

MEGABYTE = 1_000_000


def main() -> None:
    """Exit code 0 when all images are there, 1 with the reasons otherwise."""
    arguments = _parser().parse_args()
    try:
        for name, archive in build(arguments.names or NAMES, fresh=arguments.fresh).items():
            print(unpacked(name) if arguments.unpacked else _line(name, archive, arguments.output))
    except LabError as error:
        sys.exit("\n".join(error.errors))


def _line(name: str, archive: Path, output: Path | None) -> str:
    if output:
        output.mkdir(parents=True, exist_ok=True)
        archive = Path(shutil.copyfile(archive, output / f"srcip-{name}.tar"))
    packed, whole = (size / MEGABYTE for size in Archive(archive).sizes())
    return f"{reference(name):22} {packed:6.1f} MB compressed {whole:6.1f} MB unpacked  {archive}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m srcip_e2e.images", description="Build the images from their Dockerfiles."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)}; all without any")
    parser.add_argument("--output", type=Path, metavar="DIR", help="copy the archives there")
    parser.add_argument("--unpacked", action="store_true", help="print directories with the root file systems instead")
    parser.add_argument("--fresh", action="store_true", help="build anew, from the newest packages")
    return parser


if __name__ == "__main__":
    main()
