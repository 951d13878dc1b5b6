"""Many new connections, one after the other or at once, of a balancer with some addresses."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from srcip_e2e.bench.rig import LOAD_SOURCES
from srcip_lab.namespace import Host

PORT = 7020
"""The first of the server's ports; the test application has others of the intercepted ones."""
AT_ONCE = 64
ADDRESSES = 16
"""Of the balancer: one has 28,232 ports for connections to one address, each taken for a minute."""
WHOLE_S = 600


@cache
def load() -> str:
    """The load generator of the benchmark, compiled."""
    if not shutil.which("cc"):
        reason = "no C compiler (apt-get install gcc libc6-dev)"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    program = Path(tempfile.mkdtemp(prefix="srcip-load-")) / "load"
    subprocess.run(["cc", "-O2", "-o", program, *LOAD_SOURCES], check=True)
    return str(program)


@contextmanager
def serving(server: "subprocess.Popen[str]") -> Iterator[None]:
    """While this server of the load generator, whose output is a pipe, takes connections."""
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        yield
    finally:
        server.kill()
        server.wait()


def asked(config: pytest.Config) -> tuple[int, int]:
    """How many connections, and how many a second, by the options; 0 for as many as there can be."""
    return config.getoption("--connections"), config.getoption("--rate")


def connected(balancer: Host, to: str, number: int, rate: int) -> dict[str, Any]:
    """What the load generator counted: so many connections, each asks and has its answer."""
    for last in range(100, 100 + ADDRESSES):
        balancer.run(["ip", "address", "replace", f"10.77.1.{last}/24", "dev", "eth0"], check=True)
    words = [f"to={to}", f"port={PORT}", f"n={AT_ONCE if not rate else 1000}", "proxy=2", f"sources={ADDRESSES}"]
    words += ["from=10.77.1.100", f"most={number}", f"ms={WHOLE_S * 1000}"]
    words += [f"rate={rate}"] if rate else []
    done = balancer.run([load(), "client", "connect", *words], capture_output=True)
    assert done.returncode == 0, done.stderr
    said = dict(json.loads(done.stdout))
    print(f"{said['done']} connections, {said['errors']} failed, {said}")
    return said
