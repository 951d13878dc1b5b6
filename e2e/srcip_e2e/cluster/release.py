"""srcip as an operator has it: a release of the chart, installed with helm, and what it made."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from srcip_e2e.cluster import by_hand
from srcip_e2e.cluster.api import Api, Json
from srcip_e2e.cluster.controlplane import ControlPlane
from srcip_e2e.cluster.load import TRUSTED
from srcip_lab.errors import LabError
from srcip_lab.state import wait_until

CHART = Path(__file__).parents[3] / "charts" / "srcip"
CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
OPTED_IN = {"srcip.io/injection": "enabled"}
"""The label of a namespace whose Pods may ask for injection."""
TIMEOUT = "60s"


@dataclass(frozen=True)
class Release:
    """One release, installed or not."""

    plane: ControlPlane
    api: Api
    name: str = "srcip"
    namespace: str = "srcip-system"
    values: Json = field(default_factory=lambda: {"trustedCIDRs": [TRUSTED]})

    @property
    def fullname(self) -> str:
        """How the chart names its objects."""
        return self.name if "srcip" in self.name else f"{self.name}-srcip"

    @property
    def service(self) -> str:
        """Name of the Service that leads to the webhook, and of the Deployment."""
        return f"{self.fullname}-webhook"

    @property
    def deployment(self) -> str:
        """Path of the Deployment in the API."""
        return f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{self.service}"

    @property
    def secret(self) -> str:
        """Path of the Secret that holds the authorities."""
        return f"/api/v1/namespaces/{self.namespace}/secrets/{self.fullname}-ca"

    def helm(self, verb: str, *args: str, values: Json | None = None, check: bool = True) -> Any:
        """`helm VERB RELEASE CHART ...` with the release's values. Raises LabError."""
        document = json.dumps(self.values if values is None else values)
        command = [verb, self.name, str(CHART), f"--namespace={self.namespace}", "--values=-", *args]
        return self.plane.helm(*command, stdin=document, check=check)

    def install(self) -> None:
        """Install it and wait until its Pods are ready. Raises LabError."""
        wait = ["--wait"] if self.plane.controllers else []
        self.helm("install", "--create-namespace", f"--timeout={TIMEOUT}", *wait)
        if not self.plane.controllers:
            by_hand.scale(self, int(self.api.get(self.deployment)["spec"]["replicas"]), self.plane.ca)

    def upgrade(self, values: Json | None = None, *args: str) -> None:
        """Upgrade it to other values and wait until the new Pods are ready. Raises LabError."""
        self.helm("upgrade", "--wait", f"--timeout={TIMEOUT}", *args, values=values)

    def uninstall(self) -> None:
        """Uninstall it and wait until its own objects are gone. Raises LabError."""
        self.plane.helm("uninstall", self.name, f"--namespace={self.namespace}", "--wait", f"--timeout={TIMEOUT}")

    def manifest(self) -> str:
        """What helm would apply."""
        return str(self.helm("template", "--no-hooks").stdout)

    def configuration(self) -> Json:
        """The MutatingWebhookConfiguration of this release. Raises LabError if there is not exactly one."""
        mine = [each for each in self.api.get(CONFIGURATIONS)["items"] if self._reaches(each)]
        if len(mine) != 1:
            raise LabError(f"release {self.name}: {len(mine)} webhook configurations lead to {self.namespace}")
        found: Json = mine[0]
        return found

    def bundle(self) -> str:
        """The caBundle that is in force, base64 as it is in the API; empty if there is none."""
        return str(self.configuration()["webhooks"][0]["clientConfig"].get("caBundle", ""))

    def certs(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run srcip-certs as an administrator, with the settings of the Pods. Raises LabError."""
        containers = self.api.get(self.deployment)["spec"]["template"]["spec"]["containers"]
        env = next(each["env"] for each in containers if each["name"] == "certs")
        settings = {each["name"]: each["value"] for each in env if "value" in each}
        settings["SRCIP_CERTS_NAMESPACE"] = self.namespace
        done = subprocess.run(
            [sys.executable, "-m", "srcip_certs", *args],
            env=settings | {"KUBECONFIG": str(self.plane.kubeconfig)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise LabError(f"srcip-certs {' '.join(args)}: exit code {done.returncode}", done.stdout, done.stderr)
        return done

    def scale(self, replicas: int) -> None:
        """Have so many replicas, and wait until they are ready or gone. Raises LabError."""
        if not self.plane.controllers:
            by_hand.scale(self, replicas, self.plane.ca)
            return
        self.api.patch(f"{self.deployment}/scale", {"spec": {"replicas": replicas}})

        def there() -> bool:
            pods = self.api.get(f"/api/v1/namespaces/{self.namespace}/pods")["items"]
            ready = int(self.api.get(self.deployment)["status"].get("readyReplicas", 0))
            return ready == replicas and (replicas > 0 or not pods)

        if not wait_until(there, 60, every_s=0.1):
            raise LabError(f"{self.deployment}: not at {replicas} replicas after 60 s")

    def namespace_for(self, name: str, labels: dict[str, str] | None = None) -> str:
        """Make a namespace for applications, opted in unless told otherwise; its name."""
        labels = OPTED_IN if labels is None else labels
        self.api.post("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
        if self.plane.controllers:
            wait_until(lambda: self.api.find(f"/api/v1/namespaces/{name}/serviceaccounts/default"), 10, every_s=0.02)
        return name

    def _reaches(self, configuration: Json) -> bool:
        services = [each["clientConfig"].get("service", {}) for each in configuration.get("webhooks", [])]
        return any(each.get("namespace") == self.namespace for each in services)
