"""A node for the agent: Pods with the cgroups that kubelet gives them, their objects, and the agent as a process."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from srcip_agent.__main__ import NEEDED
from srcip_proxy.plan import Plan
from support.ebpf_rig import Pod, object_options, objects, running
from support.exporter_rig import Node, only, uid

GATE_USER = ("setpriv", "--reuid=7363", "--regid=7363", "--clear-groups", "--no-new-privs", *only()[1:])
"""A process of level `restricted`: not root, no capability and no way to get one."""


def pod_object(number: int, plan: Plan | str, **spec: Any) -> dict[str, Any]:
    """What the API server has of a Pod that the webhook has patched."""
    text = plan if isinstance(plan, str) else plan.to_env()
    gate = {"name": "srcip-init", "command": ["srcip-proxy", "gate"], "env": [{"name": "SRCIP_PLAN", "value": text}]}
    meta = {"uid": uid(number), "namespace": "shop", "name": f"web-{number}", "labels": {"srcip.io/agent": "ebpf"}}
    return {"metadata": meta, "spec": {"initContainers": [gate], "containers": [{"name": "app"}], **spec}}


def until(what: Callable[[], Any], seconds: float = 60) -> Any:
    """The first true answer; long enough for the slowest machine."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)
    return found


@dataclass
class Agent:
    """The agent, its events and what it has said."""

    process: subprocess.Popen[str]
    log: Path

    def tell(self, pod: dict[str, Any], kind: str = "ADDED") -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"type": kind, "object": pod}) + "\n")
        self.process.stdin.flush()

    def said(self, event: str, number: int | None = None) -> list[dict[str, Any]]:
        """The lines of its log of this kind, of one Pod or of all."""
        rows = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [row for row in rows if row["event"] == event and (number is None or row.get("uid") == uid(number))]

    def once(self, event: str, number: int | None = None) -> dict[str, Any]:
        """The first line of this kind, which will come."""
        found: list[dict[str, Any]] = until(lambda: self.said(event, number))
        return found[0]

    def page(self, path: str = "/metrics") -> str:
        connection = HTTPConnection("127.0.0.1", int(self.once("started")["port"]), timeout=15)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def kill(self) -> None:
        """All of it at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@dataclass
class Site:
    """A node with its Pods and agents."""

    node: Node
    directory: Path
    agents: list[Agent] = field(default_factory=list)

    def pod(self, number: int, **changes: object) -> Pod:
        """A Pod without programs and without processes."""
        outer = self.node.stack.enter_context(running(attached=False))
        for process in outer.processes:
            process.kill()
            process.wait()
        made = Pod(outer.net, self.node.cgroup(number), replace(outer.wanted, mode="ebpf", **changes))  # type: ignore[arg-type]
        self.node.stack.callback(made.stop)
        return made

    def agent(self, *options: str, have: tuple[str, ...] = NEEDED, own_objects: bool = True) -> Agent:
        """Start one, with these capabilities alone, and with the programs as they are in the tree."""
        log = self.directory / f"agent-{len(self.agents)}.log"
        places = ("--cgroups", str(self.node.root), "--namespaces", "/proc/self/ns", "--port", "0", "--events", "-")
        words = [*only(*have), sys.executable, "-m", "srcip_agent", *places, *options]
        words += object_options(objects()) if own_objects else []
        with log.open("w") as output:
            pipes: Any = {"stdin": subprocess.PIPE, "stdout": output, "stderr": subprocess.STDOUT}
            process = subprocess.Popen(words, text=True, start_new_session=True, env=os.environ, **pipes)
        made = Agent(process, log)
        self.agents.append(made)
        return made


@contextmanager
def site(node: Node, directory: Path) -> Iterator[Site]:
    """No agent runs after it."""
    made = Site(node, directory)
    try:
        yield made
    finally:
        for agent in made.agents:
            if agent.process.poll() is None:
                agent.kill()


def gate(pod: Pod) -> "subprocess.Popen[str]":
    """The gate as the Pod's init container runs it."""
    env = {**os.environ, "SRCIP_PLAN": pod.wanted.to_env(), "HOST_IP": "10.77.0.1"}
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    words = [*GATE_USER, sys.executable, "-m", "srcip_proxy", "gate"]
    process = pod.inside(words, env=env, **pipes)
    pod.processes.append(process)
    return process
