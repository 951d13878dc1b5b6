"""What controllers do for a release, done once, where only an API server is at hand (envtest's three programs).

The Pods of the Deployment's template, the account authority's ConfigMap, and the Service's addresses: nothing follows
later changes. With kube-controller-manager none of this is used.
"""

from __future__ import annotations

from typing import Protocol

from srcip_e2e.cluster.api import Api, Json
from srcip_lab.errors import LabError
from srcip_lab.state import wait_until

READY_S = 60


class Installed(Protocol):
    """What is needed of a release."""

    @property
    def api(self) -> Api: ...
    @property
    def namespace(self) -> str: ...
    @property
    def deployment(self) -> str: ...
    @property
    def service(self) -> str: ...


def scale(release: Installed, replicas: int, ca: bytes) -> None:
    """Have so many Pods of the release, ready, and known as the addresses of its Service. Raises LabError."""
    api, core = release.api, f"/api/v1/namespaces/{release.namespace}"
    if not api.find(f"{core}/configmaps/kube-root-ca.crt"):
        api.post(f"{core}/configmaps", {"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": ca.decode()}})
    template = api.get(release.deployment)["spec"]["template"]
    pods = [each for each in api.get(f"{core}/pods")["items"] if _one_of(template, each)]
    for each in pods[replicas:]:
        api.delete(f"{core}/pods/{each['metadata']['name']}")
    for _ in range(replicas - len(pods)):
        api.post(f"{core}/pods", {**template, "metadata": {**template["metadata"], "generateName": "by-hand-"}})
    if not wait_until(lambda: _addresses(api, core, template, replicas) is not None, READY_S, every_s=0.1):
        raise LabError(f"{release.deployment}: not {replicas} ready Pods after {READY_S} s")
    _publish(release, core, _addresses(api, core, template, replicas) or [])


def _one_of(template: Json, pod: Json) -> bool:
    return bool(template["metadata"]["labels"].items() <= pod["metadata"].get("labels", {}).items())


def _addresses(api: Api, core: str, template: Json, replicas: int) -> list[str] | None:
    """The addresses of all Pods, once there are exactly so many and all are ready."""
    pods = [each for each in api.get(f"{core}/pods")["items"] if _one_of(template, each)]
    ready = [each for each in pods if {"type": "Ready", "status": "True"} in _conditions(each)]
    return [each["status"]["podIP"] for each in ready] if len(ready) == len(pods) == replicas else None


def _conditions(pod: Json) -> list[Json]:
    return [{"type": each["type"], "status": each["status"]} for each in pod["status"].get("conditions") or []]


def _ports(release: Installed, core: str) -> list[Json]:
    """The Service's ports, as numbers of the Pods."""
    containers = release.api.get(release.deployment)["spec"]["template"]["spec"]["containers"]
    known = {port["name"]: port["containerPort"] for each in containers for port in each.get("ports") or []}
    ports = release.api.get(f"{core}/services/{release.service}")["spec"]["ports"]
    return [
        {"name": each.get("name", ""), "port": known.get(each["targetPort"], each["targetPort"]), "protocol": "TCP"}
        for each in ports
    ]


def _publish(release: Installed, core: str, addresses: list[str]) -> None:
    """As an EndpointSlice and, for API servers before 1.33, as Endpoints."""
    name = release.service
    ports = _ports(release, core)
    points = [{"addresses": [ip], "conditions": {"ready": True}} for ip in addresses]
    labels = {"kubernetes.io/service-name": name}
    both: dict[str, Json] = {
        f"/apis/discovery.k8s.io/v1/namespaces/{release.namespace}/endpointslices": {
            "metadata": {"name": name, "labels": labels},
            "addressType": "IPv4",
            "endpoints": points,
            "ports": ports,
        },
        f"{core}/endpoints": {
            "metadata": {"name": name},
            "subsets": [{"addresses": [{"ip": ip} for ip in addresses], "ports": ports}] if addresses else [],
        },
    }
    for path, body in both.items():
        release.api.delete(f"{path}/{name}")
        release.api.post(path, body)
