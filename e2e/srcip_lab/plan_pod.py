"""A Pod around a given Plan, without the webhook: for tests of the data plane alone."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from srcip_proxy.plan import Plan
from srcip_webhook import containers
from srcip_webhook.settings import Settings

IMAGE = "srcip-proxy:lab"
"""Name of the proxy image in the lab: containers with it run in the root file system of `image.proxy_rootfs`."""


def pod(plan: Plan, app: Sequence[str] | None, *, env: dict[str, str] | None = None) -> dict[str, Any]:
    """A Pod with the init container and sidecar of `plan`, and `app` as its application (None: one that sleeps)."""
    settings = Settings(proxy_image=IMAGE)
    resources = tuple(getattr(settings, field) for field in containers.RESOURCES)
    added = containers.for_plan(plan, resources, settings)
    ports = [{"containerPort": r.first, "protocol": "TCP"} for r in plan.inbound_ports if r.first == r.last]
    application = {
        "name": "app",
        "image": "app",
        "command": list(app or ("sleep", "infinity")),
        "ports": ports if app else [],
        "env": [{"name": name, "value": value} for name, value in (env or {}).items()],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "pod", "namespace": "default"},
        "spec": {
            "restartPolicy": "Always",
            "volumes": deepcopy([*added.volumes]),
            "initContainers": deepcopy([*added.containers]),
            "containers": [application],
        },
    }
