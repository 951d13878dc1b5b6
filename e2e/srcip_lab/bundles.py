"""Every container of a Pod as a bundle on disk, ready for runc."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srcip_lab import cgroup, volumes
from srcip_lab.environment import PodStatus, environment
from srcip_lab.network import Network
from srcip_lab.oci import Place, config, security, wants_seccomp
from srcip_lab.runtime import Runtime
from srcip_lab.seccomp import PACKAGE, PROFILE
from srcip_lab.tools import STANDARD_PATH, machine_path

HOSTNAME_LENGTH = 63


def containers(pod: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All containers of `pod` in the order of their start."""
    return [*(pod["spec"].get("initContainers") or []), *pod["spec"]["containers"]]


def write(pod: Mapping[str, Any], runtime: Runtime, network: Network, images: Mapping[str, str]) -> list[str]:
    """Make the Pod's volumes and write its bundles; what the lab does otherwise than a cluster, as warnings.

    `images` names the root file system of each image there is; every other container sees this machine's own.
    Raises LabError for what the lab cannot run.
    """
    places, warnings = volumes.prepare(pod, runtime.directory)
    status = PodStatus(network.pod.ips, network.node.ips, network.node.netns)
    for container in containers(pod):
        image = images.get(container.get("image", ""))
        path = STANDARD_PATH if image else machine_path()
        place = Place(
            rootfs=Path(image) if image else runtime.directory.machine,
            netns=network.pod.path,
            hostname=pod["metadata"]["name"][:HOSTNAME_LENGTH],
            environment={"PATH": path, **environment(container, pod, status)},
            mounts=volumes.mounts(container, places),
            cgroup=cgroup.of_container(runtime.directory.name, container["name"]),
        )
        wanted = config(container, pod, place)
        runtime.prepare(container["name"], _shared(wanted) if image else wanted)
    if not PROFILE.exists() and any(wants_seccomp(security(pod, container)) for container in containers(pod)):
        warnings.append(f"seccomp RuntimeDefault is not applied: {PROFILE} is missing (package {PACKAGE})")
    return warnings


def _shared(wanted: dict[str, Any]) -> dict[str, Any]:
    """The same, unable to change its root file system: other labs use it too."""
    return {**wanted, "root": {**wanted["root"], "readonly": True}}
