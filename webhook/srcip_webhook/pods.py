"""Reads what the webhook needs out of a Pod that stays a plain dict.

`shape_errors` comes first: it checks the type of everything that is read later, so that the readers below may trust
what they meet. Fields it does not name are never looked at and pass through untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from operator import is_
from typing import Any

Pod = dict[str, Any]
Container = dict[str, Any]

PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
HOOKS = ("postStart", "preStop")
HANDLERS = ("httpGet", "tcpSocket", "grpc")


@dataclass(frozen=True)
class DeclaredPort:
    """One entry of a container's `ports`."""

    container: str
    number: int
    name: str
    protocol: str
    host_port: int


@dataclass(frozen=True)
class _Port:
    """A port number; `named` also allows a container port's name."""

    named: bool = False

    def error(self, value: Any) -> str | None:
        if type(value) is int and 1 <= value <= 65535:
            return None
        if self.named and type(value) is str:
            return None
        return "is not a port number from 1 to 65535" + (" or the name of a port" if self.named else "")


_TEXTS = {"*": str}
_HANDLER = {
    "httpGet": {"port": _Port(named=True), "host": str},
    "tcpSocket": {"port": _Port(named=True), "host": str},
    "grpc": {"port": _Port()},
}
_SECURITY = {"runAsUser": int}
_RESOURCES = {"requests": {"*": (str, int, float)}, "limits": {"*": (str, int, float)}}
_CONTAINER = {
    "name": str,
    "restartPolicy": str,
    "ports": [{"containerPort": _Port(), "name": str, "protocol": str, "hostPort": int}],
    "securityContext": _SECURITY,
    "resources": _RESOURCES,
    "lifecycle": dict.fromkeys(HOOKS, _HANDLER),
    **dict.fromkeys(PROBES, _HANDLER),
}
_POD = {
    "metadata": {"name": str, "generateName": str, "namespace": str, "annotations": _TEXTS, "labels": _TEXTS},
    "spec": {
        "containers": [_CONTAINER],
        "initContainers": [_CONTAINER],
        "volumes": [{"name": str}],
        "nodeSelector": _TEXTS,
        "securityContext": _SECURITY,
        "resources": _RESOURCES,
        "os": {"name": str},
        "hostNetwork": bool,
        "shareProcessNamespace": bool,
    },
}
_WORDS = {str: "a string", int: "an integer", bool: "true or false", (str, int, float): "a quantity"}


def shape_errors(pod: Any) -> list[str]:
    """Each field of the wrong type, as `path: value is not …`; a field that is absent or null is fine."""
    return ["Pod" + error for error in (_POD_CHECK(pod) if pod is not None else ())]


Check = Callable[[Any], Sequence[str]]
"""The errors at and below a value that is not null. Paths are put together on the way back: a good Pod costs little."""


def _check(shape: Any) -> Check:
    """A shape as a function, made once: a large Pod has some hundred thousand values."""
    if isinstance(shape, dict):
        return _check_map(shape["*"]) if "*" in shape else _check_object(shape)
    if isinstance(shape, list):
        return _check_list(_check(shape[0]))
    if isinstance(shape, _Port):
        return lambda value: (f": {printable(value)} {error}",) if (error := shape.error(value)) else ()
    types = shape if isinstance(shape, tuple) else (shape,)
    return lambda value: () if type(value) in types else (f": {printable(value)} is not {_WORDS[shape]}",)


def _check_object(shape: dict[str, Any]) -> Check:
    checks = {key: _check(inner) for key, inner in shape.items()}

    def check(value: Any) -> Sequence[str]:
        if not isinstance(value, dict):
            return (f": {printable(value)} is not an object",)
        errors: list[str] = []
        for key, inner in checks.items():
            if (item := value.get(key)) is not None and (found := inner(item)):
                errors += [f".{key}{error}" for error in found]
        return errors

    return check


def _check_map(shape: Any) -> Check:
    """A map of names of the owner's choice; a text in it must not be null."""
    inner, is_text = _check(shape), shape is str

    def check(value: Any) -> Sequence[str]:
        if not isinstance(value, dict):
            return (f": {printable(value)} is not an object",)
        errors: list[str] = []
        for key, item in value.items():
            if item is None:
                found: Sequence[str] = (": null is not a string",) if is_text else ()
            else:
                found = inner(item)
            hint = "; quote it" if found and is_text and isinstance(item, bool | int | float) else ""
            errors += [f"[{printable(key)}]{error}{hint}" for error in found]
        return errors

    return check


def _check_list(inner: Check) -> Check:
    def check(value: Any) -> Sequence[str]:
        if not isinstance(value, list):
            return (f": {printable(value)} is not a list",)
        errors: list[str] = []
        for index, item in enumerate(value):
            if found := (": null is not an object",) if item is None else inner(item):
                errors += [f"[{index}]{error}" for error in found]
        return errors

    return check


_POD_CHECK = _check(_POD)
_check_leaf = cache(_check)
"""Of a type, a port or several types: made once, as there are few."""


def fitting(pod: Any) -> Any:
    """The Pod without what `shape_errors` names; the same object if that is nothing."""
    return _fitting(pod, _POD)


def _fitting(value: Any, shape: Any) -> Any:
    """None where the value itself has the wrong type, or is null."""
    if isinstance(shape, dict):
        return _fitting_object(value, shape) if isinstance(value, dict) else None
    if isinstance(shape, list):
        if not isinstance(value, list):
            return None
        items = [fit for item in value if (fit := _fitting(item, shape[0])) is not None]
        return value if len(items) == len(value) and all(map(is_, items, value)) else items
    return None if value is None or _check_leaf(shape)(value) else value


def _fitting_object(value: dict[str, Any], shape: dict[str, Any]) -> dict[str, Any]:
    others = shape.get("*")
    found = {}
    for key, item in value.items():
        wanted = shape.get(key, others)
        fit = item if item is None or wanted is None else _fitting(item, wanted)
        if fit is not None or (item is None and others is not str):
            found[key] = fit
    return value if len(found) == len(value) and all(found[key] is value[key] for key in found) else found


def printable(value: Any, limit: int = 60) -> str:
    """A foreign value for a message or a log line: in quotes if text, ASCII, one line, at most about `limit` long."""
    if isinstance(value, str):
        cut = value[:limit] + ("..." if len(value) > limit else "")
        return '"' + cut.encode("unicode_escape").decode("ascii").replace('"', '\\"') + '"'
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    words = {True: "true", False: "false", None: "null"}
    return words[value] if value is None or isinstance(value, bool) else repr(value)[:limit]


def lookup(node: Any, *steps: str) -> Any:
    """What is at these steps into something of any shape; None if there is nothing."""
    for step in steps:
        node = node.get(step) if isinstance(node, dict) else None
    return node


def metadata(pod: Pod) -> dict[str, Any]:
    return pod.get("metadata") or {}


def spec(pod: Pod) -> dict[str, Any]:
    return pod.get("spec") or {}


def annotations_of(pod: Pod) -> dict[str, str]:
    return metadata(pod).get("annotations") or {}


def labels_of(pod: Pod) -> dict[str, str]:
    return metadata(pod).get("labels") or {}


def named(pod: Pod, field: str) -> list[dict[str, Any]]:
    """The list `field` of the spec (containers, initContainers, volumes); empty if absent."""
    return spec(pod).get(field) or []


def has_resources(pod: Pod) -> bool:
    """Whether the Pod as a whole has requests or limits, which those of its containers together must not exceed."""
    resources = spec(pod).get("resources") or {}
    return bool(resources.get("requests") or resources.get("limits"))


def is_sidecar(container: Container) -> bool:
    """A native sidecar: an init container that stays."""
    return container.get("restartPolicy") == "Always"


def listeners(pod: Pod) -> list[Container]:
    """The containers that run beside the sidecar and may listen: the apps and the native sidecars."""
    return [c for c in named(pod, "initContainers") if is_sidecar(c)] + named(pod, "containers")


def declared_ports(pod: Pod) -> list[DeclaredPort]:
    """Every port that a listener declares, whatever its protocol."""
    return [port for container in listeners(pod) for port in ports_of(container)]


def ports_of(container: Container) -> list[DeclaredPort]:
    owner = container.get("name") or ""
    return [
        DeclaredPort(
            container=owner,
            number=port["containerPort"],
            name=port.get("name") or "",
            protocol=port.get("protocol") or "TCP",
            host_port=port.get("hostPort") or 0,
        )
        for port in container.get("ports") or []
        if port.get("containerPort")
    ]
