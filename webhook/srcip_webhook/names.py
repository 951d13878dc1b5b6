"""The names of what srcip adds to a Pod: the one list of them."""

from __future__ import annotations

INIT = "srcip-init"
PROXY = "srcip-proxy"
RUN = "srcip-run"
"""The volume with the configuration of the sidecar."""
CGROUP = "srcip-cgroup"
"""The volume of ebpf mode: the node's cgroup file system."""

CONTAINERS = (INIT, PROXY)
VOLUMES = (RUN, CGROUP)
OF_FIELD = {"initContainers": CONTAINERS, "volumes": VOLUMES}
"""By the field of the Pod's spec that they are added to."""
