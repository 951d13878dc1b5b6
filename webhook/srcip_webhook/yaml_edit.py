"""Changes a YAML or JSON document as an editor would: the lines that change, and every other byte as it is.

Comments, order, quotes, anchors and indentation are the owner's; no parser keeps them all. So the text is edited at the
places that the parser tells (yaml_tree.py). What this can't do raises UnfitError, and what it did is to be read again:
the caller compares, and has the last word.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from srcip_webhook import yaml_text
from srcip_webhook.patch import aligned
from srcip_webhook.yaml_tree import Node, Part, Tree

_REST = re.compile(r"[ \t]*(?:#[^\r\n]*)?(?:\r?\n|\Z)")
"""The rest of a line with nothing on it but a comment."""
_COMMENT = re.compile(r"(?:[ \t]*\r?\n)*( *)#[^\r\n]*(?:\r?\n|\Z)")
"""A line with a comment alone, and the empty lines before it."""
_COMMA = re.compile(r"[ \t]*,")


class UnfitError(Exception):
    """The text is written in a way that can't be edited here."""


@dataclass(frozen=True)
class Edit:
    """Replace the text between two indices."""

    start: int
    end: int
    text: str


def edited(text: str, tree: Tree, old: Any, new: Any, is_json: bool = False) -> str:
    """The text of a document that says `old`, edited to say `new`. Raises UnfitError."""
    editor = _Editor(text, tree, is_json)
    editor.change(tree.root, old, new)
    return _applied(text, [*editor.edits, *editor.aliases(tree)])


def _applied(text: str, edits: list[Edit]) -> str:
    """Edits at one place come in the order in which they were made."""
    pieces, at = [], 0
    for edit in sorted(edits, key=lambda each: (each.start, each.end)):
        if edit.start < at:
            raise UnfitError
        pieces += [text[at : edit.start], edit.text]
        at = edit.end
    return "".join([*pieces, text[at:]])


class _Editor:
    """Gathers edits; inner ones before outer ones, as new lines of both can be put at the same place."""

    def __init__(self, text: str, tree: Tree, is_json: bool) -> None:
        self.text, self.is_json, self.edits = text, is_json, list[Edit]()
        self.break_ = "\r\n" if "\r\n" in text else "\n"
        self.is_indented = next((found for node in tree.nodes() if (found := _indents(node)) is not None), False)
        self.before: dict[Node, Any] = {}
        """What changed nodes with an anchor said before: their aliases go on saying it."""
        self.replaced: set[Node] = set()

    def change(self, node: Node, old: Any, new: Any) -> None:
        """A collection whose parts change."""
        if node.anchor:
            self.before[node] = old
        if node.kind == "mapping" and isinstance(old, dict) and isinstance(new, dict):
            self._change_mapping(node, old, new)
        elif node.kind == "sequence" and isinstance(old, list) and isinstance(new, list):
            self._change_sequence(node, old, new)
        else:
            raise UnfitError

    def aliases(self, tree: Tree) -> list[Edit]:
        """Aliases of what changed become what it said before."""
        edits = []
        for alias in tree.aliases:
            if alias.target in self.before and alias not in self.replaced:
                edits.append(Edit(alias.start, alias.end, yaml_text.inline(self.before[alias.target])))
        return edits

    def _change_mapping(self, node: Node, old: dict[str, Any], new: dict[str, Any]) -> None:
        known = {part.name: part for part in node.parts}
        if any(name not in known and name not in new for name in old) or not new:
            raise UnfitError  # what a merge key brings can't be taken away
        self._remove(node, [part.name in old and part.name not in new for part in node.parts])
        for part in node.parts:
            if part.name in new and not same(old[part.name], new[part.name]):
                self._change_part(node, part, old[part.name], new[part.name])
        added = [name for name in new if name not in known and not (name in old and same(old[name], new[name]))]
        self._append(node, [yaml_text.Entry(name, new[name]) for name in added])

    def _change_sequence(self, node: Node, old: list[Any], new: list[Any]) -> None:
        if not new:
            raise UnfitError
        paired, tail = aligned(old, new)
        after = len(old) - tail
        for index in range(paired):
            self._change_item(node, index, old[index], new[index])
        self._remove(node, [paired <= index < after for index in range(len(old))])
        added = [yaml_text.Item(value) for value in new[paired : len(new) - tail]]
        if after < len(old):
            self._insert(node, after, added)
        else:
            self._append(node, added)
        for back in range(tail, 0, -1):
            self._change_item(node, len(old) - back, old[-back], new[-back])

    def _change_item(self, node: Node, index: int, old: Any, new: Any) -> None:
        if not same(old, new):
            self._change_part(node, node.parts[index], old, new)

    def _change_part(self, parent: Node, part: Part, old: Any, new: Any) -> None:
        value = part.value
        is_changed_inside = type(old) is type(new) and isinstance(new, dict | list) and new and value.parts
        if is_changed_inside and value.kind != "alias":
            self.change(value, old, new)
            return
        if value.anchor:
            self.before[value] = old
        self.replaced.add(value)
        if value.parts and not value.is_flow:
            raise UnfitError
        if value.is_flow and "#" in self.text[value.start : value.end]:
            self._fill(value, new)
        elif part.key and not parent.is_flow and isinstance(new, dict | list) and new:
            self._replace_by_lines(parent, part, new)
        else:
            behind = self.break_ if self._begins_line(value.end) and value.end > value.start else ""
            blank = (
                " " if value.start == value.end and self.text[value.start - 1 : value.start] not in (" ", "") else ""
            )
            self.edits.append(Edit(value.start, value.end, blank + self._inline(parent, new) + behind))

    def _fill(self, node: Node, new: Any) -> None:
        """Brackets that hold nothing but comments."""
        if node.parts or not isinstance(new, dict | list):
            raise UnfitError
        at = self.text.find("{" if isinstance(new, dict) else "[", node.start, node.end) + 1
        if not at:
            raise UnfitError
        self.edits.append(Edit(at, at, self._inline(node, new)[1:-1]))

    def _replace_by_lines(self, parent: Node, part: Part, new: Any) -> None:
        """A value that fits on the line of its key, such as null or an alias, by some lines below it."""
        value = part.value
        if self._begins_line(value.end) and value.end > value.start:
            raise UnfitError  # a block of text
        begin = value.start - (len(self.text[: value.start]) - len(self.text[: value.start].rstrip(" \t")))
        self.edits.append(Edit(begin if value.end > value.start else value.end, value.end, ""))
        lines = self._lines(parent, [yaml_text.Entry(part.name, new)])[1:]
        self._put_lines(self._behind_line(value.end), lines, parent.column)

    def _append(self, node: Node, added: Sequence[yaml_text.Added]) -> None:
        if added and not node.parts:
            raise UnfitError
        if added and node.is_flow:
            self._append_in_brackets(node, added)
        elif added:
            at = self._behind_comments(self._behind_line(node.end), node.column)
            self._put_lines(at, self._lines(node, added), node.column)

    def _append_in_brackets(self, node: Node, added: Sequence[yaml_text.Added]) -> None:
        end, margin, between = node.parts[-1].value.end, *self._layout(node)
        comma = _COMMA.match(self.text, end)
        at = comma.end() if comma else end
        self.edits.append(Edit(at, at, "" if comma else ","))
        rest = _REST.match(self.text, at) if margin is not None else None
        if rest and rest.end() < node.end:
            at += len(rest[0].rstrip("\r\n"))  # a comment on the last part stays on its line
        texts = [each.inline(self._is_json(node), margin) for each in added]
        self.edits.append(Edit(at, at, between + ("," + between).join(texts)))

    def _insert(self, node: Node, index: int, added: Sequence[yaml_text.Added]) -> None:
        """Before this part, and before the comments on it."""
        start = node.parts[index].start
        if node.is_flow:
            margin, between = self._layout(node)
            texts = [each.inline(self._is_json(node), margin) + "," + between for each in added]
            self.edits.append(Edit(start, start, "".join(texts)))
        elif added:
            at = self._before_comments(self._own_line(start), node.parts[index - 1].value.end if index else 0)
            self._put_lines(at, self._lines(node, added), node.column)

    def _layout(self, node: Node) -> tuple[str | None, str]:
        """What stands before each part of a collection in brackets if each has a line of its own, and between two."""
        start = node.parts[0].start
        before = self.text[self._line_start(start) : start]
        return (None, " ") if before.strip(" \t") else (before, self.break_ + before)

    def _lines(self, node: Node, added: Sequence[yaml_text.Added]) -> list[str]:
        """In the style of the neighbours, else of the document."""
        indents = _indents(node)
        is_indented = self.is_indented if indents is None else indents
        return [line for each in added for line in each.lines(is_indented)]

    def _remove(self, node: Node, gone: list[bool]) -> None:
        """The parts that are gone; neighbours in one go."""
        parts = node.parts
        for is_gone, run in groupby(range(len(parts)), key=gone.__getitem__):
            first, *_, last = [*run] * 2
            if not is_gone:
                continue
            begin, end = parts[first].start, parts[last].value.end
            if not node.is_flow:
                self.edits.append(Edit(self._own_line(begin), self._behind_line(end), ""))
            elif last + 1 < len(parts):
                self.edits.append(Edit(begin, parts[last + 1].start, ""))
            else:
                self.edits.append(Edit(parts[first - 1].value.end if first else begin, end, ""))

    def _own_line(self, at: int) -> int:
        """Where its line begins. Raises UnfitError if something else stands before it there."""
        begin = self._line_start(at)
        if self.text[begin:at].strip(" "):
            raise UnfitError
        return begin

    def _put_lines(self, at: int, lines: list[str], column: int) -> None:
        text = "".join((" " * column + line if line else line) + self.break_ for line in lines)
        if at and self.text[at - 1] != "\n":  # behind the last line, which no line break ends
            text = self.break_ + text.removesuffix(self.break_)
        self.edits.append(Edit(at, at, text))

    def _behind_line(self, at: int) -> int:
        """Where the line behind this place begins. Raises UnfitError if there is something on the rest of its line."""
        if self._begins_line(at):
            return at
        rest = _REST.match(self.text, at)
        if not rest:
            raise UnfitError
        return rest.end()

    def _behind_comments(self, at: int, column: int) -> int:
        """Behind those that are indented deeper than this column: they are about what stands before."""
        while (comment := _COMMENT.match(self.text, at)) and len(comment[1]) > column:
            at = comment.end()
        return at

    def _before_comments(self, at: int, least: int) -> int:
        """Before the comments directly above this line, none of them before `least`."""
        while (
            (above := self._line_start(at - 1)) >= least and above < at and self.text[above:at].lstrip(" ")[:1] == "#"
        ):
            at = above
        return at

    def _begins_line(self, at: int) -> bool:
        return at == 0 or self.text[at - 1] == "\n"

    def _line_start(self, at: int) -> int:
        return self.text.rfind("\n", 0, max(at, 0)) + 1

    def _inline(self, parent: Node, value: Any) -> str:
        return yaml_text.json_inline(value) if self._is_json(parent) else yaml_text.inline(value)

    def _is_json(self, node: Node) -> bool:
        """Whether what stands in these brackets is written as in JSON, keys in quotes."""
        first = node.parts[0] if node.is_flow and node.parts else None
        if first and not first.key and first.value.parts:
            first = first.value.parts[0]
        return self.is_json or (first is not None and self.text[first.start] == '"')


def _indents(node: Node) -> bool | None:
    """Whether a mapping has sequences that stand deeper than their keys; None if it has none on lines of their own."""
    if node.kind != "mapping" or node.is_flow:
        return None
    values = (part.value for part in node.parts)
    columns = (value.column for value in values if value.kind == "sequence" and not value.is_flow)
    return next((column > node.column for column in columns), None)


def _is_nan(*values: Any) -> bool:
    return all(isinstance(value, float) and math.isnan(value) for value in values)


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal in JSON, where true is not 1."""
    if one is other:
        return True
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return isinstance(one, bool) is isinstance(other, bool) and (bool(one == other) or _is_nan(one, other))
