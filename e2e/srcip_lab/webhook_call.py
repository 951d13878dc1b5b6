"""Asking the real webhook, over TLS, as the API server does."""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonpatch

from srcip_certs import selfsigned
from srcip_lab import agent
from srcip_lab.errors import LabError
from srcip_lab.plan_pod import IMAGE
from srcip_lab.state import wait_until

ADDRESS = "127.0.0.1"
START_S = 60.0
REQUEST_S = 10.0
"""timeoutSeconds of the webhook configuration."""


@dataclass(frozen=True)
class Answer:
    """What the webhook made of a Pod."""

    pod: dict[str, Any]
    """The Pod with the patch applied."""
    patch: tuple[dict[str, Any], ...]
    warnings: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        """What `--json` tells about it."""
        return {"allowed": True, "patched": bool(self.patch), "warnings": list(self.warnings)}


def admit(pod: dict[str, Any], trusted_cidrs: Sequence[str]) -> Answer:
    """The Pod as the webhook patches it. Raises LabError with every reason when it refuses."""
    with server(trusted_cidrs, has_agent=agent.is_asked_for(pod)) as connection:
        response = _post(connection, review(pod))
    if not response.get("allowed"):
        message = str((response.get("status") or {}).get("message") or "no reason was given")
        raise LabError("the webhook refuses the Pod:", *(f"  {line}" for line in message.splitlines()))
    patch = json.loads(base64.b64decode(response["patch"])) if response.get("patch") else []
    patched: dict[str, Any] = jsonpatch.apply_patch(pod, patch)
    return Answer(patched, tuple(patch), tuple(response.get("warnings") or ()))


def review(pod: dict[str, Any]) -> dict[str, Any]:
    """The AdmissionReview of an API server that is asked to create `pod`."""
    metadata = pod["metadata"]
    request = {
        "uid": str(uuid.uuid4()),
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
        "requestResource": {"group": "", "version": "v1", "resource": "pods"},
        "name": metadata["name"],
        "namespace": metadata["namespace"],
        "operation": "CREATE",
        "userInfo": {"username": "srcip-lab", "groups": ["system:authenticated"]},
        "object": pod,
        "oldObject": None,
        "dryRun": False,
        "options": {"apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions"},
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


@contextmanager
def server(trusted_cidrs: Sequence[str], *, has_agent: bool = False) -> Iterator[http.client.HTTPSConnection]:
    """A webhook of its own, ready, and a connection to it that verifies its certificate. It ends with the block."""
    with tempfile.TemporaryDirectory(prefix="srcip-lab-") as name:
        ca, cert, key = selfsigned.write(Path(name), ADDRESS)
        port = _free_port()
        settings = {
            "SRCIP_PROXY_IMAGE": IMAGE,
            "SRCIP_TRUSTED_CIDRS": ",".join(trusted_cidrs),
            "SRCIP_LISTEN_ADDRESS": ADDRESS,
            "SRCIP_LISTEN_PORT": str(port),
            "SRCIP_TLS_CERT_FILE": str(cert),
            "SRCIP_TLS_KEY_FILE": str(key),
            "SRCIP_AGENT": str(has_agent).lower(),
        }
        process = _start(Path(name) / "webhook.log", settings)
        try:
            context = ssl.create_default_context(cafile=str(ca))
            connection = http.client.HTTPSConnection(ADDRESS, port, timeout=REQUEST_S, context=context)
            if not wait_until(lambda: process.poll() is not None or _ready(connection), START_S) or process.poll():
                said = (Path(name) / "webhook.log").read_text(errors="replace").splitlines()
                raise LabError("srcip-webhook: it does not start", *(f"  {line}" for line in said[-12:]))
            yield connection
            connection.close()
        finally:
            process.terminate()
            process.wait()


def _start(log: Path, settings: Mapping[str, str]) -> subprocess.Popen[bytes]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SRCIP_")}
    start = "from srcip_webhook.server import main; main()"
    with log.open("wb") as file:
        return subprocess.Popen(
            [
                "setpriv",
                "--pdeathsig=KILL",
                "--",
                sys.executable,
                "-c",
                start,
            ],  # never outlives `up`, even a killed one
            env={**inherited, **settings},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )


def _free_port() -> int:
    with socket.create_server((ADDRESS, 0)) as probe:
        return int(probe.getsockname()[1])


def _ready(connection: http.client.HTTPSConnection) -> bool:
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        answer.read()
    except ssl.SSLError:
        raise
    except (OSError, http.client.HTTPException):
        connection.close()
        return False
    return answer.status == http.HTTPStatus.OK


def _post(connection: http.client.HTTPSConnection, body: dict[str, Any]) -> dict[str, Any]:
    connection.request("POST", "/mutate?timeout=10s", json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read().decode(errors="replace")
    if answer.status != http.HTTPStatus.OK:
        raise LabError(f"srcip-webhook: HTTP {answer.status}: {text[:2000]}")
    response: dict[str, Any] = json.loads(text)["response"]
    if response.get("uid") != body["request"]["uid"]:
        raise LabError(f"srcip-webhook: the answer is for another request: uid {response.get('uid')!r}")
    return response
