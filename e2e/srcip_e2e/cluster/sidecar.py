"""The sidecar of a Pod in the cluster under test: ended as a crash ends it, and counted."""

from __future__ import annotations

from srcip_e2e.cluster.kube import Kube
from srcip_e2e.cluster.site import Site


def kill(cluster: Site, kube: Kube, of: str) -> None:
    """End the sidecar as a crash does; on a node of somebody else with a signal that HAProxy obeys at once."""
    if cluster.node:
        statuses = kube.get("pod", of)["status"]["initContainerStatuses"]
        container = next(each["containerID"] for each in statuses if each["name"] == "srcip-proxy")
        cluster.node.ctr("task", "kill", "--signal=SIGKILL", container.removeprefix("containerd://"))
    else:
        kube.exec(of, "python3", "-c", "import os; os.kill(1, 10)", container="srcip-proxy")


def restarts(kube: Kube, of: str) -> int:
    """How often the sidecar was started again."""
    statuses = kube.get("pod", of)["status"]["initContainerStatuses"]
    return int(next(each["restartCount"] for each in statuses if each["name"] == "srcip-proxy"))
