"""Creates a Pod that asks for injection, as a dry run, and looks whether it comes back injected."""

from __future__ import annotations

import time

from srcip_kube.client import ApiError, Json, Kube

WANTED = ("srcip-init", "srcip-proxy")
EVERY_S = 1.0


def pod() -> Json:
    """The smallest Pod that asks for injection; it is never stored."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "srcip-test-", "annotations": {"srcip.io/mode": "tproxy"}},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "containers": [{"name": "app", "image": "srcip/test", "ports": [{"containerPort": 8080}]}],
        },
    }


def test(kube: Kube, namespace: str, patience_s: float) -> str:
    """Why no Pod is injected in this namespace; empty if it is. The webhook may need some time to come up."""
    deadline = time.monotonic() + patience_s
    while True:
        fault = _once(kube, namespace)
        if not fault or time.monotonic() >= deadline:
            return fault
        time.sleep(EVERY_S)


def _once(kube: Kube, namespace: str) -> str:
    try:
        created = kube.create(f"/api/v1/namespaces/{namespace}/pods", pod(), dryRun="All")
    except ApiError as error:
        return f"the Pod was refused: {error.message}"
    return missing(created, namespace)


def missing(created: Json, namespace: str) -> str:
    """What an injected Pod would have and this one has not."""
    spec = created.get("spec", {})
    names = {each["name"] for each in (*spec.get("initContainers", ()), *spec.get("containers", ()))}
    lacking = [name for name in WANTED if name not in names]
    if not lacking:
        return ""
    return (
        f"the Pod was accepted without {' and '.join(lacking)}: has the namespace {namespace} "
        "the label srcip.io/injection: enabled?"
    )
