"""A Pod around a given Plan, without the webhook: for tests of the data plane alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from srcip_proxy.plan import ENV, HEALTH_PORT, UID, Plan
from srcip_webhook.containers import TOKEN_DIR

IMAGE = "srcip-proxy:lab"
"""Name of the proxy image in the lab: containers with it run in the root file system of `image.proxy_rootfs`."""


def pod(plan: Plan, app: Sequence[str] | None, *, env: dict[str, str] | None = None) -> dict[str, Any]:
    """A Pod with the init container and sidecar of `plan`, and `app` as its application (None: one that sleeps)."""
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
            "volumes": [{"name": "srcip-run", "emptyDir": {"medium": "Memory", "sizeLimit": "4Mi"}}],
            "initContainers": [_init(plan), _sidecar(plan)],
            "containers": [application],
        },
    }


def _init(plan: Plan) -> dict[str, Any]:
    return _container("srcip-init", ["srcip-proxy", "init"], plan, "NET_ADMIN", read_only=False)


def _sidecar(plan: Plan) -> dict[str, Any]:
    command = ["haproxy", "-db", "-f", "/run/srcip/haproxy.cfg"]
    ready = {"httpGet": {"path": "/readyz", "port": HEALTH_PORT}, "periodSeconds": 1, "failureThreshold": 60}
    capability = "NET_RAW" if plan.mode == "tproxy" else None
    sidecar = _container("srcip-proxy", command, plan, capability, read_only=True)
    return {**sidecar, "restartPolicy": "Always", "startupProbe": ready}


def _container(name: str, command: list[str], plan: Plan, capability: str | None, *, read_only: bool) -> dict[str, Any]:
    fields = {"POD_IP": "status.podIP", "POD_IPS": "status.podIPs", "HOST_IP": "status.hostIP"}
    env = [{"name": key, "valueFrom": {"fieldRef": {"fieldPath": path}}} for key, path in fields.items()]
    return {
        "name": name,
        "image": IMAGE,
        "command": command,
        "env": [{"name": ENV, "value": plan.to_env()}, *env],
        "volumeMounts": [
            {"name": "srcip-run", "mountPath": "/run/srcip", "readOnly": read_only},
            {"name": "srcip-run", "mountPath": TOKEN_DIR, "readOnly": True},
        ],
        "securityContext": {
            "runAsUser": UID,
            "runAsGroup": UID,
            "runAsNonRoot": True,
            "privileged": False,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"], **({"add": [capability]} if capability else {})},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
