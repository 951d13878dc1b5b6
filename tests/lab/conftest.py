"""Tests marked `dataplane` make network namespaces and containers: they need root and the lab's tools."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from srcip_lab.lab import Lab, down, names
from srcip_lab.tools import missing_packages

APP = """
import os, socket, sys
server = socket.create_server(("::", 8080), family=socket.AF_INET6, dualstack_ipv6=True)
print("listening", flush=True)
while True:
    connection, peer = server.accept()
    connection.sendall(f"{peer[0].removeprefix('::ffff:')} {peer[1]}".encode())
    connection.close()
"""
"""Tells each peer its own address and port."""


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("dataplane") is None:
        return
    missing = missing_packages()
    reason = "needs root" if os.geteuid() else f"needs the packages {' '.join(missing)}" if missing else ""
    if reason and os.environ.get("CI") == "true":
        pytest.fail(f"{reason}, and CI must not skip it")
    elif reason:
        pytest.skip(reason)


def container(name: str = "app", code: str = APP, **fields: Any) -> dict[str, Any]:
    """A container that runs Python code on this machine."""
    ports = [{"containerPort": 8080, "protocol": "TCP"}] if code == APP else []
    return {"name": name, "image": name, "command": ["python3", "-c", code], "ports": ports, **fields}


def pod(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """A Pod of these containers; one that tells each peer its address, if none is given."""
    metadata = {"name": "web", "namespace": "shop", "labels": {"app": "web"}, "uid": "u-1"}
    spec = {"containers": list(containers or [container()]), **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def peer(lab: Lab, address: str, *, sender: str = "lb", header: bytes = b"") -> str:
    """What the application of `container` says to a connection."""
    connection = lab.network.part(sender).connect(address, 8080)
    with connection:
        connection.sendall(header)
        return connection.recv(200).decode()


def srcip(*args: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """The command `srcip` in a process of its own."""
    command = [sys.executable, "-m", "srcip_webhook.cli", *args]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=300, check=False)


@contextmanager
def brought_up(path: str, name: str) -> Iterator[dict[str, Any]]:
    """The lab of a manifest, as `up --json` tells it; nothing of it is left in the end."""
    done = srcip("lab", "up", "--name", name, "-f", path, "--json")
    try:
        assert done.returncode == 0, done.stderr
        yield json.loads(done.stdout)
    finally:
        srcip("lab", "down", "--name", name)
    assert name not in names()


def manifest(path: Path, annotations: dict[str, str], *containers: dict[str, Any]) -> str:
    """A manifest of a Pod with these annotations."""
    made = pod(*containers)
    made["metadata"]["annotations"] = annotations
    path.write_text(yaml.safe_dump(made))
    return str(path)


def annotated(mode: str, **more: str) -> dict[str, Any]:
    """A Pod that tells each peer its address and asks for this mode."""
    made = pod()
    made["metadata"]["annotations"] = {"srcip.io/mode": mode, **more}
    return made


@pytest.fixture
def clean_lab() -> Iterator[str]:
    """The name of a lab that is gone afterwards, whatever happens."""
    name = f"test-{os.getpid()}"
    assert name not in names()
    yield name
    down(name, grace=False)
