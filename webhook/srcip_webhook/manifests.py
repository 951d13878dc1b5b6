"""Finds Pods in manifests of any kind, and writes manifests back.

A document in which nothing changes is given back as it was, to the byte; one that changes is written anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import yaml

from srcip_webhook.holders import path_of, title
from srcip_webhook.pods import lookup
from srcip_webhook.yaml_reader import Dumper, Loader

Change = Callable[[dict[str, Any], str], dict[str, Any]]
"""A Pod or Pod template and the name of the object around it → the Pod as it should be."""


class ManifestError(ValueError):
    """The text is not YAML, or not Kubernetes objects."""


@dataclass(frozen=True)
class Document:
    """One YAML document: its text and what it says."""

    text: str
    value: Any


def documents(text: str) -> list[Document]:
    """Every document of a stream: of YAML, or of JSON objects in a row. Raises ManifestError if it is neither."""
    if text.lstrip("\ufeff \t\r\n").startswith("{") and (found := _json_documents(text)):
        return found
    try:
        edges = [0, *_starts(text)[1:], len(text)]
        pieces = [text[begin:end] for begin, end in pairwise(edges)]
        return [Document(piece, yaml.load(piece, Loader)) for piece in pieces]  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ManifestError(f"not YAML: {' '.join(str(error).split())}") from None


def _json_documents(text: str) -> list[Document] | None:
    """The objects of a stream of JSON, each with the blanks behind it; None if it is not all JSON."""
    decoder, found, at = json.JSONDecoder(object_pairs_hook=_object), [], 0
    while at < len(text):
        begin = _BLANKS.match(text, at).end()  # type: ignore[union-attr]
        try:
            value, end = decoder.raw_decode(text, begin)
        except (json.JSONDecodeError, RecursionError):
            return None
        end = _BLANKS.match(text, end).end()  # type: ignore[union-attr]
        found.append(Document(text[at:end], value))
        at = end
    return found


_BLANKS = re.compile("[\ufeff \t\r\n]*")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Raises ManifestError for a key that is there twice."""
    whole = dict(pairs)
    if len(whole) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ManifestError(f'key "{twice}" is there twice in one object of JSON')
    return whole


def _starts(text: str) -> list[int]:
    """Where each document begins."""
    opened = (event for event in yaml.parse(text, Loader) if isinstance(event, yaml.DocumentStartEvent))
    return [event.start_mark.index for event in opened if event.start_mark is not None]


def dump(value: Any) -> str:
    """One document's text."""
    return yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=2**16)


def rendered(document: Document, change: Change) -> str:
    """The document with its Pods changed; its own text if none does."""
    value = changed(document.value, change)
    if value is document.value:
        return document.text
    if document.text.lstrip("\ufeff \t\r\n").startswith("{") and _json_documents(document.text):
        return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
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
    path = path_of(value)
    return value if path is None else _at(value, path, lambda pod: change(pod, title(value)))


def decoded(pod: dict[str, Any]) -> dict[str, Any]:
    """The Pod as the API server hands it to a webhook: null in a map of texts is an empty text (Go's encoding/json).
    The same object where there is none."""
    meta = pod.get("metadata")
    maps = {field: lookup(meta, field) for field in ("annotations", "labels")}
    texts = {
        field: {key: "" if text is None else text for key, text in found.items()}
        for field, found in maps.items()
        if isinstance(found, dict) and None in found.values()
    }
    return {**pod, "metadata": {**pod["metadata"], **texts}} if texts else pod


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
