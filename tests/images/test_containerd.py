"""The proxy's archive as a node's containerd unpacks it."""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from srcip_e2e.images.recipe import reference
from srcip_lab.tools import machine_path, run

pytestmark = pytest.mark.images

CONFIG = """version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{folder}/containerd.sock"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where a containerd of this test keeps everything; its socket is containerd.sock."""
    if not shutil.which("containerd", path=machine_path()):
        pytest.skip("containerd is not installed; make e2e installs it, and its cluster needs the same capabilities")
    (tmp_path / "config.toml").write_text(CONFIG.format(folder=tmp_path))
    with (tmp_path / "log").open("w") as log:
        command = ["containerd", f"--config={tmp_path / 'config.toml'}"]
        process = subprocess.Popen(command, stdout=log, stderr=log, env={"PATH": machine_path()})
    deadline = time.monotonic() + 120
    while not (tmp_path / "containerd.sock").exists():
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.05)
    yield tmp_path
    process.terminate()
    process.wait(10)


def test_file_capabilities_reach_the_node(folder: Path, finished: Callable[[str], Any]) -> None:
    """The unpacked snapshot has those of the image, under the name that Pods use."""
    proxy = finished("proxy")
    ctr = ["ctr", f"--address={folder / 'containerd.sock'}", "images"]
    run(*ctr, "import", "--snapshotter=native", str(proxy.archive.path))
    (name,) = run(*ctr, "list", "--quiet").split()
    assert name.endswith(f"/{reference('proxy')}")
    assert capabilities(folder / "root") == capabilities(proxy.rootfs) != set()


def capabilities(folder: Path) -> set[str]:
    """Each program under `folder` that has file capabilities, with them."""
    return {line.rpartition("/")[2] for line in run("getcap", "-r", str(folder)).splitlines()}
