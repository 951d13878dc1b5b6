"""The chart as real helm renders it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from values_reference import CHART

Json = dict[str, Any]

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Many times faster where it is there."""
KUBERNETES = "1.36.0"
RELEASE, NAMESPACE = "srcip", "srcip-system"
TRUSTING: Json = {"trustedCIDRs": ["192.0.2.0/24", "2001:db8::/32"]}
"""The only values that must be given."""
TEMPLATE = ("spec", "template")
POD_PATHS = {"Pod": (), "Deployment": TEMPLATE, "DaemonSet": TEMPLATE, "Job": TEMPLATE}
"""Where the Pod or its template is in each kind that has one."""
AUTHORITY = "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIUAAAA\n-----END CERTIFICATE-----\n"
CASES: dict[str, Json] = {
    "default": {},
    "cert-manager": {"certificates": {"mode": "cert-manager"}},
    "cert-manager-with-an-issuer-of-its-own": {
        "certificates": {
            "mode": "cert-manager",
            "certManager": {"issuerRef": {"name": "corporate", "kind": "ClusterIssuer", "group": "cert-manager.io"}},
        }
    },
    "own-secret": {"certificates": {"mode": "secret", "secret": {"name": "own-tls", "caBundle": AUTHORITY}}},
    "everything-on": {
        "commonLabels": {"team": "network"},
        "commonAnnotations": {"example.org/contact": "network@example.org"},
        "image": {"registry": "registry.example:5000/mirror", "tag": "1.2.3", "pullSecrets": [{"name": "pull"}]},
        "webhook": {"hostNetwork": True, "port": 10250, "image": {"digest": f"sha256:{'ab' * 32}"}},
        "proxy": {"resources": {"limits": {"cpu": 1, "memory": "128Mi"}}},
        "admission": {
            "failurePolicy": "Ignore",
            "namespaceMatchExpressions": [{"key": "team", "operator": "In", "values": ["mail"]}],
            "podMatchExpressions": [{"key": "app", "operator": "Exists"}],
            "matchConditions": [{"name": "is-small", "expression": "size(object.spec.containers) < 9"}],
            "annotations": {"argocd.argoproj.io/sync-wave": "1"},
        },
        "priorityClassName": "system-cluster-critical",
        "tolerations": [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}],
        "podLabels": {"network": "host"},
        "podAnnotations": {"example.org/pod": "yes"},
        "serviceAccount": {"annotations": {"example.org/account": "yes"}},
        "networkPolicy": {
            "enabled": True,
            "apiServerCIDRs": ["198.51.100.0/24"],
            "metricsFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        },
        "metrics": {
            "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
            "podMonitor": {"enabled": True},
            "prometheusRule": {"enabled": True},
            "dashboard": {"enabled": True, "annotations": {"grafana_folder": "network"}},
        },
        "agent": {
            "enabled": True,
            "port": 9101,
            "nodeSelector": {"ebpf": "yes"},
            "tolerations": [],
            "affinity": {"nodeAffinity": {}},
            "priorityClassName": "",
            "updateStrategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "podLabels": {"srcip.io/inject": "true", "scrape": "yes"},
            "podAnnotations": {"srcip.io/mode": "ebpf"},
        },
        "ebpfExporter": {
            "enabled": True,
            "port": 9100,
            "podLogsDirectory": "/data/pod-logs",
            "nodeSelector": {"ebpf": "yes"},
            "tolerations": [{"operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
            "priorityClassName": "system-node-critical",
            "podLabels": {"srcip.io/inject": "true", "scrape": "yes"},
            "podAnnotations": {"srcip.io/mode": "ebpf"},
        },
        "test": {"namespace": "apps"},
    },
    "agent": {"agent": {"enabled": True}},
    "exporter-of-ebpf-mode": {"ebpfExporter": {"enabled": True}},
    "without-what-can-be-left-out": {
        "admission": {"hints": False},
        "podDisruptionBudget": {"enabled": False},
        "uninstallHook": {"enabled": False},
        "webhook": {"preStopSleepSeconds": 0},
        "nodeSelector": None,
        "podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None},
    },
}
"""Values by behaviour."""


@dataclass(frozen=True)
class Helm:
    """Real helm, without any cluster."""

    program: Path
    home: Path
    rendered: dict[str, str] = field(default_factory=dict)
    """What was asked for before."""

    def __call__(self, *args: str, values: Json | None = None) -> subprocess.CompletedProcess[str]:
        """Run it with these values."""
        return subprocess.run(
            [str(self.program), *args, *(["--values=-"] if values is not None else [])],
            input=None if values is None else json.dumps(values),
            env={"HOME": str(self.home), "KUBECONFIG": "/dev/null"},
            capture_output=True,
            text=True,
            check=False,
        )

    def template(self, values: Json, *args: str, release: str = RELEASE, namespace: str = NAMESPACE) -> str:
        """What the chart becomes with these values, as text."""
        place = [release, str(CHART), f"--namespace={namespace}", f"--kube-version={KUBERNETES}"]
        key = json.dumps([*place, *args, values])
        if key not in self.rendered:
            done = self("template", *place, *args, values={**TRUSTING, **values})
            assert done.returncode == 0, done.stderr
            self.rendered[key] = done.stdout
        return self.rendered[key]

    def objects(self, values: Json, *args: str, release: str = RELEASE, namespace: str = NAMESPACE) -> list[Json]:
        """The same, as objects."""
        text = self.template(values, *args, release=release, namespace=namespace)
        return [each for each in yaml.load_all(text, LOADER) if each]

    def refusal(self, values: Json) -> str:
        """What helm says when it does not take the values; empty if it takes them."""
        place = [RELEASE, str(CHART), f"--namespace={NAMESPACE}", f"--kube-version={KUBERNETES}"]
        done = self("template", *place, values=values)
        return done.stderr if done.returncode else ""


def one(objects: list[Json], kind: str, name: str = "") -> Json:
    """The only object of this kind whose name ends so."""
    found = [each for each in objects if each["kind"] == kind and each["metadata"]["name"].endswith(name)]
    assert len(found) == 1, f"{len(found)} of {kind} {name}"
    return found[0]


def is_hook(thing: Json) -> bool:
    return "helm.sh/hook" in thing["metadata"].get("annotations", {})


def pods(objects: list[Json]) -> Iterator[tuple[str, Json]]:
    """The spec of each Pod that there would be, by the name of its object."""
    for each in objects:
        if each["kind"] in POD_PATHS:
            found = each
            for key in POD_PATHS[each["kind"]]:
                found = found[key]
            yield each["metadata"]["name"], found["spec"]


def containers(objects: list[Json]) -> dict[str, Json]:
    """Of the Deployment, by name."""
    return {each["name"]: each for each in one(objects, "Deployment")["spec"]["template"]["spec"]["containers"]}


def variables(container: Json) -> dict[str, str]:
    """The environment that is written out."""
    return {each["name"]: each["value"] for each in container.get("env", []) if "value" in each}


def merged(*layers: Json) -> Json:
    """Values over values, as helm merges them."""
    result: Json = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = merged(result[key], value) if both else value
    return result


def nested(name: str, value: Any) -> Json:
    """A value by its name with dots."""
    for key in reversed(name.split(".")):
        value = {key: value}
    found: Json = value
    return found
