"""The node's agent for a lab's Pod: the real one, which gets the Pod's object as a watch event, without API server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srcip_lab import bpf
from srcip_lab.errors import LabError
from srcip_lab.runtime import tail
from srcip_lab.state import wait_until

PRIVILEGE, LABEL = "srcip.io/privilege", "srcip.io/agent"
START_S = 20.0


def is_asked_for(pod: Mapping[str, Any]) -> bool:
    """Whether the Pod wants an agent: then the lab has one, and its webhook is told so."""
    return (pod["metadata"].get("annotations") or {}).get(PRIVILEGE) == "agent"


def serves(pod: Mapping[str, Any]) -> bool:
    """Whether the patched Pod waits for an agent."""
    return LABEL in (pod["metadata"].get("labels") or {})


def start(pod: Mapping[str, Any], log: Path) -> subprocess.Popen[str]:
    """Start it for this Pod alone; it ends with the calling thread. Raises LabError with what it said."""
    command = ["setpriv", "--pdeathsig=KILL", "--", sys.executable, "-m", "srcip_agent", "--events=-", "--port=0"]
    command += ["--namespaces=/proc/self/ns", *(f"--object={bpf.compiled(source)}" for source in bpf.BOTH)]
    with log.open("w") as output:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output, text=True)
    assert process.stdin
    process.stdin.write(json.dumps({"type": "ADDED", "object": pod}) + "\n")
    process.stdin.flush()
    if not wait_until(lambda: process.poll() is not None or '"started"' in log.read_text(), START_S) or process.poll():
        raise LabError("srcip-agent: it does not start", *tail(log))
    return process
