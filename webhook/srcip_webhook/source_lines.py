"""The line of a manifest that a sentence is about.

Sentences about a Pod begin with what they are about: an annotation, or the path of a field. Where that is not in the
manifest, the line is the one that comes nearest: of the Pod's annotations, or of the Pod.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import yaml

from srcip_webhook.annotation_rows import PREFIX
from srcip_webhook.manifests import Document
from srcip_webhook.yaml_tree import Node, Part, Tree

Path = Sequence[str | int]

_ANNOTATION = re.compile(re.escape(PREFIX) + r"[A-Za-z0-9._-]+")
_LABEL = re.compile(rf"label ({_ANNOTATION.pattern})")
_FIELD = re.compile(r'(?:Pod\.)?((?:metadata|spec)(?:\.\w+|\[[0-9]+\]|\["[^"]*"\])*)')
_STEP = re.compile(r'\[([0-9]+)\]|\["([^"]*)"\]|(\w+)')


def line_of(document: Document, pod: Path, sentence: str) -> int:
    """A line of the stream, counted from 1. `pod` leads from the document to the Pod."""
    return line_at(document, (*pod, *_steps(sentence)))


def line_at(document: Document, path: Path) -> int:
    """The line of the deepest part of a document that is on this path."""
    tree = _tree(document)
    line, node = 0, tree.root if tree else None
    for step in path:
        part = _part(node, step)
        if part is None:
            break
        line, node = part.line, part.value
    return document.line + line


def _part(node: Node | None, step: str | int) -> Part | None:
    node = node.target if node and node.target else node
    if node is None:
        return None
    names = range(len(node.parts)) if node.kind == "sequence" else [part.name for part in node.parts]
    return next((part for name, part in zip(names, node.parts, strict=True) if name == step), None)


def _tree(document: Document) -> Tree | None:
    try:
        return document.tree
    except (yaml.YAMLError, RecursionError):
        return None


def _steps(sentence: str) -> tuple[str | int, ...]:
    if found := _ANNOTATION.match(sentence):
        return ("metadata", "annotations", found[0])
    if found := _LABEL.match(sentence):
        return ("metadata", "labels", found[1])
    if found := _FIELD.match(sentence):
        return tuple(int(number) if number else key or name for number, key, name in _STEP.findall(found[1]))
    return ()
