"""Finds Pods in manifests of any kind, and writes manifests back.

A document in which nothing changes is given back as it was, to the byte; one that changes is written anew.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import yaml

_TEMPLATE = ("spec", "template")
PATHS: dict[tuple[str, str], tuple[str, ...]] = {
    ("", "Pod"): (),
    ("", "PodTemplate"): ("template",),
    ("", "ReplicationController"): _TEMPLATE,
    ("apps", "Deployment"): _TEMPLATE,
    ("apps", "StatefulSet"): _TEMPLATE,
    ("apps", "DaemonSet"): _TEMPLATE,
    ("apps", "ReplicaSet"): _TEMPLATE,
    ("batch", "Job"): _TEMPLATE,
    ("batch", "CronJob"): ("spec", "jobTemplate", "spec", "template"),
}
"""Where an object of this API group and kind holds its Pod."""

Change = Callable[[dict[str, Any], str], dict[str, Any]]
"""A Pod or Pod template and the name of the object around it → the Pod as it should be."""


class ManifestError(ValueError):
    """The text is not YAML, or not Kubernetes objects."""


@dataclass(frozen=True)
class Document:
    """One YAML document: its text and what it says."""

    text: str
    value: Any


class _Loader(yaml.SafeLoader):
    """YAML as Kubernetes reads it: dates are plain strings."""


class _Dumper(yaml.SafeDumper):
    """YAML that every reader of Kubernetes reads alike."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = None
    if _BREAKS.search(value):
        style = '"'
    elif "\n" in value and not _AWKWARD.search(value):
        style = "|"
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_BREAKS = re.compile("[\\x85\\u2028\\u2029]")
"""Line breaks of YAML 1.1, which readers fold into spaces unless they are escaped."""
_AWKWARD = re.compile(r"[^\x20-\x7e\n]|[ ]\n|^[ \n]")
"""What a literal block can't hold, or not readably."""
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|0o[0-7]+")
"""Numbers of YAML 1.2 that PyYAML would write as plain text, such as 1e3."""

_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Dumper.add_representer(str, _text)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"^(?:{_NUMBER.pattern})$"), list("-+.0123456789"))


def documents(text: str) -> list[Document]:
    """Every document of a stream. Raises ManifestError if it is not YAML."""
    try:
        edges = [0, *_starts(text)[1:], len(text)]
        pieces = [text[begin:end] for begin, end in pairwise(edges)]
        return [Document(piece, yaml.load(piece, _Loader)) for piece in pieces]  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ManifestError(f"not YAML: {' '.join(str(error).split())}") from None


def _starts(text: str) -> list[int]:
    """Where each document begins."""
    opened = (event for event in yaml.parse(text, _Loader) if isinstance(event, yaml.DocumentStartEvent))
    return [event.start_mark.index for event in opened if event.start_mark is not None]


def dump(value: Any) -> str:
    """One document's text."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**16)


def rendered(document: Document, change: Change) -> str:
    """The document with its Pods changed; its own text if none does."""
    value = changed(document.value, change)
    if value is document.value:
        return document.text
    head = "---\n" if document.text.startswith("---") else ""
    return head + dump(value)


def changed(value: Any, change: Change) -> Any:
    """The object with every Pod in it changed; the same object if none does."""
    if not isinstance(value, dict):
        return value
    if str(value.get("kind", "")).endswith("List") and isinstance(value.get("items"), list):
        items = [changed(item, change) for item in value["items"]]
        same = all(new is old for new, old in zip(items, value["items"], strict=True))
        return value if same else {**value, "items": items}
    path = PATHS.get((_group(value), str(value.get("kind"))))
    return value if path is None else _at(value, path, lambda pod: change(pod, title(value)))


def _group(value: dict[str, Any]) -> str:
    return str(value.get("apiVersion", "")).rpartition("/")[0]


def title(value: dict[str, Any]) -> str:
    """`Kind/name` of an object."""
    meta = value.get("metadata")
    name = (meta.get("name") or meta.get("generateName")) if isinstance(meta, dict) else None
    return f"{value.get('kind')}/{name or '(no name)'}"


def _at(node: Any, path: tuple[str, ...], change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    if not path:
        return change(node) if isinstance(node, dict) else node
    if not isinstance(node, dict) or path[0] not in node:
        return node
    inner = _at(node[path[0]], path[1:], change)
    return node if inner is node[path[0]] else {**node, path[0]: inner}


def pods_in(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every Pod and Pod template of a stream, with the `Kind/name` of the object around it."""
    found: list[tuple[str, dict[str, Any]]] = []

    def note(pod: dict[str, Any], owner: str) -> dict[str, Any]:
        found.append((owner, pod))
        return pod

    for document in documents(text):
        changed(document.value, note)
    yield from found
