"""YAML as Kubernetes' own tools read and write it: sigs.k8s.io/yaml, whose plain scalars are those of go-yaml v2.

PyYAML follows YAML 1.1 to the letter: `22:22` is a number there, and `y` is a text. A manifest must mean to srcip what
it means to kubectl and the API server, and what srcip writes must be read by both alike. The rules are in resolve.go of
goyaml.v2; tests compare them with kubectl's answers.
"""

from __future__ import annotations

import math
import re
from base64 import b64decode
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import yaml

STR, INT, FLOAT, BOOL, NULL, MERGE, BINARY, MAP, SEQ = (
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "merge", "binary", "map", "seq")
)
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
}
_INTEGER = re.compile(r"([-+]?)(0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO]?[0-7]+|[1-9][0-9]*|0)", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_LARGEST = 2**64
_EXACT = 1e21
"""Go writes whole numbers below it without a point, so that `1000.0` is an integer in JSON (RFC 8785's form)."""


def scalar(text: str) -> Any:
    """What a plain scalar means: a text, a number, true, false or null."""
    if text in _WORDS:
        return _WORDS[text]
    if text[:1] not in "+-.0123456789":
        return text
    plain = text if text[0] == "." else text.replace("_", "")
    value: Any = _integer(plain)
    if value is None and _FLOAT.fullmatch(plain):
        value = _float(plain)
    return text if value is None else value


def _integer(plain: str) -> int | None:
    """As strconv.ParseInt does with base 0, and ParseUint for what is larger."""
    found = _INTEGER.fullmatch(plain)
    if not found:
        return None
    digits = found[2]
    base = {"0x": 16, "0b": 2, "0o": 8}.get(digits[:2].lower(), 8 if digits[0] == "0" else 10)
    value = int(digits, base) * (-1 if found[1] == "-" else 1)
    return value if -_LARGEST // 2 <= value < (_LARGEST // 2 if found[1] == "+" else _LARGEST) else None


def _float(plain: str) -> float | int | None:
    value = float(plain)
    if math.isinf(value):
        return None
    return int(value) if value.is_integer() and abs(value) < _EXACT else value


def _tag(text: str) -> str:
    if text == "<<":
        return MERGE
    value = scalar(text)
    if value is None or isinstance(value, bool):
        return NULL if value is None else BOOL
    return {str: STR, int: INT, float: FLOAT}[type(value)]


def json_key(value: Any) -> Any:
    """A key of JSON, as sigs.k8s.io/yaml makes it of one that is no text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


class Loader(yaml.SafeLoader):
    """Reads one document."""

    ESCAPE_REPLACEMENTS: ClassVar = {**yaml.SafeLoader.ESCAPE_REPLACEMENTS, "'": "'"}  # type: ignore[misc]

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.complete: dict[str, bool] = {}
        """Whether the node of each anchor has been read to its end."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        """The type of a scalar without a tag."""
        if kind is yaml.ScalarNode and implicit[0]:
            return _tag(value)
        return str(super().resolve(kind, value, implicit))  # type: ignore[no-untyped-call]

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """A node. As for kubectl, an anchor may be given again, and one that contains its own alias is an error."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        is_alias, name = isinstance(event, yaml.AliasEvent), event.anchor
        if is_alias and not self.complete.get(name, True):
            raise yaml.composer.ComposerError(None, None, f'anchor "{name}" contains itself', event.start_mark)
        if not is_alias and name is not None:
            self.anchors.pop(name, None)
            self.complete[name] = False
        node = super().compose_node(parent, index)
        if not is_alias and name is not None:
            self.complete[name] = True
        if node is not None and not is_alias:
            node.tag = tag_of(type(node), node.tag)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping with texts for keys."""
        return {json_key(key): value for key, value in super().construct_mapping(node, deep).items()}

    def scan_to_next_token(self) -> None:
        """Tabs separate as spaces do where no indentation is, as in go-yaml; PyYAML takes them nowhere."""
        super().scan_to_next_token()
        while self.peek() == "\t" and (self.flow_level or not self.allow_simple_key):
            self.forward()
            super().scan_to_next_token()

    def scan_plain_spaces(self, indent: int, start_mark: yaml.Mark) -> list[str]:
        """A tab between two words of a plain scalar is one of its characters; behind its last word it is not."""
        length = 0
        while self.peek(length) in " \t":
            length += 1
        blanks, behind = self.prefix(length), self.peek(length)
        if "\t" not in blanks:
            return list(super().scan_plain_spaces(indent, start_mark) or ())
        self.forward(length)
        if behind in "\0\r\n#":
            return list(super().scan_plain_spaces(indent, start_mark) or ())
        return [blanks]

    def scan_block_scalar_indicators(self, start_mark: yaml.Mark) -> tuple[bool | None, int | None]:
        """What follows `|` or `>`, and then a tab, which PyYAML takes for another indicator."""
        length = 0
        while self.peek(length) in "+-123456789":
            length += 1
        if self.peek(length) == "\t":
            at = self.pointer + length
            self.buffer = f"{self.buffer[:at]} {self.buffer[at + 1 :]}"
        return super().scan_block_scalar_indicators(start_mark)

    def scan_block_scalar_ignored_line(self, start_mark: yaml.Mark) -> None:
        """The rest of their line."""
        while self.peek() in " \t":
            self.forward()
        super().scan_block_scalar_ignored_line(start_mark)


@dataclass(frozen=True)
class Twice:
    """A key that one mapping holds more than once; kubectl refuses it."""

    name: str
    lines: tuple[int, int]
    """Of the first one and of another, counted from 0."""


def load(text: str) -> tuple[Any, list[Twice]]:
    """What the only document of a text says (the last of two equal keys counts), and its equal keys.
    Raises yaml.YAMLError, RecursionError and ValueError."""
    loader = Loader(text)
    node = loader.get_single_node()
    if node is None:
        return None, []
    if _values(node, {}) > MOST_VALUES:
        raise ValueError(f"its aliases stand for more than {MOST_VALUES} values")
    twice = sorted(_twice(node), key=lambda each: each.lines[1])
    return loader.construct_document(node), twice


MOST_VALUES = 4_000_000
"""Of one document, aliases written out. kubectl stops near it, too (allowedAliasRatio in decode.go of goyaml.v2)."""


def _values(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values there are at and below a node."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        parts = [each for pair in node.value for each in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_values(each, known) for each in parts)
    return known[id(node)]


def _twice(root: yaml.Node) -> Iterator[Twice]:
    left, seen = [root], set[int]()
    while left:
        node = left.pop()
        if id(node) in seen or isinstance(node, yaml.ScalarNode):
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            yield from _twice_in(node)
            left += [each for pair in node.value for each in pair]
        else:
            left += node.value


def _twice_in(node: yaml.MappingNode) -> Iterator[Twice]:
    first: dict[Any, int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
            continue
        name, line = key.value if key.tag == STR else json_key(scalar(key.value)), key.start_mark.line
        if name in first:
            yield Twice(name, (first[name], line))
        first.setdefault(name, line)


def tag_of(kind: type[yaml.Node], tag: str) -> str:
    """The tag that counts. As for kubectl, a collection is what it looks like, a scalar with a strange tag a text."""
    if kind is yaml.ScalarNode:
        return tag if tag in (INT, FLOAT, BOOL, NULL, MERGE, BINARY) else STR
    return MAP if kind is yaml.MappingNode else SEQ


_TYPES: dict[str, type | tuple[type, ...]] = {INT: int, FLOAT: (int, float), BOOL: bool, NULL: type(None)}


def _scalar(loader: Loader, node: yaml.ScalarNode) -> Any:
    """Raises yaml.YAMLError where the tag asks for something else, and for numbers that JSON does not have."""
    value = scalar(node.value)
    is_bool = isinstance(value, bool)
    if not isinstance(value, _TYPES[node.tag]) or (is_bool and node.tag != BOOL):
        problem = f'"{node.value}" is no {node.tag.rpartition(":")[2]}'
    elif isinstance(value, float) and not math.isfinite(value):
        problem = f"{node.value} is no number of JSON"
    else:
        return value
    raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _binary(loader: Loader, node: yaml.ScalarNode) -> str:
    """Text in base64. Raises yaml.YAMLError."""
    try:
        return b64decode("".join(node.value.split()), validate=True).decode()
    except ValueError as error:
        raise yaml.constructor.ConstructorError(None, None, f"!!binary: {error}", node.start_mark) from None


for _each in _TYPES:
    Loader.add_constructor(_each, _scalar)
Loader.add_constructor(BINARY, _binary)
Loader.add_constructor(MERGE, lambda loader, node: node.value)


class Dumper(yaml.SafeDumper):
    """Writes what every reader of Kubernetes reads alike: what one of them takes for something else is quoted."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        """The type that readers take a plain scalar for; of two that differ, the one that is no text."""
        usual = str(super().resolve(kind, value, implicit))  # type: ignore[no-untyped-call]
        if kind is yaml.ScalarNode and implicit[0]:
            ours = _tag(value)
            return ours if usual == STR else usual
        return usual

    def ignore_aliases(self, data: Any) -> bool:
        """Anchors are written out."""
        return True


_BREAKS = re.compile("[\\x85\\u2028\\u2029]")
"""Line breaks of YAML 1.1, which readers fold into spaces unless they are escaped."""
_AWKWARD = re.compile(r"[^\x20-\x7e\n]|[ ]\n|^[ \n]")
"""What a literal block can't hold, or not readably."""
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|0o[0-7]+")
"""Numbers of YAML 1.2 that PyYAML would write as plain text, such as 1e3."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = None
    if _BREAKS.search(value):
        style = '"'
    elif "\n" in value and not _AWKWARD.search(value):
        style = "|"
    return dumper.represent_scalar(STR, value, style=style)


Dumper.add_representer(str, _text)
Dumper.add_implicit_resolver(FLOAT, re.compile(f"^(?:{_NUMBER.pattern})$"), list("-+.0123456789"))
