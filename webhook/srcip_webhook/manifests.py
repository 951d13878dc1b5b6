"""Finds Pods in manifests of any kind, and writes manifests back.

A document in which nothing changes is given back as it was, to the byte. In one that changes, lines are added, and the
rest stays to the byte, too; where that can't be done, the document is written anew, and `Rendered` says so.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import yaml

from srcip_webhook import yaml_tree
from srcip_webhook.pod_templates import path_of, title
from srcip_webhook.pods import lookup
from srcip_webhook.yaml_edit import UnfitError, edited, same
from srcip_webhook.yaml_reader import Dumper, Loader, Twice, load, scalar
from srcip_webhook.yaml_tree import Tree


@dataclass(frozen=True)
class Place:
    """Where a Pod or a Pod template is in its document."""

    owner: str
    """`Kind/name` of the object around it."""
    path: tuple[str | int, ...]
    """The steps from the document to the Pod."""


Change = Callable[[dict[str, Any], Place], dict[str, Any]]
"""A Pod or Pod template, and where it is → the Pod as it should be."""


class ManifestError(ValueError):
    """The text is not YAML, or not Kubernetes objects. Holds a line for each fault."""


@dataclass(frozen=True)
class Fault:
    """What makes a text no manifest."""

    line: int
    """Of the stream, counted from 1."""
    message: str


@dataclass(frozen=True, eq=False)
class Document:
    """One document of a stream: its text and what it says."""

    text: str
    value: Any
    line: int = 1
    """Where its text begins in the stream."""
    faults: tuple[Fault, ...] = ()
    """Of a document with faults, `value` is what can be read all the same."""
    is_json: bool = False

    @cached_property
    def tree(self) -> Tree | None:
        """Where its parts are. Raises yaml.YAMLError."""
        return yaml_tree.read(_without_tabs(self.text) if self.is_json else self.text)


def text_of(data: bytes) -> tuple[str, tuple[Fault, ...]]:
    """The text of a file, and each line of it that is not UTF-8."""
    text = data.decode("utf-8", "surrogateescape")
    bad = {text.count("\n", 0, found.start()) + 1: ord(found[0]) - 0xDC00 for found in _UNDECODED.finditer(text)}
    faults = tuple(Fault(line, f"not UTF-8: the byte 0x{byte:02x}") for line, byte in bad.items())
    return _UNDECODED.sub("?", text), faults


_UNDECODED = re.compile("[\udc80-\udcff]")
"""What `surrogateescape` makes of bytes that are no UTF-8."""


def documents(text: str) -> list[Document]:
    """Every document of a stream: of YAML, or of JSON objects in a row. Raises ManifestError with every fault."""
    found = read(text)
    faults = [fault for document in found for fault in document.faults]
    if faults:
        raise ManifestError("\n".join(f"line {fault.line}: {fault.message}" for fault in faults))
    return found


def read(text: str) -> list[Document]:
    """Every document of a stream, with its faults."""
    if text.lstrip("\ufeff \t\r\n").startswith("{") and (found := _json_documents(text)):
        return found
    try:
        edges = [0, *_starts(text)[1:], len(text)]
    except (yaml.YAMLError, RecursionError):
        edges = [0, *(found.start() for found in _SEPARATOR.finditer(text) if found.start()), len(text)]
    return [_document(text[begin:end], text.count("\n", 0, begin) + 1) for begin, end in pairwise(edges)]


_SEPARATOR = re.compile(r"^---(?=\s|\Z)", re.MULTILINE)
"""Where a document begins, also behind one that can't be read."""


def _document(text: str, line: int) -> Document:
    try:
        value, twice = load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return Document(text, None, line, (_not_yaml(error, text, line),))
    return Document(text, value, line, _told_twice(twice, line))


def _told_twice(twice: list[Twice], line: int) -> tuple[Fault, ...]:
    said = 'duplicate key "{}", in line {} and in line {}'
    lines = [(each.name, line + each.lines[0], line + each.lines[1]) for each in twice]
    return tuple(Fault(second, said.format(name, first, second)) for name, first, second in lines)


def _not_yaml(error: Exception, text: str, line: int) -> Fault:
    if isinstance(error, yaml.MarkedYAMLError):
        said = ", ".join(part for part in (error.context, error.problem) if part)
        return Fault(line + _line_of(error, text), f"not YAML: {said.replace('<stream end>', 'the end')}")
    if isinstance(error, yaml.reader.ReaderError):
        code = int(error.character)
        return Fault(line + text.count("\n", 0, error.position), f"not YAML: the character U+{code:04X}")
    return Fault(line, f"not YAML: {' '.join(str(error).split())}")


def _line_of(error: yaml.MarkedYAMLError, text: str) -> int:
    """Where it went wrong; where the text had ended by then, the line of what was left open."""
    mark = error.problem_mark
    if mark is None or mark.index >= len(text.rstrip()):
        mark = error.context_mark or mark
    return min(mark.line if mark else 0, text.rstrip().count("\n"))


def _json_documents(text: str) -> list[Document] | None:
    """The objects of a stream of JSON, each with the blanks behind it; None if it is not all JSON."""
    decoder, found, at = json.JSONDecoder(parse_float=scalar), [], 0
    while at < len(text):
        begin = _BLANKS.match(text, at).end()  # type: ignore[union-attr]
        try:
            value, end = decoder.raw_decode(text, begin)
        except (ValueError, RecursionError):
            return None
        end = _BLANKS.match(text, end).end()  # type: ignore[union-attr]
        line = text.count("\n", 0, at) + 1
        found.append(Document(text[at:end], value, line, _twice_in_json(text[at:end], line), is_json=True))
        at = end
    return found


_BLANKS = re.compile("[\ufeff \t\r\n]*")


def _twice_in_json(text: str, line: int) -> tuple[Fault, ...]:
    """JSON is YAML, but for tabs and a few rare characters; there, the line is that of the document."""
    names: list[str] = []

    def note(pairs: list[tuple[str, Any]]) -> None:
        counts = Counter(name for name, _ in pairs)
        names.extend(name for name, count in counts.items() if count > 1)

    json.JSONDecoder(object_pairs_hook=note).raw_decode(text, _BLANKS.match(text).end())  # type: ignore[union-attr]
    if not names:
        return ()
    try:
        return _told_twice(load(_without_tabs(text))[1], line)
    except (yaml.YAMLError, ValueError, RecursionError):
        return tuple(Fault(line, f'duplicate key "{name}" in one object of JSON') for name in names)


def _without_tabs(text: str) -> str:
    """JSON with spaces for tabs, which it holds between its words alone."""
    return text.replace("\t", " ")


def _starts(text: str) -> list[int]:
    """Where each document begins."""
    opened = (event for event in yaml.parse(text, Loader) if isinstance(event, yaml.DocumentStartEvent))
    return [event.start_mark.index for event in opened if event.start_mark is not None]


def dump(value: Any) -> str:
    """One document's text."""
    return yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=2**16)


@dataclass(frozen=True)
class Rendered:
    """The text of a document with its Pods changed."""

    text: str
    is_anew: bool = False
    """The whole document was written anew, without its comments."""


def rendered(document: Document, change: Change) -> Rendered:
    """The document with its Pods changed: its own text if none does, else with the lines that change in it. One with
    faults keeps its text, though its Pods are looked at."""
    value = changed(document.value, change)
    if value is document.value or document.faults:
        return Rendered(document.text)
    text = _edited(document, value)
    return Rendered(text) if text is not None else Rendered(_written(document, value), is_anew=True)


def _edited(document: Document, value: Any) -> str | None:
    """The document's own text with some lines changed; None if that is not to be had, or would say something else."""
    try:
        tree = document.tree
        text = edited(document.text, tree, document.value, value, document.is_json) if tree else document.text
        said, twice = _json_value(text) if document.is_json else load(text)
    except (UnfitError, yaml.YAMLError, RecursionError, ValueError):
        return None
    return text if not twice and same(said, value) else None


def _json_value(text: str) -> tuple[Any, tuple[Fault, ...]]:
    (document,) = _json_documents(text) or [Document(text, None)]
    return document.value, document.faults


def _written(document: Document, value: Any) -> str:
    if document.is_json:
        return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    return ("---\n" if document.text.startswith("---") else "") + dump(value)


def changed(value: Any, change: Change, at: tuple[str | int, ...] = ()) -> Any:
    """The object with every Pod in it changed; the same object if none does. `at` leads to it from its document."""
    if not isinstance(value, dict):
        return value
    if str(value.get("kind", "")).endswith("List") and isinstance(value.get("items"), list):
        items = [changed(item, change, (*at, "items", index)) for index, item in enumerate(value["items"])]
        same = all(new is old for new, old in zip(items, value["items"], strict=True))
        return value if same else {**value, "items": items}
    path = path_of(value)
    return value if path is None else _at(value, path, lambda pod: change(pod, Place(title(value), (*at, *path))))


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


def encoded(pod: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """The reverse of `decoded`, for a Pod that was made of what `before` is decoded to."""
    for field in ("annotations", "labels"):
        found, said = lookup(pod, "metadata", field), lookup(before, "metadata", field)
        if isinstance(found, dict) and isinstance(said, dict) and None in said.values():
            nulls = {key: None for key, text in found.items() if text == "" and said.get(key, "") is None}
            pod = {**pod, "metadata": {**pod["metadata"], field: {**found, **nulls}}}
    return pod


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

    def note(pod: dict[str, Any], place: Place) -> dict[str, Any]:
        found.append((place.owner, pod))
        return pod

    for document in documents(text):
        changed(document.value, note)
    yield from found
