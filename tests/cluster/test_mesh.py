"""srcip beside a mesh on a real node: who sees the client, in each mode, whichever of the two injects last.

The mesh is a stand-in (support/meshes.py) that a webhook of its own injects: an init container that loads the real
rules, and a proxy with the real user and ports, as a container or as a native sidecar.
"""

import base64
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from srcip_e2e.cluster import clients
from srcip_e2e.cluster.apps import APPS_IMAGE
from srcip_e2e.cluster.edge import Balancer, Service
from srcip_e2e.cluster.kube import Kube, Object, eventually, ip
from srcip_e2e.cluster.node_network import BALANCER
from srcip_e2e.cluster.pki import Authority
from srcip_e2e.cluster.site import Edge
from srcip_e2e.cluster.workloads import WEB_PORTS, App, alone, pod, redirect, tproxy, web
from srcip_e2e.images.recipe import reference
from support import meshes
from support.meshes import ISTIO, LINKERD, Mesh

pytestmark = pytest.mark.cluster
SOURCES = {4: "203.0.113.99", 6: "2001:db8::99"}
"""Clients that choose their own address."""
INJECTOR = Path(meshes.__file__).with_name("mesh_injector.py")
NAME = "mesh-injector"
MODES = {"tproxy": tproxy, "redirect": redirect}
KINDS: dict[str, tuple[Mesh, bool]] = {
    "istio": (ISTIO, False),
    "istio-native": (ISTIO, True),
    "linkerd": (LINKERD, False),
}
"""A mesh, and whether its sidecar is a native one."""
ORDERS = {"first": "a-mesh", "last": "z-mesh"}
"""When the mesh injects, and what its webhook is called: the API server asks in the order of names."""
LOAD = """
import subprocess, sys
subprocess.run(["ip", "address", "replace", "::6/128", "dev", "lo"], check=True)
subprocess.run(["nft", "-f", "-"], input=sys.argv[1], text=True, check=True)
"""
"""What the init container runs; its image has no shell."""
LONG_S = 600
"""Dozens of containers start at once."""


@dataclass(frozen=True)
class Case:
    """One Pod."""

    mode: str
    kind: str
    order: str

    @property
    def name(self) -> str:
        return f"{self.mode}-{self.kind}-{self.order}"

    @property
    def mesh(self) -> Mesh:
        return KINDS[self.kind][0]


CASES = [Case(*each) for each in itertools.product(MODES, KINDS, ORDERS)]


def added(mesh: Mesh, is_native: bool) -> dict[str, Any]:
    """What the mesh's injector adds to a Pod."""
    allowed = {"runAsUser": 0, "runAsNonRoot": False, "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}}
    image = {"imagePullPolicy": "Never"}
    init = {
        "name": "mesh-init",
        "image": reference("proxy"),
        **image,
        "command": ["python3", "-Ic", LOAD, mesh.tables()],
    }
    command = ["python3", "-Ic", meshes.PROGRAM.read_text(), *mesh.arguments]
    sidecar = {
        "name": mesh.container,
        "image": APPS_IMAGE,
        **image,
        "command": command,
        "securityContext": {"runAsUser": mesh.user, "runAsGroup": mesh.user},
        "ports": [{"containerPort": port} for port in mesh.others],
        **({"restartPolicy": "Always"} if is_native else {}),
    }
    return {"init": init | {"securityContext": allowed}, "sidecar": sidecar, "native": is_native}


def configuration(kube: Kube, order: str, authority: Authority) -> Object:
    """Asks the injector about the Pods that are labelled so."""
    where = {"service": {"name": NAME, "namespace": kube.namespace, "path": "/"}}
    hook = {
        "name": f"{ORDERS[order]}.example.org",
        "clientConfig": where | {"caBundle": base64.b64encode(authority.pair.certificate).decode()},
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": kube.namespace}},
        "objectSelector": {"matchLabels": {"mesh": order}},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "reinvocationPolicy": "Never",
    }
    metadata = {"name": ORDERS[order]}
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration"}
    return {**kind, "metadata": metadata, "webhooks": [hook]}


def injector(kube: Kube, authority: Authority) -> list[Object]:
    """The injector's own objects."""
    pair = authority.issue(NAME, hosts=[f"{NAME}.{kube.namespace}.svc"])
    patches = {kind: added(*which) for kind, which in KINDS.items()}
    texts = {"tls.crt": pair.certificate, "tls.key": pair.key, "patches.json": json.dumps(patches).encode()}
    data = {name: base64.b64encode(text).decode() for name, text in texts.items()}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": NAME}, "data": data}
    command = ("python3", "-Ic", INJECTOR.read_text(), "/mnt")
    mounted = {"volumes": [{"name": "files", "secret": {"secretName": NAME}}]}
    container = {"volumeMounts": [{"name": "files", "mountPath": "/mnt"}]}
    app = App(NAME, command, 8443, container=container, pod=mounted)
    spec = {"selector": app.labels, "ports": [{"port": 443, "targetPort": 8443}]}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": NAME}, "spec": spec}
    return [secret, service, pod(app)]


def has_mesh(kube: Kube, asked: Object) -> bool:
    """Whether the mesh's webhook is asked about this Pod already: it was registered a moment ago."""
    said = kube.try_("create", "--dry-run=server", "-f", "-", "-o", "json", stdin=json.dumps(asked))
    return "mesh-init" in said.out


@pytest.fixture(scope="module")
def pods(shared_kube: Kube, edge: Edge) -> Iterator[dict[str, Object]]:
    """All Pods, each with srcip and a mesh."""
    authority = Authority.create("mesh")
    shared_kube.apply(*injector(shared_kube, authority))
    shared_kube.wait("condition=Ready", f"pod/{NAME}", timeout_s=LONG_S)
    try:
        shared_kube.apply(*(configuration(shared_kube, order, authority) for order in ORDERS))
        for case in CASES:
            app = web(case.name, MODES[case.mode](trusted_cidrs=alone(*edge.host.ips)))
            asked = pod(app)
            asked["metadata"]["labels"]["mesh"] = case.order
            asked["metadata"]["annotations"]["mesh.example/inject"] = case.kind
            eventually(lambda asked=asked: has_mesh(shared_kube, asked), f"the mesh of {case.name}", LONG_S)
            shared_kube.apply(asked)
        shared_kube.wait("condition=Ready", *(f"pod/{case.name}" for case in CASES), timeout_s=LONG_S)
        yield {case.name: shared_kube.get("pod", case.name) for case in CASES}
    finally:
        for name in ORDERS.values():
            shared_kube("delete", "mutatingwebhookconfiguration", name, "--ignore-not-found")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_both_are_in_the_pod_whoever_came_last(pods: dict[str, Object], case: Case) -> None:
    """srcip knows of the mesh, and its sidecar has ports of its own."""
    made = pods[case.name]["spec"]
    names = [each["name"] for each in (*made["initContainers"], *made["containers"])]
    assert {"srcip-init", "mesh-init", case.mesh.container, "app"} <= set(names)
    (init,) = (each for each in made["initContainers"] if each["name"] == "srcip-init")
    (plan,) = (json.loads(each["value"]) for each in init["env"] if each["name"] == "SRCIP_PLAN")
    assert (plan["mesh"], plan["mesh_proxy_uids"]) == (True, [case.mesh.user])


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_who_sees_the_client(pods: dict[str, Object], shared_kube: Kube, edge: Edge, case: Case, version: int) -> None:
    """A client of a trusted balancer: the application does, and the mesh sees nobody at all."""
    service = Service(f"mesh{version}", 8100 + version)
    before = shared_kube.logs(case.name, case.mesh.container)
    with Balancer(edge.host, service) as balancer:
        balancer.serve(service.name, [(ip(pods[case.name], version), WEB_PORTS["http"])])
        where = clients.url(BALANCER[version == 6], service.port)
        answer = clients.fields(clients.curl(balancer.host, "--interface", SOURCES[version], where))
    said = shared_kube.logs(case.name, case.mesh.container).removeprefix(before)
    inbound = [line.split()[1] for line in said.splitlines() if line.startswith("inbound") and line.endswith(" 8080")]
    assert answer["client"] == SOURCES[version]
    assert inbound == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_anybody_else_passes_the_mesh(pods: dict[str, Object], shared_kube: Kube, edge: Edge, case: Case) -> None:
    """With its policy: the mesh sees who it is, the application sees the mesh."""
    where = clients.url(ip(pods[case.name], 4), WEB_PORTS["http"])
    answer = clients.fields(clients.curl(edge.host, "--interface", edge.strangers[0], where))
    assert answer["client"] != edge.strangers[0]
    said = shared_kube.logs(case.name, case.mesh.container)
    assert f"inbound {edge.strangers[0]} {ip(pods[case.name], 4)} 8080\n" in said
