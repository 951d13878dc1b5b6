"""Kubernetes objects that the tests and figures create. Pure: words in, plain dicts out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from srcip_e2e.cluster.apps import APPS_IMAGE

INJECTION = {"srcip.io/injection": "enabled"}
"""The label of a namespace whose Pods may ask for srcip."""
PEER = ("python3", "/app/peer.py")
NGINX = ("nginx", "-c", "/app/nginx.conf")
SSHD = ("/app/sshd.sh",)
WEB = ("/app/web.sh",)
WEB_PORTS = {"http": 8080, "http-api": 8081, "ws": 8082, "grpc": 8083}
"""What WEB speaks, by the names that Kubernetes has for it."""
PROXIED_PORT = 8090
"""Where WEB wants the PROXY protocol."""
POSTGRES = ("/app/postgres.sh",)
POSTGRES_UID = 65534
"""PostgreSQL refuses to run as root; any other user is fine."""

RESTRICTED = {
    "securityContext": {
        "runAsNonRoot": True,
        "runAsUser": 65534,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
}
"""What the strictest Pod Security level asks of a container: then only srcip's own can be in the way."""


@dataclass(frozen=True)
class App:
    """One application: what runs, where it listens, and what it asks srcip for."""

    name: str
    command: tuple[str, ...] = PEER
    port: int = 8080
    annotations: Mapping[str, str] = field(default_factory=dict)
    """Annotations of srcip without their prefix; {} asks for nothing."""
    container: Mapping[str, Any] = field(default_factory=dict)
    """More fields of the container."""
    pod: Mapping[str, Any] = field(default_factory=dict)
    """More fields of the Pod's spec."""

    @property
    def labels(self) -> dict[str, str]:
        return {"app": self.name}

    @property
    def selector(self) -> str:
        """As kubectl takes it."""
        return f"app={self.name}"


def tproxy(**more: str) -> dict[str, str]:
    """Annotations that ask for the sidecar; further ones with _ for -, such as node_proxy_protocol."""
    return {"mode": "tproxy", **{key.replace("_", "-"): value for key, value in more.items()}}


def redirect(**more: str) -> dict[str, str]:
    """The same for redirect mode."""
    return {**tproxy(**more), "mode": "redirect"}


def outbound(ports: str, headers: str = "") -> dict[str, str]:
    """Annotations: the Pod's requests to these ports get its address, its name, and `headers`, lines `Name: value`."""
    lines = {"outbound-headers": headers} if headers else {}
    return {"outbound-ports": ports, "set-forwarded-for": "default", "set-client-hostname": "default", **lines}


def ebpf(**more: str) -> dict[str, str]:
    """The same for the mode without a sidecar."""
    return {**tproxy(**more), "mode": "ebpf"}


def alone(*ips: str) -> str:
    """These addresses, and no others, as networks."""
    return ",".join(f"{ip}/{128 if ':' in ip else 32}" for ip in ips)


def web(name: str, annotations: Mapping[str, str], **ports: int) -> App:
    """Every kind of HTTP server in one container: it declares WEB_PORTS, and `ports` by their names."""
    declared = [{"name": each, "containerPort": port} for each, port in (WEB_PORTS | ports).items()]
    probe = {"httpGet": {"path": "/", "port": "http-api"}, "periodSeconds": 1}
    return App(name, WEB, annotations=annotations, container={"ports": declared, "readinessProbe": probe})


def namespace(name: str, level: str | None = None) -> dict[str, Any]:
    """A namespace open to srcip, and of this Pod Security level."""
    labels = INJECTION | ({"pod-security.kubernetes.io/enforce": level} if level else {})
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def template(app: App) -> dict[str, Any]:
    """The Pod template of a workload."""
    container = {
        "name": "app",
        "image": APPS_IMAGE,
        "command": list(app.command),
        "ports": [{"name": "main", "containerPort": app.port}],
        "readinessProbe": {"tcpSocket": {"port": "main"}, "periodSeconds": 1},
        **app.container,
    }
    metadata = {"labels": app.labels, "annotations": {f"srcip.io/{k}": v for k, v in app.annotations.items()}}
    return {"metadata": metadata, "spec": {"terminationGracePeriodSeconds": 20, "containers": [container], **app.pod}}


def pod(app: App) -> dict[str, Any]:
    """A Pod on its own."""
    made = template(app)
    return {"apiVersion": "v1", "kind": "Pod", **made, "metadata": {**made["metadata"], "name": app.name}}


def workload(kind: str, app: App, **spec: Any) -> dict[str, Any]:
    """A Deployment, StatefulSet or DaemonSet of the application."""
    owned = {"selector": {"matchLabels": app.labels}, "template": template(app), **spec}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": app.name}, "spec": owned}


def job(app: App, **spec: Any) -> dict[str, Any]:
    """A Job that runs the application once."""
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": app.name}, "spec": _once(app, spec)}


def cron_job(app: App, **spec: Any) -> dict[str, Any]:
    """The same, once a year."""
    spec = {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": _once(app, spec)}}
    return {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": app.name}, "spec": spec}


def _once(app: App, spec: Mapping[str, Any]) -> dict[str, Any]:
    made = template(app)
    return {"backoffLimit": 0, "template": {**made, "spec": {**made["spec"], "restartPolicy": "Never"}}, **spec}


def service(app: App, policy: str = "Cluster", named: str = "main") -> dict[str, Any]:
    """A NodePort Service of both families; `policy` is its externalTrafficPolicy, `named` the container's port."""
    spec = {
        "type": "NodePort",
        "externalTrafficPolicy": policy,
        "ipFamilyPolicy": "PreferDualStack",
        "selector": app.labels,
        "ports": [{"name": "main", "port": app.port, "targetPort": named}],
    }
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": app.name}, "spec": spec}
