"""The agent against a real API server: it follows its node's Pods, and goes on when the server comes back."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from srcip_e2e.cluster import binaries, pki
from srcip_e2e.cluster.api import Api
from srcip_e2e.cluster.controlplane import NEEDED, ControlPlane
from support.agent_rig import Agent, Site, gate, pod_object, until
from support.ebpf_rig import Pod, object_options, objects

pytestmark = pytest.mark.controlplane
PODS = "/api/v1/namespaces/shop/pods"
SERVER = "kube-apiserver"


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    """etcd and kube-apiserver, with a namespace and an account that may do what the chart's agent may."""
    if reasons := binaries.missing(NEEDED):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("; ".join(reasons))
    with tempfile.TemporaryDirectory() as directory, ControlPlane(Path(directory), controllers=False) as made:
        Path(directory).chmod(0o755)
        admin = made.api()
        admin.post("/api/v1/namespaces", {"metadata": {"name": "shop"}})
        name, group = {"metadata": {"name": "agent"}}, "rbac.authorization.k8s.io"
        rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
        subject = {"kind": "User", "name": "agent", "apiGroup": group}
        role = {"kind": "ClusterRole", "name": "agent", "apiGroup": group}
        admin.post(f"/apis/{group}/v1/clusterroles", {**name, "rules": rules})
        admin.post(f"/apis/{group}/v1/clusterrolebindings", {**name, "roleRef": role, "subjects": [subject]})
        yield made


def follow(here: Site, plane: ControlPlane, node: str) -> Agent:
    """An agent of this node that asks the API server as an account of its own."""
    pair = plane.authority.issue("agent")
    kubeconfig = plane.directory / f"agent-{len(here.agents)}"
    kubeconfig.write_text(pki.kubeconfig(plane.server, plane.ca, pair))
    kubeconfig.chmod(0o644)
    places = ("--cgroups", str(here.node.root), "--namespaces", "/proc/self/ns", "--port", "0")
    words = [sys.executable, "-m", "srcip_agent", *places, *object_options(objects())]
    log = here.directory / f"follower-{len(here.agents)}.log"
    env = {**os.environ, "NODE_NAME": node, "KUBECONFIG": str(kubeconfig)}
    with log.open("w") as output:
        pipes: Any = {"stdout": output, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(words, text=True, start_new_session=True, env=env, **pipes)
    made = Agent(process, log)
    here.agents.append(made)
    return made


def create(api: Api, here: Site, number: int, node: str = "here") -> Pod:
    """A Pod in the API and on this machine; its cgroup has the UID that the server gave it."""
    pod = here.pod(number)
    wanted = pod_object(number, pod.wanted)
    meta = {key: wanted["metadata"][key] for key in ("name", "labels")}
    containers = [{**each, "image": "x"} for each in wanted["spec"]["initContainers"]]
    spec = {"initContainers": containers, "containers": [{"name": "app", "image": "x"}], "nodeName": node}
    made = api.post(PODS, {"metadata": meta, "spec": spec})
    directory = here.node.root / f"pod{made['metadata']['uid']}"
    directory.mkdir()
    here.node.made.append(directory)
    return replace(pod, cgroup=directory, processes=[])


def stop(pod: Pod) -> None:
    for process in pod.processes:
        process.kill()
        process.wait()


def test_pods_of_its_node_are_followed_and_an_outage_is_outlived(here: Site, plane: ControlPlane) -> None:
    """Of other nodes' it hears nothing. While no API server is there it keeps what it knows; the next Pod is heard of
    when it is back, and one that went meanwhile is forgotten."""
    api = plane.api()
    agent = follow(here, plane, "here")
    until(lambda: agent.page("/readyz") == "ok\n")
    first, elsewhere = create(api, here, 1), create(api, here, 2, "elsewhere")
    assert gate(first).wait(timeout=60) == 0
    waiting = gate(elsewhere)
    arguments = plane._processes[SERVER].args
    plane._processes[SERVER].kill()
    plane._processes[SERVER].wait()
    until(lambda: agent.said("the API server does not answer"))
    assert 'srcip_agent_pods{state="attached"}' in agent.page()
    assert isinstance(arguments, list)
    with (plane.logs / f"{SERVER}.log").open("ab") as log:
        plane._processes[SERVER] = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    plane._wait("the API server", lambda: _answers(api))
    api.ask("DELETE", f"{PODS}/web-1?gracePeriodSeconds=0")
    third = create(api, here, 3)
    assert gate(third).wait(timeout=120) == 0
    assert agent.said("the API server answers again")
    until(lambda: sum(map(_count, agent.page().splitlines())) == 1)
    assert waiting.poll() is None
    assert "srcip_agent_api_failures_total 0" not in agent.page()
    for each in (first, elsewhere, third):
        stop(each)


def _count(line: str) -> int:
    """Of Pods, in whatever state."""
    return int(line.split()[1]) if line.startswith("srcip_agent_pods{") else 0


def _answers(api: Api) -> bool:
    try:
        return api.ask("GET", "/readyz", timeout_s=5).code == 200
    except OSError:
        return False
