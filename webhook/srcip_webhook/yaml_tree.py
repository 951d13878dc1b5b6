"""Where each part of a YAML document stands in its text.

An edit that leaves everything else as it is needs these places; the values that a reader makes don't have them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from srcip_webhook.yaml_reader import MERGE, STR, Loader, json_key, scalar, tag_of


@dataclass(eq=False)
class Node:
    """A scalar, a mapping, a sequence or an alias. Places are indices into the document's text."""

    kind: str
    start: int
    """Of its first character; an anchor or a tag before it is part of it."""
    end: int
    """Behind its last character. A block collection ends with its last part: comments behind it are not its own."""
    column: int
    """Where its parts begin in their lines, if it is a block collection."""
    is_flow: bool = False
    """Written in brackets or braces."""
    parts: list[Part] = field(default_factory=list)
    anchor: str | None = None
    target: Node | None = None
    """What an alias stands for."""


@dataclass(eq=False)
class Part:
    """An entry of a mapping, or an item of a sequence."""

    start: int
    """Of the key, of the dash, or of an item in brackets."""
    line: int
    """Counted from 0."""
    value: Node
    key: Node | None = None
    name: Any = None
    """What the key is in JSON; MERGE for `<<`, None where it can be no key of JSON."""


@dataclass(frozen=True)
class Tree:
    """One document."""

    root: Node
    aliases: tuple[Node, ...]

    def nodes(self) -> Iterator[Node]:
        """All collections and scalars, each before its parts. What an alias stands for is not one of its parts."""
        left = [self.root]
        while left:
            node = left.pop()
            yield node
            left += [part.value for part in reversed(node.parts)]


class _Marking(Loader):
    """Notes where the dashes of sequences are; the parser forgets it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.dashes: list[tuple[int, int]] = []
        """Index and column of each."""

    def fetch_block_entry(self) -> None:
        self.dashes.append((self.index, self.column))
        super().fetch_block_entry()

    def next(self) -> Any:
        return self.get_event()  # type: ignore[no-untyped-call]


def read(text: str) -> Tree | None:
    """The tree of the only document of this text; None if there is none. Raises yaml.YAMLError."""
    loader = _Marking(text)
    loader.next()
    if isinstance(loader.next(), yaml.StreamEndEvent):
        return None
    builder = _Builder(loader)
    return Tree(builder.node(loader.next()), tuple(builder.aliases))


_KINDS: dict[type[yaml.Event], str] = {
    yaml.ScalarEvent: "scalar",
    yaml.MappingStartEvent: "mapping",
    yaml.SequenceStartEvent: "sequence",
    yaml.AliasEvent: "alias",
}


class _Builder:
    def __init__(self, loader: _Marking) -> None:
        self.loader = loader
        self.anchors: dict[str, Node] = {}
        self.names: dict[Node, Any] = {}
        self.aliases: list[Node] = []

    def node(self, event: Any) -> Node:
        made = Node(_KINDS[type(event)], event.start_mark.index, event.end_mark.index, event.start_mark.column)
        if made.kind == "alias":
            made.target = self.anchors[event.anchor]
            self.aliases.append(made)
            return made
        made.anchor = event.anchor
        if made.anchor:
            self.anchors[made.anchor] = made
        if made.kind == "scalar":
            self.names[made] = self._name(event)
            return made
        made.is_flow = bool(event.flow_style)
        if made.kind == "mapping":
            self._fill(made, yaml.MappingEndEvent, self._entry)
        else:
            self._fill(made, yaml.SequenceEndEvent, self._item)
        return made

    def _fill(self, node: Node, last: type[yaml.Event], part: Callable[[Node, Any], Part]) -> None:
        while not self.loader.check_event(last):
            node.parts.append(part(node, self.loader.next()))
        end = self.loader.next().end_mark.index
        node.end = node.parts[-1].value.end if node.parts and not node.is_flow else end

    def _entry(self, node: Node, event: Any) -> Part:
        key, mark = self.node(event), event.start_mark
        node.column = node.column if node.parts else mark.column
        name = self.names.get(key.target or key)
        return Part(mark.index, mark.line, self.node(self.loader.next()), key, name)

    def _item(self, node: Node, event: Any) -> Part:
        item, mark = self.node(event), event.start_mark
        if node.is_flow:
            return Part(mark.index, mark.line, item)
        dash, column = self.loader.dashes[bisect_left(self.loader.dashes, (mark.index, 0)) - 1]
        node.column = node.column if node.parts else column
        return Part(dash, mark.line, item)

    def _name(self, event: Any) -> Any:
        given = event.tag or self.loader.resolve(yaml.ScalarNode, event.value, event.implicit)
        tag = tag_of(yaml.ScalarNode, given)
        if tag == STR:
            return event.value
        return MERGE if tag == MERGE else json_key(scalar(event.value))
