"""The containers and the volume that a patched Pod gains, as plain dicts.

Both containers state every security setting themselves, so that nothing the Pod says (runAsNonRoot, runAsUser,
dropped capabilities) changes what they run as.
"""

from __future__ import annotations

from typing import Any

from srcip_proxy.plan import ENV, HEALTH_PORT, UID, Plan

from srcip_webhook.policy import INIT, PROXY, VOLUME, Inject, resource
from srcip_webhook.settings import Settings

RUN_DIR = "/run/srcip"


def volume() -> dict[str, Any]:
    """Where init leaves the rendered configuration: in memory, gone with the Pod."""
    return {"name": VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": "4Mi"}}


def containers(decision: Inject, settings: Settings) -> list[dict[str, Any]]:
    """Both, in the order in which they start."""
    env, resources = _env(decision.plan), _resources(decision, settings)
    return [_init(settings, env, resources), _proxy(settings, env, resources)]


def _init(settings: Settings, env: list[dict[str, Any]], resources: dict[str, Any]) -> dict[str, Any]:
    """Applies the rules and renders the configuration, then ends."""
    return {
        "name": INIT,
        **_image(settings),
        "command": ["srcip-proxy", "init"],
        "env": env,
        "resources": resources,
        "securityContext": _security("NET_ADMIN"),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": VOLUME, "mountPath": RUN_DIR}],
    }


def _proxy(settings: Settings, env: list[dict[str, Any]], resources: dict[str, Any]) -> dict[str, Any]:
    """HAProxy as a native sidecar: up before the Pod's own containers start, stopped after them."""
    return {
        "name": PROXY,
        **_image(settings),
        "restartPolicy": "Always",
        "command": ["haproxy", "-db", "-f", f"{RUN_DIR}/haproxy.cfg"],
        "env": env,
        "ports": [{"name": "srcip-health", "containerPort": HEALTH_PORT, "protocol": "TCP"}],
        "startupProbe": {**_get("/readyz"), "periodSeconds": 1, "failureThreshold": 60},
        "readinessProbe": _get("/readyz"),
        "livenessProbe": _get("/healthz"),
        "resources": resources,
        "securityContext": _security("NET_RAW"),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": VOLUME, "mountPath": RUN_DIR, "readOnly": True}],
    }


def _image(settings: Settings) -> dict[str, str]:
    return {"image": settings.proxy_image, "imagePullPolicy": settings.proxy_image_pull_policy}


def _get(path: str) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": HEALTH_PORT}}


def _env(plan: Plan) -> list[dict[str, Any]]:
    downward = {"POD_IP": "status.podIP", "POD_IPS": "status.podIPs", "HOST_IP": "status.hostIP"}
    return [
        {"name": ENV, "value": plan.to_env()},
        *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in downward.items()),
    ]


def _resources(decision: Inject, settings: Settings) -> dict[str, Any]:
    def chosen(suffix: str) -> dict[str, str]:
        named = {what: resource(decision.intent, settings, f"proxy_{what}{suffix}") for what in ("cpu", "memory")}
        return {what: value for what, value in named.items() if value}

    limits = chosen("_limit")
    return {"requests": chosen(""), **({"limits": limits} if limits else {})}


def _security(capability: str) -> dict[str, Any]:
    return {
        "runAsUser": UID,
        "runAsGroup": UID,
        "runAsNonRoot": True,
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": [capability]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
