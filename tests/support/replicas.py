"""Processes of srcip-certs against a real API server, each with a real webhook that serves what it writes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from srcip_certs import authority, published
from srcip_certs.authority import BadCertificate, Leaf
from srcip_certs.files import Files
from srcip_e2e.cluster.api import Api
from srcip_e2e.cluster.controlplane import ControlPlane
from srcip_lab.state import wait_until

Json = dict[str, Any]

CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
TIMES = {"CA_LIFETIME": "10m", "LEAF_LIFETIME": "2m", "SETTLE": "1s", "CHECK_INTERVAL": "200ms"}
TIMEOUT_S = 60.0


class Replica:
    """One process of srcip-certs, and one of srcip-webhook if there is one beside it."""

    def __init__(self, environ: dict[str, str], directory: Path, name: str) -> None:
        self.environ = environ
        self.directory = directory / name
        self.directory.mkdir(exist_ok=True)
        self._log = directory / f"{name}.log"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "srcip_certs", "run"],
            env=environ | {"SRCIP_CERTS_DIRECTORY": str(self.directory), "POD_NAME": name},
            stdout=self._log.open("ab"),
            stderr=subprocess.STDOUT,
        )
        self.webhook: subprocess.Popen[bytes] | None = None

    def events(self, name: str = "") -> list[Json]:
        """The log lines so far, those of one event if it is named."""
        lines = [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if name in ("", line["event"])]

    def await_event(self, name: str, count: int = 1) -> Json:
        until(f"{count} of {name!r}", lambda: len(self.events(name)) >= count, self._log.read_text)
        return self.events(name)[count - 1]

    @property
    def leaf(self) -> Leaf | None:
        """What is in the files; like the webhook, it looks again when a pair is just being replaced."""
        for _ in range(50):
            with suppress(BadCertificate):
                return Files(self.directory).read()
            time.sleep(0.01)
        return Files(self.directory).read()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.await_event('started')['port']}"

    def metric(self, series: str) -> float:
        lines = httpx.get(f"{self.address}/metrics", timeout=5).text.splitlines()
        return next(float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == series)

    def command(self, *args: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Another command, as `kubectl exec` would run it beside the process."""
        port = self.address.rpartition(":")[2]
        own = {"SRCIP_CERTS_DIRECTORY": str(self.directory), "SRCIP_CERTS_LISTEN_PORT": port}
        return subprocess.run(
            [sys.executable, "-m", "srcip_certs", *args],
            env=self.environ | own | environ,
            capture_output=True,
            text=True,
            check=False,
        )

    def serve(self, port: int) -> None:
        """Start the webhook, as the Pod's other container."""
        kinds = (("CERT", "crt"), ("KEY", "key"))
        pair = {f"SRCIP_TLS_{kind}_FILE": f"{self.directory}/tls.{end}" for kind, end in kinds}
        self.webhook = subprocess.Popen(
            [sys.executable, "-m", "srcip_webhook.server"],
            env={"SRCIP_PROXY_IMAGE": "srcip/proxy", "SRCIP_TRUSTED_CIDRS": "192.0.2.0/24", **pair}
            | {"SRCIP_LISTEN_PORT": str(port), "PATH": os.environ["PATH"]},
            stdout=subprocess.DEVNULL,
        )
        until("the webhook", lambda: answers(port))

    def stop(self, number: int = signal.SIGKILL) -> int:
        """End it; its exit code."""
        self.process.send_signal(number)
        code = self.process.wait(TIMEOUT_S)
        if self.webhook:
            self.webhook.kill()
            self.webhook.wait(10)
        return code


class Installation:
    """A namespace with all that the chart would put there, and the processes of some replicas."""

    def __init__(self, plane: ControlPlane, directory: Path, name: str) -> None:
        self.plane, self.directory, self.name = plane, directory, name
        self.api: Api = plane.api()
        self.secret = f"/api/v1/namespaces/{name}/secrets/srcip-ca"
        self.configuration = f"{CONFIGURATIONS}/{name}"
        self.deployment = f"/apis/apps/v1/namespaces/{name}/deployments/srcip-webhook"
        self.replicas: list[Replica] = []
        self.api.post("/api/v1/namespaces", {"metadata": {"name": name}})
        self.api.post("/api/v1/namespaces", {"metadata": {"name": self.apps}})
        self.allow()
        self.configure()

    @property
    def apps(self) -> str:
        """The namespace whose Pods reach the webhook."""
        return f"{self.name}-apps"

    def environ(self, **times: str) -> dict[str, str]:
        self.plane.api(self.name, groups=())  # writes the kubeconfig of a user who may only what RBAC says
        names = {"NAMESPACE": self.name, "SECRET": "srcip-ca", "WEBHOOK_CONFIGURATION": self.name}
        all_ = names | {"SERVICE": "srcip-webhook", "LISTEN_PORT": "0"} | TIMES | times
        kubeconfig = str(self.plane.directory / f"{self.name}.kubeconfig")
        return {"KUBECONFIG": kubeconfig, "PATH": os.environ["PATH"]} | {
            f"SRCIP_CERTS_{key}": value for key, value in all_.items()
        }

    def start(self, count: int = 1, **times: str) -> list[Replica]:
        """Start processes, all at once."""
        environ = self.environ(**times)
        first = len(self.replicas)
        started = [Replica(environ, self.directory, f"{self.name}-{first + each}") for each in range(count)]
        self.replicas += started
        return started

    def serve(self) -> None:
        """Start the webhooks of all replicas, and lead the Service to them."""
        ports = {"name": "https", "port": 443, "protocol": "TCP"}
        self.api.post(f"/api/v1/namespaces/{self.name}/services",
                      {"metadata": {"name": "srcip-webhook"}, "spec": {"ports": [ports]}})  # fmt: skip
        assert self.plane.site
        here = f"10.246.{128 + self.plane.site.slot}.1"
        for replica in self.replicas:
            replica.await_event("certificate written")
            port = free_port()
            replica.serve(port)
            labels = {"kubernetes.io/service-name": "srcip-webhook"}
            self.api.post(f"/apis/discovery.k8s.io/v1/namespaces/{self.name}/endpointslices", {
                "metadata": {"generateName": "srcip-webhook-", "labels": labels}, "addressType": "IPv4",
                "endpoints": [{"addresses": [here], "conditions": {"ready": True}}],
                "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
            })  # fmt: skip

    # objects

    def allow(self, *, writes: bool = True) -> None:
        """The rights that the chart grants, or only those to read."""
        rule = lambda group, resource, verbs, **names: {  # noqa: E731
            "apiGroups": [group], "resources": [resource], "verbs": verbs, **names}  # fmt: skip
        own: list[Json] = [rule("apps", "deployments", ["get"], resourceNames=["srcip-webhook"])]
        own.append(rule("", "secrets", ["get", *(["update", "patch"] if writes else [])], resourceNames=["srcip-ca"]))
        own += [rule("", "secrets", ["create"])] if writes else []
        verbs = ["get", "list", "watch", *(["patch"] if writes else [])]
        group, _, resource = CONFIGURATIONS.removeprefix("/apis/").replace("/v1", "").partition("/")
        hooks = rule(group, resource, verbs, resourceNames=[self.name])
        namespaced = f"{RBAC}/namespaces/{self.name}"
        for kind, base, rules in (("ClusterRole", RBAC, [hooks]), ("Role", namespaced, own)):
            role = {"metadata": {"name": self.name}, "rules": rules}
            reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": self.name}
            subjects = [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": self.name}]
            self.replace(f"{base}/{kind.lower()}s", role)
            self.replace(f"{base}/{kind.lower()}bindings",
                         {"metadata": {"name": self.name}, "roleRef": reference, "subjects": subjects})  # fmt: skip

    def replace(self, path: str, body: Json) -> None:
        self.api.delete(f"{path}/{body['metadata']['name']}")
        self.api.post(path, body)

    def configure(self) -> None:
        """A webhook configuration without any caBundle, with two webhooks."""
        service = {"name": "srcip-webhook", "namespace": self.name, "path": "/mutate"}
        rules = [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]
        common = {"clientConfig": {"service": service}, "sideEffects": "None", "admissionReviewVersions": ["v1"]}
        common |= {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self.apps}}}
        webhooks = [{"name": f"{each}.srcip.io", **common, "rules": rules} for each in ("inject", "hint")]
        self.api.post(CONFIGURATIONS, {"metadata": {"name": self.name}, "webhooks": webhooks})

    def bundles(self) -> list[authority.Bundle]:
        return list(published.read(self.api.get(self.configuration)).bundles)

    def empty_bundles(self) -> None:
        """What a tool does that puts back what it has rendered."""
        take = [{"op": "remove", "path": f"/webhooks/{index}/clientConfig/caBundle"} for index in (0, 1)]
        self.api.patch(self.configuration, take, content="application/json-patch+json")

    def accepted(self, replica: Replica) -> bool:
        """Whether every caBundle verifies what this replica serves."""
        leaf = replica.leaf
        return bool(leaf) and all(leaf.issuer in each.certificates for each in self.bundles()) if leaf else False

    def issuers(self) -> set[str]:
        return {leaf.issuer.fingerprint for each in self.replicas if (leaf := each.leaf)}

    def end(self) -> None:
        """Stop everything, and let no webhook stay that refuses Pods."""
        for replica in self.replicas:
            if replica.process.poll() is None:
                replica.stop()
        self.plane.api().delete(self.configuration)


def until(what: str, condition: Callable[[], object], more: Callable[[], str] = str) -> None:
    """Wait until it holds. Raises AssertionError after a while."""
    assert wait_until(condition, TIMEOUT_S, every_s=0.02), f"{what}: not within {TIMEOUT_S} s\n{more()}"


def free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return int(server.getsockname()[1])


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def server_process(plane: ControlPlane) -> subprocess.Popen[bytes]:
    return plane._processes["kube-apiserver"]


def restart_server(plane: ControlPlane, down_s: float) -> None:
    """Kill the API server, and start it again the same way after a while."""
    old = server_process(plane)
    old.kill()
    old.wait()
    time.sleep(down_s)
    log = (plane.logs / "kube-apiserver.log").open("ab")
    plane._processes["kube-apiserver"] = subprocess.Popen(
        old.args, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )
    admin = plane.api()
    until("the API server", lambda: _ready(admin))


def _ready(api: Api) -> bool:
    try:
        return api.ask("GET", "/readyz", timeout_s=2).code == 200
    except OSError:
        return False
