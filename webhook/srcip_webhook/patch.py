"""JSON patch operations (RFC 6902) from one object to another, few and small.

The two objects share what did not change, so that comparing them costs next to nothing.
"""

from __future__ import annotations

from typing import Any

Operation = dict[str, Any]


def operations(old: Any, new: Any) -> list[Operation]:
    """The operations that make `new` of `old`; none if they are equal."""
    made: list[Operation] = []
    _diff(old, new, "", made)
    return made


def pointer(*steps: str | int) -> str:
    """A JSON pointer (RFC 6901): `~` and `/` inside a step are escaped."""
    return "".join(f"/{_escaped(str(step))}" for step in steps)


def _escaped(step: str) -> str:
    return step.replace("~", "~0").replace("/", "~1") if "~" in step or "/" in step else step


def _diff(old: Any, new: Any, path: str, made: list[Operation]) -> None:
    # what did not change is shared with the Pod that came in (inject.py), so most of it is never looked at
    if old is new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        _diff_objects(old, new, path, made)
    elif isinstance(old, list) and isinstance(new, list):
        _diff_lists(old, new, path, made)
    elif type(old) is not type(new) or old != new:
        made.append({"op": "replace", "path": path, "value": new})


def _diff_objects(old: dict[str, Any], new: dict[str, Any], path: str, made: list[Operation]) -> None:
    for key in old:
        if key not in new:
            made.append({"op": "remove", "path": f"{path}/{_escaped(key)}"})
    for key, value in new.items():
        if key not in old:
            made.append({"op": "add", "path": f"{path}/{_escaped(key)}", "value": value})
        elif old[key] is not value:
            _diff(old[key], value, f"{path}/{_escaped(key)}", made)


def _diff_lists(old: list[Any], new: list[Any], path: str, made: list[Operation]) -> None:
    """Common items at both ends stay; between them items are changed in pairs, then the longer rest goes or comes."""
    paired, tail = aligned(old, new)
    for index in range(paired):
        _diff(old[index], new[index], f"{path}/{index}", made)
    # from the end on: each removal moves the items behind it (RFC 6902, section 4.2)
    for index in reversed(range(paired, len(old) - tail)):
        made.append({"op": "remove", "path": f"{path}/{index}"})
    for index in range(paired, len(new) - tail):
        made.append({"op": "add", "path": f"{path}/{index}", "value": new[index]})
    for back in range(tail, 0, -1):
        _diff(old[-back], new[-back], f"{path}/{len(new) - back}", made)


def aligned(old: list[Any], new: list[Any]) -> tuple[int, int]:
    """How many items at the beginning of two lists belong together, and how many at their ends.

    Objects with the same `name` count as common: a container that only changed inside is not moved.
    """
    shorter = min(len(old), len(new))
    head = next((i for i in range(shorter) if not _alike(old[i], new[i])), shorter)
    tail = next((i for i in range(shorter - head) if not _alike(old[-1 - i], new[-1 - i])), shorter - head)
    return shorter - tail, tail


def _alike(old: Any, new: Any) -> bool:
    if old is new:
        return True
    if isinstance(old, dict) and isinstance(new, dict) and "name" in old:
        return bool(old["name"] == new.get("name"))
    return bool(old == new)
