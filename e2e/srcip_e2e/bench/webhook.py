"""Measuring the webhook: the real server on one CPU, the load generator on the other, over TLS."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from srcip_certs import selfsigned
from srcip_e2e.bench.rig import BenchError, cpu_us, cpus, rss_mib, run

ADDRESS = "127.0.0.1"
RATE = 300


@dataclass(frozen=True)
class Server:
    """A webhook that is up."""

    pid: int
    port: int
    ca: Path


def measure(*, quick: bool) -> dict[str, float]:
    """Reviews/s, latency at RATE, memory."""
    seconds = 2.0 if quick else 10.0
    with server() as up:
        idle = rss_mib([up.pid])
        _load(up, "closed", 0.5)  # warm
        found = _load(up, "open", seconds)
        before = cpu_us([up.pid])
        found |= _load(up, "closed", seconds)
        spent = (cpu_us([up.pid]) - before) / (found["reviews_per_second"] * seconds)
        return {
            **found,
            "webhook_cpu_us_per_review": spent,
            "webhook_rss_idle_mib": idle,
            "webhook_rss_mib": rss_mib([up.pid]),
        }


def _load(up: Server, mode: str, seconds: float) -> dict[str, float]:
    command = ["taskset", "-c", str(cpus()[1]), sys.executable, "-m", "srcip_e2e.bench.review_load", mode]
    return dict(json.loads(run(*command, str(up.port), str(up.ca), str(seconds), str(RATE))))


@contextmanager
def server() -> Iterator[Server]:
    """The webhook as its image starts it, with a certificate of its own, on one CPU."""
    with tempfile.TemporaryDirectory(prefix="srcip-bench-") as name:
        ca, cert, key = selfsigned.write(Path(name), ADDRESS)
        port = _free_port()
        environment = {
            **os.environ,
            "SRCIP_PROXY_IMAGE": "registry.example/srcip-proxy:bench",
            "SRCIP_TRUSTED_CIDRS": "192.0.2.0/24",
            "SRCIP_LISTEN_ADDRESS": ADDRESS,
            "SRCIP_LISTEN_PORT": str(port),
            "SRCIP_TLS_CERT_FILE": str(cert),
            "SRCIP_TLS_KEY_FILE": str(key),
        }
        with (Path(name) / "log").open("wb") as log:
            command = ["taskset", "-c", str(cpus()[0]), sys.executable, "-m", "srcip_webhook.server"]
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            _wait(port, process, Path(name) / "log")
            yield Server(process.pid, port, ca)
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.create_server((ADDRESS, 0)) as probe:
        return int(probe.getsockname()[1])


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 15
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection((ADDRESS, port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise BenchError(f"the webhook does not start: {log.read_text(errors='replace')[-500:]}")
