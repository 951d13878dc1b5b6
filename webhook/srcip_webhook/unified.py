"""The change of a stream of documents as a unified diff, which `patch` takes.

Documents are compared one by one: a text of thousands of lines, many of them alike, takes difflib minutes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher

CONTEXT = 3
"""Lines around a change, as usual."""
_NO_BREAK = "\\ No newline at end of file\n"
Code = tuple[str, int, int, int, int]
"""What became of some lines: a word of difflib's, and begin and end in the old and in the new text."""


def diff(pairs: Iterable[tuple[str, str]], name: str, new_name: str) -> str:
    """The diff of texts that follow each other; empty if none changed."""
    found = [(_lines(old), _lines(new)) for old, new in _whole_lines(pairs)]
    old, new = ([line for pair in found for line in pair[side]] for side in (0, 1))
    matcher = SequenceMatcher[str](None, [], [])
    matcher.opcodes = list(_codes(found))  # type: ignore[attr-defined] # what get_opcodes would work out
    hunks = [_hunk(group, old, new) for group in matcher.get_grouped_opcodes(CONTEXT)]
    return "".join([f"--- {name}\n+++ {new_name}\n", *hunks]) if old != new else ""


def _whole_lines(pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The same texts, joined where one ends within a line."""
    old = new = ""
    for each_old, each_new in pairs:
        old, new = old + each_old, new + each_new
        if old.endswith("\n") and new.endswith("\n"):
            yield old, new
            old = new = ""
    yield old, new


def _lines(text: str) -> list[str]:
    return [f"{line}\n" for line in text.split("\n")[:-1]] + [line for line in (text.rpartition("\n")[2],) if line]


def _codes(found: Iterable[tuple[list[str], list[str]]]) -> Iterator[Code]:
    """What became of each line; neighbours that did not change are one."""
    same, at, to = (0, 0), 0, 0
    for old, new in found:
        codes: list[Code] = [("equal", 0, len(old), 0, len(new))]
        for word, a, b, c, d in codes if old == new else SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
            if word != "equal":
                yield from [("equal", same[0], at + a, same[1], to + c)] if same[0] < at + a else ()
                yield (word, at + a, at + b, to + c, to + d)
                same = (at + b, to + d)
        at, to = at + len(old), to + len(new)
    yield from [("equal", same[0], at, same[1], to)] if same[0] < at else ()


def _hunk(group: list[Code], old: list[str], new: list[str]) -> str:
    (_, a, _, c, _), (_, _, b, _, d) = group[0], group[-1]
    lines = [f"@@ -{_range(a, b)} +{_range(c, d)} @@\n"]
    for word, begin, end, first, last in group:
        if word == "equal":
            lines += [f" {line}" for line in old[begin:end]]
        else:
            lines += [*(f"-{line}" for line in old[begin:end]), *(f"+{line}" for line in new[first:last])]
    return "".join(line if line.endswith("\n") else f"{line}\n{_NO_BREAK}" for line in lines)


def _range(begin: int, end: int) -> str:
    """An empty range names the line before it."""
    return f"{begin + (end > begin)},{end - begin}"
