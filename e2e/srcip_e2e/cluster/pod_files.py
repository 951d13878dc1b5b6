"""What a container of `cluster.podrunner` is given: its environment, and the directories that are its volumes."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote

from srcip_e2e.cluster.api import Api, Json
from srcip_e2e.cluster.controlplane_network import API_IP
from srcip_lab.errors import LabError

_REFERENCE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")
_ENTRY = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")


def environment(api: Api, pod: Json, container: Json, ip: str) -> dict[str, str]:
    """The variables of a container. Raises LabError for a source that is not known here."""
    found = {"HOSTNAME": pod["metadata"]["name"]}
    if container.get("envFrom"):
        raise LabError(f"container {container['name']}: envFrom is not known to this runner")
    for variable in container.get("env") or []:
        value = variable.get("value")
        if value is None and "valueFrom" in variable:
            value = _value_from(api, pod, container, variable, ip)
        found[variable["name"]] = expand(value or "", found)
    return found


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace each $(NAME) that is known, as kubelet does in values, commands and arguments."""
    return _REFERENCE.sub(lambda match: variables.get(match[1], match[0]), text)


def _value_from(api: Api, pod: Json, container: Json, variable: Json, ip: str) -> str:
    source = variable["valueFrom"]
    if "fieldRef" in source:
        return field(pod, source["fieldRef"]["fieldPath"], ip)
    for kind, path in (("secretKeyRef", "secrets"), ("configMapKeyRef", "configmaps")):
        if kind in source:
            return _content(api, pod, path, source[kind]["name"])[source[kind]["key"]].decode()
    raise LabError(f"container {container['name']}: variable {variable['name']}: {source} is not known to this runner")


def field(pod: Json, path: str, ip: str) -> str:
    """A field of the Pod as the downward API gives it."""
    if match := _ENTRY.fullmatch(path):
        return str((pod["metadata"].get(match[1]) or {}).get(match[2], ""))
    simple = {
        **{f"metadata.{name}": pod["metadata"][name] for name in ("name", "namespace", "uid")},
        "spec.nodeName": "srcip-cp",
        "spec.serviceAccountName": pod["spec"].get("serviceAccountName", "default"),
        **{f"status.{name}": ip for name in ("podIP", "podIPs")},
        **{f"status.{name}": API_IP for name in ("hostIP", "hostIPs")},
    }
    if path not in simple:
        raise LabError(f"Pod {pod['metadata']['name']}: field {path!r} is not known; allowed: {', '.join(simple)}")
    return str(simple[path])


def volumes(api: Api, pod: Json, directory: Path, owner: int, ip: str) -> dict[str, Path]:
    """Make a directory for each volume, with files that `owner` can read. Raises LabError for an unknown kind."""
    places = {}
    for volume in pod["spec"].get("volumes") or []:
        place = places[volume["name"]] = directory / volume["name"]
        place.mkdir(parents=True)
        kind = next((kind for kind in _KINDS if kind in volume), None)
        if kind is None:
            raise LabError(f"volume {volume['name']}: its kind is not known to this runner; it knows {tuple(_KINDS)}")
        if kind == "emptyDir":
            place.chmod(0o777)
        for name, content in _KINDS[kind](api, pod, volume[kind], ip).items():
            _write(place / name, content, owner)
    return places


def _write(path: Path, content: bytes, owner: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(content)
    os.chown(path, owner, owner)


Files = dict[str, bytes]


def _projected(api: Api, pod: Json, source: Json, ip: str) -> Files:
    files: Files = {}
    for each in source["sources"]:
        for kind, read in _SOURCES.items():
            if kind in each:
                files |= read(api, pod, each[kind], ip)
    return files


def _token(api: Api, pod: Json, source: Json, _ip: str) -> Files:
    """A token bound to the Pod, asked for as kubelet does; it is not renewed here."""
    meta, account = pod["metadata"], pod["spec"].get("serviceAccountName", "default")
    bound = {"kind": "Pod", "apiVersion": "v1", "name": meta["name"], "uid": meta["uid"]}
    spec: Json = {"boundObjectRef": bound, "expirationSeconds": source.get("expirationSeconds", 3600)}
    if source.get("audience"):
        spec["audiences"] = [source["audience"]]
    path = f"/api/v1/namespaces/{meta['namespace']}/serviceaccounts/{quote(account)}/token"
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    return {source["path"]: api.post(path, body)["status"]["token"].encode()}


def _downward(_api: Api, pod: Json, source: Json, ip: str) -> Files:
    return {each["path"]: field(pod, each["fieldRef"]["fieldPath"], ip).encode() for each in source["items"]}


def _items(kind: str, name: str) -> Callable[[Api, Json, Json, str], Files]:
    def read(api: Api, pod: Json, source: Json, _ip: str) -> Files:
        content = _content(api, pod, kind, source[name])
        wanted = source.get("items") or [{"key": key, "path": key} for key in content]
        return {each["path"]: content[each["key"]] for each in wanted}

    return read


def _content(api: Api, pod: Json, kind: str, name: str) -> Files:
    """The data of a Secret or ConfigMap in the Pod's namespace."""
    found = api.get(f"/api/v1/namespaces/{pod['metadata']['namespace']}/{kind}/{name}").get("data") or {}
    return {key: base64.b64decode(text) if kind == "secrets" else text.encode() for key, text in found.items()}


_SOURCES = {
    "serviceAccountToken": _token,
    "downwardAPI": _downward,
    "configMap": _items("configmaps", "name"),
    "secret": _items("secrets", "name"),
}
_KINDS = {
    "emptyDir": lambda *_: {},
    "projected": _projected,
    "downwardAPI": _downward,
    "configMap": _items("configmaps", "name"),
    "secret": _items("secrets", "secretName"),
}
