"""`srcip inject` changes nothing that is not srcip's: by the reader of kubectl, which is that of the API server."""

import json
import random
import subprocess
import sys
from typing import Any

import pytest

from srcip_e2e.cluster import binaries
from support import manifest_text

pytestmark = pytest.mark.controlplane

POD = """apiVersion: v1
kind: Pod
metadata:
  name: web
  annotations:
    srcip.io/mode: tproxy
    srcip.io/trusted-cidrs: 192.0.2.0/24
    example.org/n: {texts[0]}
    "N": {texts[1]}
spec:
  containers:
    - name: app
      image: example.org/app:1
      args: [{flow}]
      env:
        - {{name: A, value: {texts[2]}}}
      ports:
        - containerPort: 8080
"""
THING = """apiVersion: example.org/v1
kind: Thing
metadata: {{name: x}}
spec:
  plain: {plain}
  ? {key}
  : {plain}
  block: |-
    {block}
  folded: >
    {block}
"""
SIGNS = "0123456789abcdefxXoO+-._:eEyYnNtrusfl~="
WORDS = (
    "yes",
    "No",
    "on",
    "y",
    "N",
    "null",
    "~",
    "1e3",
    "0o17",
    "0777",
    "22:22",
    "1_000",
    "08",
    "=",
    ".5",
    "2001-12-14",
)


def text(chance: random.Random) -> str:
    if chance.random() < 0.5:
        return chance.choice(WORDS)
    return "x" + "".join(chance.choices(SIGNS, k=5)) + "x"  # what ends with a colon is a key


def quoted(value: str, chance: random.Random) -> str:
    return chance.choice(("'{}'", '"{}"')).format(value)


def stream(chance: random.Random) -> str:
    """Pods that change, and things that do not, with every style of scalar."""
    documents = []
    for _ in range(40):
        texts = [quoted(text(chance), chance) for _ in range(3)]
        flow = ", ".join(quoted(text(chance), chance) for _ in range(4))
        documents.append(POD.format(texts=texts, flow=flow))
        documents.append(THING.format(plain=text(chance), key=quoted(text(chance), chance), block=text(chance)))
    return "---\n".join(documents)


def read(manifest: str) -> list[dict[str, Any]]:
    """Every object, as kubectl reads it, without a server."""
    command = [str(binaries.find("kubectl")), "label", "--local", "-o", "json", "-f", "-", "read=it"]
    done = subprocess.run(command, input=manifest, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[:2000]
    objects, decoder, rest = [], json.JSONDecoder(), done.stdout.strip()
    while rest:
        value, end = decoder.raw_decode(rest)
        objects += value["items"] if value["kind"] == "List" else [value]
        rest = rest[end:].strip()
    return objects


def without_srcip(value: dict[str, Any]) -> dict[str, Any]:
    """What is left when everything that the webhook adds is taken out."""
    if value["kind"] != "Pod":
        return value
    meta, spec = value["metadata"], value["spec"]
    added = ("srcip.io/status", "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes")
    meta["annotations"] = {key: text for key, text in meta["annotations"].items() if key not in added}
    meta["labels"] = {key: text for key, text in meta["labels"].items() if key != "srcip.io/injected"}
    for field in ("initContainers", "volumes"):
        left = [item for item in spec.pop(field, []) if not item["name"].startswith("srcip-")]
        spec |= {field: left} if left else {}
    return value


def inject(manifest: str) -> tuple[str, str]:
    """What the command writes to its two outputs. Line ends are those of the manifest."""
    command = [sys.executable, "-m", "srcip_webhook.cli", "inject", "-f", "-"]
    done = subprocess.run(command, input=manifest.encode(), capture_output=True, check=True)
    return done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize("seed", range(3))
def test_kubectl_reads_the_same_before_and_after(seed: int) -> None:
    before = stream(random.Random(seed))  # noqa: S311
    after, _ = inject(before)
    assert after.count("name: srcip-proxy") == 40
    found, wanted = read(after), read(before)
    assert len(found) == len(wanted) == 80
    for mine, theirs in zip(found, wanted, strict=True):
        assert without_srcip(mine) == theirs


@pytest.mark.parametrize("seed", range(20))
def test_comments_anchors_and_layout_stay_and_kubectl_reads_the_same(seed: int) -> None:
    """Workloads and lists in every style; no document is written anew."""
    before, comments = manifest_text.stream(random.Random(seed))  # noqa: S311
    after, told = inject(before)
    assert "anew" not in told
    assert [comment for comment in comments if comment not in after] == []
    mine, theirs = ([manifest_text.without_srcip(value) for value in read(text)] for text in (after, before))
    assert mine == theirs
    assert inject(after)[0] == after


def test_tabs_and_json_are_read_as_kubectl_reads_them() -> None:
    """Tabs between words, and objects of JSON in a row; none of them changes but for srcip's part."""
    tabs = (
        POD.format(texts=["'a'", "'b'", "'c'"], flow="1,\t2").replace("kind: ", "kind:\t").replace(":1\n", ":1\t# c\n")
    )
    for text in (tabs, "\n".join(json.dumps(value, indent="\t") for value in read(tabs) * 2)):
        after, _ = inject(text)
        assert [without_srcip(value) for value in read(after)] == read(text)
