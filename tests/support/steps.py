"""Counts the steps of Python code: how work grows with its input, without a clock.

A step is a call, a line or a return of Python code. C code such as `x in list`, `list.index`, `sorted` or a dict goes
through its items without any; so the texts and numbers of the input are marked: they compare and hash by Python code,
and so do the texts that are cut out of them.
"""

import functools
import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

COMPARED = ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__")
CUT = ("__getitem__", "split", "splitlines", "partition", "rpartition", "strip", "lower", "replace")


def _seen(kind: type, name: str) -> Callable[..., Any]:
    """The method of `kind`, as Python code that a trace sees whoever calls it."""
    original = getattr(kind, name)

    def method(*arguments: Any) -> Any:
        return original(*arguments)

    return method


def _cutting(name: str) -> Callable[..., Any]:
    """The method of a text, whose result is marked like the text itself."""
    original = getattr(str, name)

    def method(*arguments: Any) -> Any:
        return marked(original(*arguments))

    return method


Text: Any = type("Text", (str,), {n: _seen(str, n) for n in COMPARED} | {n: _cutting(n) for n in CUT})
Whole: Any = type("Whole", (int,), {n: _seen(int, n) for n in COMPARED})
_PLAIN = {Text: str, Whole: int}


def marked(value: Any) -> Any:
    """The same value of JSON, made of marked texts and numbers."""
    if type(value) is dict:
        return {marked(key): marked(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(marked, value))
    kind = {str: Text, int: Whole}.get(type(value))
    return value if kind is None else kind(value)


def plain_type(value: Any) -> type:
    """`type` for code that asks for exactly a text or a number: of a marked one, what it stands for."""
    return _PLAIN.get(type(value), type(value))


def forget(package: str) -> None:
    """Empty everything that the functions of a package remember: what was done before must not count."""
    kind = type(functools.lru_cache(forget))
    for found in gc.get_objects():
        if isinstance(found, kind) and found.__module__.startswith(package):
            found.cache_clear()


def steps(work: Callable[[], object]) -> int:
    """How many steps this work takes; as many each time."""
    taken = 0

    def count(_frame: FrameType, _event: str, _argument: Any) -> Any:
        nonlocal taken
        taken += 1
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        work()
    finally:
        sys.settrace(before)
    return taken
