"""Whether a Pod can only run on Windows nodes, by any of the fields that say so."""

from __future__ import annotations

from typing import Any

from srcip_webhook import pods
from srcip_webhook.pods import Pod

OS_LABELS = ("kubernetes.io/os", "beta.kubernetes.io/os")
"""Labels of nodes (well-known labels of Kubernetes; the second one is deprecated)."""
WINDOWS = "windows"


def windows_by(pod: Pod) -> str | None:
    """The field that leads the Pod to Windows nodes, or None. Takes fields of any shape."""
    spec = pods.spec(pod)
    if pods.lookup(spec, "os", "name") == WINDOWS:
        return "spec.os.name"
    for label in OS_LABELS:
        if pods.lookup(spec, "nodeSelector", label) == WINDOWS:
            return f"spec.nodeSelector[{label}]"
    if _by_affinity(spec):
        return "spec.affinity.nodeAffinity"
    return next(
        (where for where, context in _contexts(pod) if pods.lookup(context, "windowsOptions", "hostProcess") is True),
        None,
    )


def _by_affinity(spec: dict[str, Any]) -> bool:
    """Terms are alternatives: each one must ask for Windows."""
    required = pods.lookup(spec, "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution")
    terms = _list(pods.lookup(required, "nodeSelectorTerms"))
    return bool(terms) and all(_asks_for_windows(term) for term in terms)


def _asks_for_windows(term: Any) -> bool:
    expressions = _list(pods.lookup(term, "matchExpressions"))
    return any(
        pods.lookup(one, "key") in OS_LABELS
        and pods.lookup(one, "operator") == "In"
        and pods.lookup(one, "values") == [WINDOWS]
        for one in expressions
    )


def _contexts(pod: Pod) -> list[tuple[str, Any]]:
    """The security contexts of the Pod and its containers, each with its path."""
    found: list[tuple[str, Any]] = [("spec.securityContext", pods.spec(pod).get("securityContext"))]
    for field in ("initContainers", "containers"):
        for index, container in enumerate(pods.named(pod, field)):
            found.append((f"spec.{field}[{index}].securityContext", container.get("securityContext")))
    return found


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
