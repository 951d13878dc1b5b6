"""What the webhook's tests share: settings and reviews."""

import asyncio
import json
from typing import Any

import httpx

from srcip_webhook.settings import Settings

SETTINGS = Settings(proxy_image="registry.example/srcip-proxy:1")
TRUSTING = Settings(proxy_image="registry.example/srcip-proxy:1", trusted_cidrs=("192.0.2.0/24",))
HEADERS = {"content-type": "application/json"}


def review(pod: Any, operation: str = "CREATE", **request: Any) -> dict[str, Any]:
    """An AdmissionReview as the API server sends it."""
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": "default",
            "operation": operation,
            "userInfo": {"username": "admin"},
            "object": pod,
            "oldObject": None,
            "dryRun": False,
            **request,
        },
    }


def post(
    app: Any, content: bytes, headers: dict[str, str] | None = None, path: str = "/mutate", method: str = "POST"
) -> httpx.Response:
    """One request to an ASGI application, without a server."""

    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://webhook") as client:
            return await client.request(method, path, content=content, headers=HEADERS if headers is None else headers)

    return asyncio.run(send())


def body(pod: Any, **request: Any) -> bytes:
    return json.dumps(review(pod, **request)).encode()


def pod(annotations: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    """A Pod with one container and one port that asks for the sidecar."""
    said = {"srcip.io/mode": "tproxy", "srcip.io/trusted-cidrs": "192.0.2.0/24", **(annotations or {})}
    containers = [{"name": "app", "image": "example.org/app:1", "ports": [{"containerPort": 8080}]}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web", "annotations": {key: value for key, value in said.items() if value is not None}},
        "spec": {"containers": containers, **spec},
    }
