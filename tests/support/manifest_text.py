"""Writes one value in many ways: the styles, comments, anchors and line ends that people's manifests have."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import yaml

from srcip_webhook.yaml_reader import Dumper

ODD = ("- name: x", "key: {", "it's", '"', "--- no document", "&a *b", "", "#", "}] ,", "\u00e9")
"""What comments say: nothing of it means anything."""


class Writer:
    """Chooses by chance; `comments` are those it wrote. `flow` is how often it writes brackets."""

    def __init__(self, chance: Random, flow: float = 0.2, comments: float = 0.3) -> None:
        self.chance, self.flow, self.often = chance, flow, comments
        self.comments: list[str] = []
        self.deep = chance.choice((0, 2))
        self.shared: dict[int, int] = {}
        self.names: dict[int, str] = {}

    def document(self, value: Any) -> str:
        """A document. A collection that is there twice, as the same object, is an anchor and an alias."""
        self._count(value)
        lines = [*self._above(0), *self._mapping(value, 0), *self._above(0)]
        last = self.chance.choice(("", "", "...\n"))
        return "".join(f"{line}\n" for line in lines) + last

    def _count(self, value: Any) -> None:
        if isinstance(value, dict | list) and value:
            self.shared[id(value)] = self.shared.get(id(value), 0) + 1
            if self.shared[id(value)] == 1:
                for each in value.values() if isinstance(value, dict) else value:
                    self._count(each)

    def _comment(self) -> str:
        self.comments.append(f"# c{len(self.comments)}: {self.chance.choice(ODD)}".rstrip())
        return self.comments[-1]

    def _above(self, column: int) -> list[str]:
        """Lines before a part."""
        if self.chance.random() >= self.often:
            return []
        return [""] if self.chance.random() < 0.3 else [" " * column + self._comment()]

    def _behind(self) -> str:
        return f"{' ' * self.chance.randrange(1, 4)}{self._comment()}" if self.chance.random() < self.often else ""

    def _mapping(self, value: dict[str, Any], column: int, above: bool = True) -> list[str]:
        lines: list[str] = []
        for name, each in value.items():
            lines += self._above(column) if above else []
            above = True
            lines += self._entry(f"{' ' * column}{self._text(name, is_key=True)}:", each, column)
        return lines

    def _sequence(self, value: list[Any], column: int) -> list[str]:
        lines: list[str] = []
        for each in value:
            lines += self._above(column)
            mark, is_block = self._mark(each), self.chance.random() >= self.flow
            if mark is None and is_block and isinstance(each, dict) and each:
                first, *rest = self._mapping(each, column + 2, above=False)
                lines += [f"{' ' * column}- {first.lstrip()}", *rest]
            else:
                lines.append(f"{' ' * column}- {self._inline(each, mark)}{self._behind()}")
        return lines

    def _entry(self, head: str, value: Any, column: int) -> list[str]:
        mark = self._mark(value)
        is_alias = mark is not None and mark.startswith("*")
        if not isinstance(value, dict | list) or not value or is_alias or self.chance.random() < self.flow:
            if isinstance(value, str) and value.endswith("\n") and self.chance.random() < 0.5:
                block = [f"{' ' * (column + 3)}{line}" if line else "" for line in value[:-1].split("\n")]
                return [f"{head} |{self._behind()}", *block]
            text = self._inline(value, mark)
            return [f"{head}{' ' if text else ''}{text}{self._behind()}"]
        head = f"{head} {mark}" if mark else head
        if isinstance(value, dict):
            return [head + self._behind(), *self._mapping(value, column + 2)]
        return [head + self._behind(), *self._sequence(value, column + self.deep)]

    def _mark(self, value: Any) -> str | None:
        """An anchor, an alias, or None."""
        if self.shared.get(id(value), 0) < 2:
            return None
        if id(value) in self.names:
            return f"*{self.names[id(value)]}"
        self.names[id(value)] = f"a{len(self.names)}"
        return f"&{self.names[id(value)]}"

    def _inline(self, value: Any, mark: str | None) -> str:
        if mark and mark.startswith("*"):
            return mark
        text = self._text(value) if not isinstance(value, dict | list) else self._brackets(value)
        return f"{mark} {text}" if mark else text

    def _brackets(self, value: Any) -> str:
        if isinstance(value, dict):
            parts = [f"{self._text(name, is_key=True)}: {self._inner(each)}" for name, each in value.items()]
        else:
            parts = [self._inner(each) for each in value]
        comma = self.chance.choice(("", ",")) if parts else ""
        inside = ", ".join(parts) + comma
        return f"{{{inside}}}" if isinstance(value, dict) else f"[{inside}]"

    def _inner(self, value: Any) -> str:
        """Inside of brackets."""
        text = self._inline(value, self._mark(value))
        return text or "null"

    def _text(self, value: Any, is_key: bool = False) -> str:
        """A scalar."""
        if value is None:
            return self.chance.choice(("", "null", "~"))
        if not isinstance(value, str):
            return json.dumps(value)
        style = self.chance.choice(('"', "'", None))
        if style == '"' or "\n" in value:
            return json.dumps(value, ensure_ascii=False)
        style = None if is_key else style
        return yaml.dump([value], Dumper=Dumper, default_style=style, width=2**20, default_flow_style=True)[1:-2]


def manifest(chance: Random, kinds: tuple[str, ...] = ("Pod", "Deployment", "List")) -> dict[str, Any]:
    """An object that holds one Pod or more, most of which ask; some of its collections are shared."""
    holder = chance.choice(kinds)
    if holder == "Pod":
        return {"apiVersion": "v1", "kind": "Pod", **_pod(chance, chance.choice((None, {"app": "web"})))}
    if holder == "List":
        return {
            "apiVersion": "v1",
            "kind": "List",
            "items": [manifest(chance, kinds[:2]) for _ in range(chance.randrange(1, 3))],
        }
    labels = {"app": "web", "n": "1e3"}
    meta = {"name": "web", "labels": labels}
    spec = {"selector": {"matchLabels": labels}, "template": _pod(chance, labels), "replicas": 2}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec}


def _pod(chance: Random, labels: dict[str, str] | None) -> dict[str, Any]:
    annotations = {"srcip.io/mode": "tproxy", "srcip.io/trusted-cidrs": "192.0.2.0/24", "example.org/yes": "yes"}
    if chance.random() < 0.2:
        del annotations["srcip.io/mode"]
    probe = {"httpGet": {"port": chance.choice((8080, "http"))}}
    app = {"name": "app", "image": "example.org/app:1", "ports": [{"name": "http", "containerPort": 8080}]}
    app |= chance.choice(({}, {"readinessProbe": probe}, {"args": ["a\n# b\n", "22:22", "~"], "env": []}))
    first = {"name": "migrate", "image": "example.org/app:1", "command": ["sh", "-c", "true\n# no comment\n"]}
    spec: dict[str, Any] = {"containers": [app]}
    spec |= chance.choice(({}, {"initContainers": [first]}, {"initContainers": []}, {"initContainers": None}))
    spec |= chance.choice(({}, {"volumes": [{"name": "v", "emptyDir": {}}]}, {"volumes": []}, {"volumes": None}))
    items = list(spec.items())
    chance.shuffle(items)
    meta: dict[str, Any] = {"name": "web", "annotations": annotations}
    meta |= {"labels": labels} if labels is not None or chance.random() < 0.3 else {}
    return {"metadata": meta, "spec": dict(items)}


def stream(chance: Random) -> tuple[str, list[str]]:
    """The text of one document or two, and its comments."""
    writers = [Writer(chance, flow=chance.choice((0, 0.2, 0.5))) for _ in range(chance.randrange(1, 3))]
    text = "---\n".join(writer.document(manifest(chance)) for writer in writers)
    text = text if chance.random() < 0.8 else text.replace("\n", "\r\n")
    text = text if chance.random() < 0.8 or text.endswith("...\n") else text.rstrip("\r\n")
    return text, [comment for writer in writers for comment in writer.comments]


OWN = ("srcip.io/status", "srcip.io/injected", "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes")


def without_srcip(value: Any) -> Any:
    """A document without what srcip owns in it, or adds to; without probes, whose ports are the sidecar's business."""
    if isinstance(value, list):
        return [without_srcip(item) for item in value if not _is_srcips(item)]
    if not isinstance(value, dict):
        return value
    left = {key: without_srcip(item) for key, item in value.items() if key not in OWN and "Probe" not in key}
    return {key: item for key, item in left.items() if item not in ({}, [], None) or key == "emptyDir"}


def _is_srcips(item: Any) -> bool:
    return isinstance(item, dict) and str(item.get("name")).startswith("srcip-")
