"""Before a lab runs: what is wrong with its Pod, what its kubelet is told, and the kubelet's start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from srcip_lab import agent, bundles, image, network, plan_pod, programs, rootless
from srcip_lab.environment import PodStatus, environment
from srcip_lab.errors import LabError, raise_all
from srcip_lab.oci import command_line, security, user
from srcip_lab.runtime import tail
from srcip_lab.state import Directory, Process, read_json, wait_until, write_json

KUBELET_START_S = 60.0


def check(pod: dict[str, Any], wanted: network.Network) -> None:
    """Raise LabError with everything in the Pod that the lab cannot run."""
    place = PodStatus(wanted.pod.ips, wanted.node.ips, wanted.node.netns)
    errors = programs.obstacles(pod)
    for container in bundles.containers(pod):
        try:
            command_line(container, environment(container, pod, place))
            user(container["name"], security(pod, container))
        except LabError as error:
            errors += error.errors
    raise_all(errors)


def write_order(files: Directory, pod: dict[str, Any], wanted: network.Network, webhook: dict[str, Any]) -> None:
    """Write down what the lab is to be, for its kubelet and for every later command."""
    containers = bundles.containers(pod)
    needs_image = any(container.get("image") == plan_pod.IMAGE for container in containers)
    images = {plan_pod.IMAGE: str(_rootfs(pod))} if needs_image else {}
    order = {
        "pod": pod,
        "images": images,
        "ipv6": wanted.ipv6,
        "namespaces": [host.netns for host in wanted.hosts()],
        "webhook": webhook,
    }
    write_json(files.lab, order)


def _rootfs(pod: dict[str, Any]) -> Path:
    """The image's; with the programs of ebpf mode only where the Pod can attach them, as they need a compiler."""
    is_attaching = programs.wanted(pod) and not agent.serves(pod) and not rootless.is_inside()
    return image.with_programs() if is_attaching else image.proxy_rootfs()


def start_kubelet(files: Directory) -> None:
    """Start the kubelet as a process that outlives this one, and wait until every container has started."""
    with files.kubelet_log.open("w") as log:
        subprocess.run(
            ["setsid", "--fork", sys.executable, "-m", "srcip_lab.kubelet", str(files.path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=True,
        )
    if not wait_until(files.status.exists, KUBELET_START_S):
        raise LabError("the lab's kubelet does not start", *tail(files.kubelet_log))
    wait_until(lambda: _phase(files) != "starting", float("inf"), every_s=0.005)
    status = read_json(files.status)
    if status["phase"] != "running":
        errors = status["errors"] or ["the lab's kubelet ended", *tail(files.kubelet_log)]
        raise LabError(*errors)


def _phase(files: Directory) -> str:
    status = read_json(files.status)
    kubelet = Process.read(status["kubelet"])
    return str(status["phase"]) if status["phase"] != "starting" or (kubelet and kubelet.alive()) else "died"
