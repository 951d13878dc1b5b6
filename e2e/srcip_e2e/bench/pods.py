"""The AdmissionReview that the webhook's benchmark sends. Pure."""

from __future__ import annotations

import json
from typing import Any

SIZE = 10_000
"""Bytes of the Pod as JSON: what a Deployment with a few containers and its managedFields comes to."""


def pod(size: int = SIZE) -> dict[str, Any]:
    """A Pod to inject, at least `size` bytes of JSON: three containers with ports, probes and environment."""
    containers = [_container(number) for number in range(3)]
    made = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "shop-7d4b9c8f6d-",
            "labels": {"app": "shop", "pod-template-hash": "7d4b9c8f6d"},
            "annotations": {"srcip.io/mode": "tproxy"},
        },
        "spec": {"serviceAccountName": "shop", "containers": containers, "restartPolicy": "Always"},
    }
    number = 0
    while len(json.dumps(made)) < size:
        variable = {"name": f"SHOP_SETTING_{number}", "value": f"https://setting-{number}.shop.example/path"}
        containers[number % len(containers)]["env"].append(variable)
        number += 1
    return made


def _container(number: int) -> dict[str, Any]:
    port = 8080 + number
    return {
        "name": f"part-{number}",
        "image": f"registry.example/shop/part-{number}:1.2.3",
        "ports": [{"name": f"http-{number}", "containerPort": port, "protocol": "TCP"}],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": f"http-{number}"}, "periodSeconds": 5},
        "livenessProbe": {"tcpSocket": {"port": port}},
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
        "env": [],
    }


def review(size: int = SIZE) -> bytes:
    """The review as the API server posts it."""
    group = {"group": "", "version": "v1"}
    request = {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "kind": {**group, "kind": "Pod"},
        "resource": {**group, "resource": "pods"},
        "namespace": "shop",
        "operation": "CREATE",
        "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
        "object": pod(size),
        "oldObject": None,
        "dryRun": False,
    }
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).encode()
