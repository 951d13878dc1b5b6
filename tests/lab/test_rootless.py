"""The lab without root, in a user namespace: run by a user other than root, where the kernel allows it."""

import json
import os
import subprocess
import sys

import pytest


@pytest.mark.skipif(os.geteuid() == 0, reason="needs a user other than root")
def test_the_demonstration_runs_without_root():
    command = [sys.executable, "-m", "srcip_webhook.cli", "demo", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ok"]
