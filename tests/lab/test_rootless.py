"""The lab without root, in a user namespace: run by a user other than root, where the kernel allows it."""

import json
import os
import subprocess
import sys

import pytest
from tests.lab.conftest import manifest, srcip


@pytest.mark.skipif(os.geteuid() == 0, reason="needs a user other than root")
def test_the_demonstration_runs_without_root():
    command = [sys.executable, "-m", "srcip_webhook.cli", "demo", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ok"]


@pytest.mark.skipif(os.geteuid() == 0, reason="needs a user other than root")
def test_ebpf_mode_goes_on_in_tproxy_mode_without_root(tmp_path):
    """The init container says so in its log, and the client is seen."""
    path, name = manifest(tmp_path / "pod.yaml", {"srcip.io/mode": "ebpf,tproxy"}), f"u{os.getpid()}"
    try:
        done = srcip("lab", "up", "--name", name, "-f", path)
        assert done.returncode == 0, done.stderr
        assert "programs: not attached, as the kernel takes none without root" in done.stdout
        assert (
            "this node does not support ebpf mode, using tproxy mode:"
            in srcip("lab", "logs", "--name", name, "srcip-init").stdout
        )
        send = ("lab", "send", "--name", name, "--client", "203.0.113.7:54321", "--port", "8080")
        assert srcip(*send).stdout.strip() == "203.0.113.7 54321"
    finally:
        srcip("lab", "down", "--name", name)


@pytest.mark.skipif(os.geteuid() == 0, reason="needs a user other than root")
def test_ebpf_mode_alone_is_refused_without_root(tmp_path):
    done = srcip("lab", "up", "-f", manifest(tmp_path / "pod.yaml", {"srcip.io/mode": "ebpf"}))
    assert (done.returncode, done.stdout) == (1, "")
    assert "srcip.io/mode: ebpf needs root: from a user namespace" in done.stderr
