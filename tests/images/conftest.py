"""The images, built once and unpacked, and containers of them as a cluster runs them."""

import itertools
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from srcip_e2e import images
from srcip_e2e.images import buildah
from srcip_e2e.images.archive import Archive
from srcip_lab import oci
from srcip_lab.tools import PACKAGES, machine_path, missing_packages

LIMITS = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
"""What the strictest Pod Security level asks of a container, and a read-only root besides."""
NETNS = Path("/proc/self/ns/net")
RUNC = ("runc", "mount", "setcap")
"""What these tests need besides the builder's own programs."""


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("images") is None:
        return
    missing = [*buildah.missing(), *missing_packages([name for name in PACKAGES if name in RUNC])]
    reason = "needs root" if os.geteuid() else f"needs the packages {' '.join(missing)}" if missing else ""
    if reason and os.environ.get("CI"):
        pytest.fail(f"{reason}, and CI must not skip it")
    elif reason:
        pytest.skip(f"{reason} (sudo make test)")


@dataclass(frozen=True)
class Image:
    """One finished image."""

    name: str
    archive: Archive
    rootfs: Path

    @property
    def config(self) -> dict[str, Any]:
        return dict(self.archive.config()["config"])

    @property
    def user(self) -> tuple[int, int]:
        uid, gid = self.config["User"].split(":")
        return int(uid), int(gid)


@pytest.fixture(scope="session")
def finished() -> Callable[[str], Image]:
    """The image of this name; built when these files were never built before."""
    made: dict[str, Image] = {}

    def get(name: str) -> Image:
        if name not in made:
            archive = Archive(images.build([name])[name])
            made[name] = Image(name, archive, images.unpacked(name))
        return made[name]

    return get


@pytest.fixture(params=images.NAMES)
def image(request: pytest.FixtureRequest, finished: Callable[[str], Image]) -> Image:
    """Each image in turn."""
    return finished(request.param)


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a container of an image within LIMITS, in the network of this machine; it ends with the test.

    It runs what the image says, or `words`; `security` is what its security context says in place of LIMITS.
    """
    running: list[tuple[str, subprocess.Popen[str]]] = []
    number = itertools.count()
    runc = ("runc", f"--root={tmp_path / 'runc'}")
    environment = {**os.environ, "PATH": machine_path()}

    def run(
        image: Image,
        *,
        words: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        mounts: Sequence[Any] = (),
        security: Mapping[str, Any] | None = None,
    ) -> subprocess.Popen[str]:
        identity = f"srcip-images-{os.getpid()}-{next(number)}"
        bundle = tmp_path / identity
        bundle.mkdir()
        (bundle / "config.json").write_text(json.dumps(bundle_config(image, words, env or {}, mounts, security or {})))
        command = [*runc, "run", f"--bundle={bundle}", identity]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment, **pipes)
        running.append((identity, process))
        return process

    yield run
    for identity, process in running:
        subprocess.run([*runc, "delete", "--force", identity], env=environment, check=False, capture_output=True)
        process.communicate()


def bundle_config(
    image: Image, words: Sequence[str], env: Mapping[str, str], mounts: Sequence[Any], security: Mapping[str, Any]
) -> dict[str, Any]:
    """What a runtime makes of the image's configuration within LIMITS, but for `security`; it runs `words` if given."""
    said = image.config
    uid, gid = image.user
    context = {**LIMITS, "runAsNonRoot": True, "runAsUser": uid, "runAsGroup": gid}
    context |= {"seccompProfile": {"type": "RuntimeDefault"}, **security}
    command = list(words) or [*(said.get("Entrypoint") or []), *(said.get("Cmd") or [])]
    container = {"name": image.name, "command": command, "securityContext": context}
    own = dict(variable.split("=", 1) for variable in said["Env"])
    place = oci.Place(image.rootfs, NETNS, image.name, {**own, **env}, tuple(mounts))
    return oci.config(container, {"spec": {}}, place)
