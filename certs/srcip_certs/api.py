"""How this program names itself to the API server, and where its object is there."""

from __future__ import annotations

from collections.abc import Callable

from srcip_kube.client import Kube

FIELD_MANAGER = "srcip-certs"
CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"


def kube(timeout_s: float, heard: Callable[[float, float, float], object] | None = None) -> Kube:
    """A client; `heard` as in Kube."""
    return Kube(FIELD_MANAGER, timeout_s, heard)
