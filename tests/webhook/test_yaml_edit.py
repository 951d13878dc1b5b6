"""`srcip inject` adds its lines to a manifest and leaves every other byte as it is."""

import json
import os
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from srcip_webhook import manifests
from srcip_webhook.cli import main
from srcip_webhook.mutate import consider
from srcip_webhook.yaml_edit import same
from support.manifest_text import Writer, manifest, stream, without_srcip
from support.reviews import TRUSTING

SEEDS = st.integers(0, 2**48)
EXAMPLES = int(os.environ.get("SRCIP_EXAMPLES", "10"))
"""Manifests for each property; `make test` tries more."""


def wanted(pod: dict[str, Any], _: manifests.Place) -> dict[str, Any]:
    decoded = manifests.decoded(pod)
    after = consider(decoded, TRUSTING).after
    return pod if after is decoded else manifests.encoded(after, pod)


def injected(text: str) -> str:
    """The text with the sidecar; its documents are edited, none is written anew."""
    results = [manifests.rendered(document, wanted) for document in manifests.documents(text)]
    assert not any(result.is_anew for result in results), text
    return "".join(result.text for result in results)


def values(text: str) -> list[Any]:
    return [document.value for document in manifests.documents(text)]


@given(SEEDS)
@settings(max_examples=EXAMPLES, deadline=None)
def test_no_comment_is_lost_and_nothing_else_changes(seed: int) -> None:
    """What the manifest says is what the webhook would make of it; without srcip's part, it is what it was."""
    before, comments = stream(Random(seed))  # noqa: S311
    after = injected(before)
    assert [comment for comment in comments if comment not in after] == [], before
    assert same(values(after), [manifests.changed(value, wanted) for value in values(before)])
    for mine, theirs in zip(values(after), values(before), strict=True):
        assert same(without_srcip(mine), without_srcip(theirs))
    assert injected(after) == after


@given(SEEDS)
@settings(max_examples=EXAMPLES, deadline=None)
def test_of_a_manifest_in_block_style_each_line_stays(seed: int) -> None:
    """Every line comes again, in its order: only lines are added."""
    chance = Random(seed)  # noqa: S311
    value = manifest(chance)
    before = Writer(chance, flow=0).document(json.loads(json.dumps(_full(value))))
    after = iter(injected(before).splitlines())
    assert [line for line in before.splitlines() if line not in after] == [], before


def _full(value: Any) -> Any:
    """Without null, empty collections and probes, whose lines change."""
    if isinstance(value, list):
        return [_full(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: _full(item) for key, item in value.items() if item not in ({}, [], None) and "Probe" not in key}


@given(SEEDS)
@settings(max_examples=EXAMPLES, deadline=None)
def test_taking_the_sidecar_out_again_leaves_what_was_there(seed: int) -> None:
    """To the byte, where there was something beside each part of srcip's."""
    chance = Random(seed)  # noqa: S311
    value = json.loads(json.dumps(_full(manifest(chance))))
    before = Writer(chance, flow=0).document(value)

    def without(pod: dict[str, Any], _: manifests.Place) -> dict[str, Any]:
        annotations = {**pod["metadata"]["annotations"], "srcip.io/inject": "false"}
        asked = {**pod, "metadata": {**pod["metadata"], "annotations": annotations}}
        after = consider(asked, TRUSTING).after
        kept = {key: text for key, text in after["metadata"]["annotations"].items() if key != "srcip.io/inject"}
        return {**after, "metadata": {**after["metadata"], "annotations": kept}}

    (document,) = manifests.documents(injected(before))
    again = manifests.rendered(document, without)
    assert (again.text, again.is_anew) == (before, False)


POD = """apiVersion: v1
kind: Pod
metadata:
  name: web
  annotations: {srcip.io/mode: tproxy, srcip.io/trusted-cidrs: 192.0.2.0/24}
spec:
  containers:
  - name: app
    image: example.org/app:1
    ports:
    - containerPort: 8080
"""
LAYOUTS = {
    "a byte-order mark": ("\ufeff" + POD, "\ufeffapiVersion: v1\n"),
    "line ends of Windows": (POD.replace("\n", "\r\n"), "  - name: srcip-proxy\r\n"),
    "no line break at the end": (POD.rstrip(), "    emptyDir:\n      medium: Memory\n      sizeLimit: 4Mi"),
    "tabs behind values": (POD.replace("kind: Pod", "kind:\tPod\t# mine"), "kind:\tPod\t# mine\n"),
    "null": (POD + "  volumes:  # none\n  hostNetwork: false\n", "  volumes:  # none\n  - name: srcip-run\n"),
    "null in words": (POD + "  volumes: null  # none\n", "  volumes:  # none\n  - name: srcip-run\n"),
    "empty brackets": (POD + "  initContainers: []\n", "  initContainers:\n  - name: srcip-init\n"),
    "brackets around a comment": (POD + "  volumes: [  # none\n  ]\n", "  volumes: [{name: srcip-run, emptyDir: {"),
    "a comment on the first item": (
        POD + "  initContainers:\n  # first of all\n  - {name: a, image: b}\n",
        "      readOnly: true\n  # first of all\n  - {name: a, image: b}\n",
    ),
    "a comment indented deeper": (
        POD + "    # - containerPort: 9090\n# the end\n",
        "    - containerPort: 8080\n    # - containerPort: 9090\n  initContainers:\n",
    ),
    "a block of text at the end": (
        POD + "  volumes:\n  - name: v\n  x: |+\n    # text\n\n\n",
        "  - name: v\n  - name: srcip-run\n",
    ),
    "items deeper than their key": (
        POD.partition("    ports")[0].replace("\n  - n", "\n    - n").replace("\n    i", "\n      i")
        + "      ports: [{containerPort: 8080}]\n",
        "  initContainers:\n    - name: srcip-init\n      image: ",
    ),
    "one line": (
        "kind: Pod\napiVersion: v1\n"
        "metadata: {annotations: {srcip.io/mode: tproxy, srcip.io/trusted-cidrs: 10.0.0.0/8}}\n"
        "spec: {containers: [{name: a, ports: [{containerPort: 80}]}], volumes: [{name: v}]} # all\n",
        "volumes: [{name: v}, {name: srcip-run, emptyDir: {medium: Memory, sizeLimit: 4Mi}}], initContainers: [{",
    ),
    "an alias": (
        POD.replace("  name: web\n", "  name: web\n  labels: *web  # its own\n").replace(
            "v1\n", "v1\nx: &web {app: web}\n"
        ),
        "  labels:  # its own\n    app: web\n    srcip.io/injected: 'true'\n",
    ),
    "an anchor": (
        POD.replace("  name: web\n", "  name: web\n  labels: &web\n    app: web # one\n") + "x: *web # as there\n",
        "x: {app: web} # as there\n",
    ),
    "an anchor that is given again": (
        POD.replace("v1\n", "v1\nx: &web {a: b}\n").replace(
            "  name: web\n", "  name: web\n  labels: &web\n    app: web # one\n"
        )
        + "y: *web\n",
        "x: &web {a: b}\n",
    ),
    "a merge key": (
        POD.replace("  name: web\n", "  name: web\n  labels:\n    <<: *web\n").replace(
            "v1\n", "v1\nx: &web {app: web}\n"
        ),
        "  labels:\n    <<: *web\n    srcip.io/injected: 'true'\n",
    ),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_what_is_added_follows_the_layout(case: str) -> None:
    before, expected = LAYOUTS[case]
    after = injected(before)
    assert expected in after
    assert same(values(after), [manifests.changed(value, wanted) for value in values(before)])
    assert injected(after) == after


JSON = {
    "one line": json.dumps(values(POD)[0]),
    "several lines": json.dumps(values(POD)[0], indent=4) + "\n",
    "tabs": json.dumps(values(POD)[0], indent="\t") + "\n",
}


@pytest.mark.parametrize("case", JSON)
def test_json_stays_json_in_its_layout(case: str) -> None:
    """What stood on a line of its own still does; numbers are written as they were."""
    before = JSON[case].replace("8080", "808e1")
    after = injected(before)
    assert same(json.loads(after), json.loads(json.dumps(manifests.changed(values(before)[0], wanted))))
    lines = iter(after.replace(",\n", "\n").splitlines())
    kept = [line in lines for line in before.replace(",\n", "\n").splitlines()]
    assert all(kept) or case == "one line"
    assert after.count("\n") > before.count("\n") or case == "one line"
    assert "808e1" in after


def test_a_document_that_can_not_be_edited_is_written_anew_and_that_is_told() -> None:
    """Its comments are lost; those of the documents beside it are not."""
    odd = f"# a comment\n{POD}".replace("\n", "\r")
    result = CliRunner().invoke(
        main, ["inject", "-f", "-"], input=f"# one\nkind: A\n---\n{odd}", catch_exceptions=False
    )
    assert result.exit_code == 0
    assert result.stdout.startswith("# one\nkind: A\n---\napiVersion: v1\n")
    assert "# a comment" not in result.stdout
    assert "<stdin>:3: warning: this document is written anew, without its comments" in result.stderr
