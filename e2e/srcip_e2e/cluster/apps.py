"""Images of the applications that the tests run, from Debian's packages: real, unmodified servers, and one of our own.

There is no registry: the root file system comes from mmdebstrap, and its archive is loaded into the node.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from srcip_e2e.cluster import archive
from srcip_e2e.cluster.node_files import PAUSE_IMAGE
from srcip_lab import image
from srcip_lab.tools import require, run

APPS_IMAGE = "srcip/e2e-apps:1"
PACKAGES = (
    "curl",
    "nginx-light",
    "openssh-client",
    "openssh-server",
    "postgresql-17",
    "python3",
    "python3-grpcio",
    "python3-websockets",
)
FILES = Path(__file__).with_name("app_image")
UNUSED = ("/usr/lib/*/libLLVM*", "/usr/lib/*/libz3*", "/usr/lib/postgresql/*/lib/bitcode/*", "/usr/share/i18n/*")
"""What PostgreSQL brings for its compiler of queries, and sources of locales: two thirds of the image."""
LEFT_BEHIND = ("var/lib/apt/lists", "var/cache/apt", "var/lib/postgresql/17")
"""Made by the installation and not wanted."""
INSTALLED = ("dial.py", "headers.conf", "nginx.conf", "peer.py", "postgres.sh", "sshd.sh", "web.py", "web.sh")
"""Files of ours in /app."""
RECIPE = "1"
"""Raise it when this module builds an image in another way."""


def pause() -> Path:
    """Archive of the image that holds each Pod's namespaces: one static program."""
    source = FILES / "pause.c"

    def build(aside: Path) -> None:
        rootfs = aside.with_suffix(".rootfs")
        rootfs.mkdir(exist_ok=True)
        run("cc", "-O2", "-static", "-o", str(rootfs / "pause"), str(source))
        archive.write(aside, PAUSE_IMAGE, rootfs, ["/pause"])
        shutil.rmtree(rootfs)

    return archive.cached("pause", (RECIPE, PAUSE_IMAGE, source.read_text()), build, ".tar")


def rootfs() -> Path:
    """The applications' root file system, from packages; built when it is not there yet (some 25 s)."""
    require(("mmdebstrap",))
    exclude = [f"--dpkgopt=path-exclude={pattern}" for pattern in (*image.UNUSED, *UNUSED)]

    def build(aside: Path) -> None:
        include = f"--include={','.join(PACKAGES)}"
        run("mmdebstrap", "--quiet", "--variant=minbase", include, *exclude, image.SUITE, str(aside))
        for name in LEFT_BEHIND:
            shutil.rmtree(aside / name, ignore_errors=True)

    return archive.cached("apps", (RECIPE, image.SUITE, *PACKAGES, *UNUSED, *LEFT_BEHIND), build)


def apps() -> Path:
    """Archive of the applications' image."""
    base = rootfs()
    texts = [(FILES / name).read_text() for name in INSTALLED]

    def build(aside: Path) -> None:
        copy = aside.with_suffix(".rootfs")
        run("cp", "-al", str(base), str(copy))
        (copy / "app").mkdir()
        for name in INSTALLED:
            shutil.copy(FILES / name, copy / "app" / name)
            (copy / "app" / name).chmod(0o755)
        archive.write(aside, APPS_IMAGE, copy, ["python3", "/app/peer.py"])
        shutil.rmtree(copy)

    return archive.cached("appsimage", (RECIPE, base.name, APPS_IMAGE, *texts), build, ".tar")
