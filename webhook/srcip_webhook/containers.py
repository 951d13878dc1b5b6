"""The containers and the volume that a patched Pod gains, as plain dicts.

The containers state every security setting themselves, so that nothing the Pod says (runAsNonRoot, runAsUser,
dropped capabilities) changes what they run as.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from srcip_proxy.plan import CGROUP_MOUNT, ENV, HEALTH_PORT, UID, Plan
from srcip_webhook.names import CGROUP, INIT, PROXY, RUN
from srcip_webhook.policy import Inject
from srcip_webhook.settings import Settings

RUN_DIR = "/run/srcip"
MOST_REMEMBERED = 8192
"""Length of a Plan, in characters of JSON, whose containers are remembered: 512 of them take some MiB."""
TOKEN_DIR = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 # a path
"""Where the API server mounts the Pod's token in every container that has nothing there yet. Neither container needs
one, and that change to the Pod would bring it back to the webhook for a second look."""
NODES_CGROUP = "/sys/fs/cgroup"
RESOURCES = ("proxy_cpu", "proxy_memory", "proxy_cpu_limit", "proxy_memory_limit")


@dataclass(frozen=True)
class Rendered:
    """What a Pod gains. Shared between Pods: nobody may change the dicts inside."""

    containers: tuple[dict[str, Any], ...]
    """Init container and sidecar, in the order in which they start; in ebpf mode there is no sidecar, and the init
    container is a gate where the agent does its work."""
    volumes: tuple[dict[str, Any], ...]
    """What their mounts name."""
    digest: str
    """Tells whether another rendering would differ."""


def capabilities(plan: Plan) -> tuple[str, ...]:
    """What the sidecar needs: NET_RAW where it shows clients' addresses as a source, else nothing."""
    return ("NET_RAW",) if plan.spoofs_source and plan.inbound_ports else ()


def volume() -> dict[str, Any]:
    """Where init leaves the rendered configuration: in memory, gone with the Pod."""
    return {"name": RUN, "emptyDir": {"medium": "Memory", "sizeLimit": "4Mi"}}


def rendered(decision: Inject, settings: Settings) -> Rendered:
    """What this decision adds. Pods of one owner ask for the same, so the last ones are remembered."""
    own = {field: getattr(decision.intent, field) for field in RESOURCES}
    others = {} if decision.shares_resources else {field: getattr(settings, field) for field in RESOURCES}
    chosen = tuple(others.get(field) if own[field] is None else own[field] for field in RESOURCES)
    short = len(decision.plan.to_env()) <= MOST_REMEMBERED
    return (_remembered if short else for_plan)(decision.plan, chosen, settings, decision.is_by_agent)


def for_plan(plan: Plan, chosen: tuple[str | None, ...], settings: Settings, is_by_agent: bool = False) -> Rendered:
    """What this plan adds, with these RESOURCES."""
    env, resources = _env(plan), _resources(chosen)
    init = _init(settings, env, resources)
    containers, volumes = [init, _proxy(settings, env, resources, capabilities(plan))], [volume()]
    if plan.may_fall_back:
        containers[0] = _attaching(init)
        volumes.append(_cgroup_volume())
    if not plan.has_sidecar:
        containers = [_attaching({**init, "volumeMounts": [_mount(CGROUP, TOKEN_DIR)]})]
        volumes = [_cgroup_volume()]
    if is_by_agent:
        containers, volumes = [_gate(init)], [volume()]
    # of what is rendered, not of the plan: a new image or another default changes it, too, and renders the Pod anew
    text = json.dumps([*containers, *volumes], sort_keys=True)
    return Rendered(tuple(containers), tuple(volumes), hashlib.sha256(text.encode()).hexdigest()[:16])


_remembered = lru_cache(maxsize=512)(for_plan)


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
        "volumeMounts": [{"name": RUN, "mountPath": RUN_DIR}, _no_token()],
    }


def _attaching(init: dict[str, Any]) -> dict[str, Any]:
    """The init container with what it needs to attach programs to the Pod's network and cgroup; they stay."""
    return {
        **init,
        "env": [*init["env"], _own_uid()],
        "securityContext": _security("BPF", "NET_ADMIN"),
        "volumeMounts": [_mount(CGROUP, CGROUP_MOUNT), *init["volumeMounts"]],
    }


def _gate(init: dict[str, Any]) -> dict[str, Any]:
    """Waits until the agent has attached the programs, then ends. Has nothing that level `restricted` refuses."""
    return {
        **init,
        "command": ["srcip-proxy", "gate"],
        "env": [*init["env"], _own_uid()],
        "securityContext": _security(),
        "volumeMounts": [_no_token()],
    }


def _own_uid() -> dict[str, Any]:
    return {"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}


def _cgroup_volume() -> dict[str, Any]:
    """Where init finds the Pod's cgroup. Kubernetes shows it to no container otherwise."""
    return {"name": CGROUP, "hostPath": {"path": NODES_CGROUP, "type": "Directory"}}


def _proxy(
    settings: Settings, env: list[dict[str, Any]], resources: dict[str, Any], needed: tuple[str, ...]
) -> dict[str, Any]:
    """HAProxy as a native sidecar: up before the Pod's own containers start, stopped after them."""
    return {
        "name": PROXY,
        **_image(settings),
        "restartPolicy": "Always",
        # without a supervisor or Python: what stays in the Pod is HAProxy alone
        "command": ["haproxy", "-db", "-f", f"{RUN_DIR}/haproxy.cfg"],
        "env": env,
        "ports": [{"name": "srcip-health", "containerPort": HEALTH_PORT, "protocol": "TCP"}],
        # the application's containers start when this one has succeeded, and so never without interception
        "startupProbe": {**_get("/readyz"), "periodSeconds": 1, "failureThreshold": 60},
        "readinessProbe": _get("/readyz"),
        "livenessProbe": _get("/healthz"),
        "resources": resources,
        "securityContext": _security(*needed),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [_mount(RUN, RUN_DIR), _no_token()],
    }


def _no_token() -> dict[str, Any]:
    return _mount(RUN, TOKEN_DIR)


def _mount(volume: str, path: str) -> dict[str, Any]:
    """To be read alone."""
    return {"name": volume, "mountPath": path, "readOnly": True}


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


def _resources(chosen: tuple[str | None, ...]) -> dict[str, Any]:
    cpu, memory, cpu_limit, memory_limit = chosen
    said = {"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu_limit, "memory": memory_limit}}
    found = {kind: {what: value for what, value in values.items() if value} for kind, values in said.items()}
    return {kind: values for kind, values in found.items() if values}


def _security(*capabilities: str) -> dict[str, Any]:
    return {
        "runAsUser": UID,
        "runAsGroup": UID,
        "runAsNonRoot": True,
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], **({"add": list(capabilities)} if capabilities else {})},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
