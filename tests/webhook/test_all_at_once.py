"""Every fault is told in one look, with its line: none waits until another one is mended."""

import json
import re
from typing import Any

import pytest
from click.testing import CliRunner, Result

from srcip_webhook import manifests
from srcip_webhook.cli import main
from srcip_webhook.mutate import consider
from support.reviews import TRUSTING, pod

POD = "kind: Pod\napiVersion: v1\n"
LIST = "kind: List\napiVersion: v1\nitems:\n- kind: Pod\n  apiVersion: v1\n"
FAULTS = {
    "syntax": ("a: [1,\n", 1, "not YAML: while parsing a flow node"),
    "a quote that is left open": ('b: 1\na: "x\n\n\n', 2, "not YAML: while scanning a quoted scalar"),
    "a character": ("b: 1\na: \x01\n", 2, "not YAML: the character U+0001"),
    "bytes": ("b: 1\n# \udcff\n", 2, "not UTF-8: the byte 0xff"),
    "a key": ("spec: 1\nkind: A\nspec: 2\n", 3, 'duplicate key "spec"'),
    "another key": ("x: 1\ny: {z: 1, z: 2}\n", 2, 'duplicate key "z"'),
    "an annotation": (
        POD + "metadata:\n  annotations:\n    srcip.io/mode: magic\nspec: {containers: [{name: a}]}\n",
        5,
        'refused: srcip.io/mode: "magic" is not known',
    ),
    "a value without quotes": (
        POD + "metadata:\n  annotations:\n    srcip.io/mode: off\nspec: {}\n",
        5,
        "refused: srcip.io/mode: false is not a string",
    ),
    "a field": (
        POD + "metadata: {annotations: {srcip.io/mode: tproxy}}\nspec:\n  containers:\n  - name: 5\n",
        6,
        "refused: Pod.spec.containers[0].name: 5 is not a string",
    ),
    "a status": (
        POD + "metadata:\n  annotations:\n    srcip.io/mode: tproxy\n    srcip.io/status: x\nspec: {}\n",
        6,
        "refused: srcip.io/status is not JSON",
    ),
    "a list": (
        LIST + "  metadata: {annotations: {srcip.io/mode: tproxy}}\n  spec:\n    hostNetwork: true\n",
        8,
        "refused: spec.hostNetwork: true is not possible",
    ),
    "an annotation that nobody reads": (
        "kind: Deployment\napiVersion: apps/v1\nmetadata:\n  annotations:\n    srcip.io/mode: tproxy\n",
        5,
        "warning: Deployment/(no name): srcip.io/mode: no effect there",
    ),
}
"""A document, and the fault that it must be told: its line and its beginning."""


def run(command: str, text: str) -> Result:
    data = text.encode("utf-8", "surrogateescape")
    return CliRunner().invoke(main, [command, "-f", "-"], input=data, catch_exceptions=False)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_has_its_line(name: str) -> None:
    text, line, said = FAULTS[name]
    told = run("inject", text).stderr
    assert any(each.startswith(f"<stdin>:{line}: ") and said in each for each in told.splitlines()), told


@pytest.mark.parametrize("names", [list(FAULTS), list(reversed(FAULTS))])
def test_the_faults_of_all_documents_are_told_at_once(names: list[str]) -> None:
    """Whatever stands before them; in the order of their lines, and the status is that of the worst."""
    text, wanted = "", []
    for name in names:
        document, line, said = FAULTS[name]
        wanted.append((text.count("\n") + 1 + line, said))
        text += f"---\n{document}"
    result = run("inject", text)
    assert (result.exit_code, result.stdout) == (2, "")
    told = [re.fullmatch(r"<stdin>:([0-9]+): (.*)", each) for each in result.stderr.splitlines()]
    lines = [(int(each[1]), each[2]) for each in told if each]
    assert len(lines) == len(told)
    assert [line for line, _ in lines] == sorted(line for line, _ in lines)
    missing = [(line, said) for line, said in wanted if not any(at == line and said in each for at, each in lines)]
    assert missing == [], result.stderr


@pytest.mark.parametrize("first", FAULTS)
@pytest.mark.parametrize("second", FAULTS)
def test_no_fault_hides_another(first: str, second: str) -> None:
    """Two documents of any two kinds of fault."""
    told = run("inject", f"{FAULTS[first][0]}---\n{FAULTS[second][0]}").stderr
    assert FAULTS[first][2] in told
    assert FAULTS[second][2] in told


def test_explain_tells_the_same_faults() -> None:
    """Those of Pods with what happens to them, with their lines; all others behind."""
    result = run("explain", "---\n".join(text for text, _, _ in FAULTS.values()))
    assert result.exit_code == 2
    for _, _, said in FAULTS.values():
        assert said.removeprefix("refused: ") in result.stdout + result.stderr
    assert 'error:     line 25: srcip.io/mode: "magic" is not known' in result.stdout


IN_ONE_POD: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "a field of the wrong type beside the node's network": (
        {},
        {"containers": [{"name": 5}], "hostNetwork": True},
        ("Pod.spec.containers[0].name: 5", "spec.hostNetwork: true is not possible"),
    ),
    "a field beside a user, a name and everybody's trust": (
        {"srcip.io/trusted-cidrs": "0.0.0.0/0"},
        {
            "containers": [
                {"name": "a", "ports": [{"containerPort": "http"}, {"containerPort": 80}]},
                {"name": "srcip-proxy", "securityContext": {"runAsUser": 7363}},
            ]
        },
        (
            "ports[0].containerPort",
            "a name that is reserved for srcip",
            "runs as user 7363",
            "0.0.0.0/0 lets any source",
        ),
    ),
    "a status beside an annotation and the node's network": (
        {"srcip.io/status": "x", "srcip.io/deliver-to": "there"},
        {"hostNetwork": True},
        ("srcip.io/status is not JSON", 'srcip.io/deliver-to: "there" is not known', "spec.hostNetwork"),
    ),
    "a status, a value without quotes and a field": (
        {"srcip.io/status": "{}", "srcip.io/inbound-ports": 80},
        {"containers": [{"name": 5}], "hostNetwork": True},
        (
            "srcip.io/status is not as srcip",
            "srcip.io/inbound-ports: 80 is not a string",
            "name: 5",
            "spec.hostNetwork",
        ),
    ),
    "a missing mode beside a value that is not allowed": (
        {"srcip.io/mode": None, "srcip.io/deliver-to": "there"},
        {},
        ("set the annotation srcip.io/mode", 'srcip.io/deliver-to: "there" is not known'),
    ),
}


@pytest.mark.parametrize("case", IN_ONE_POD)
def test_the_faults_of_one_pod_are_told_at_once(case: str) -> None:
    """By the command and, as the decision is the same, by the webhook."""
    annotations, spec, wanted = IN_ONE_POD[case]
    asked = pod(annotations, **spec)
    outcome = consider(asked, TRUSTING)
    said = "\n".join([*outcome.messages, *outcome.decision.warnings])
    told = run("inject", manifests.dump(asked)).stderr
    assert [each for each in wanted if each not in said or each not in told] == [], said


def test_a_field_that_can_not_be_read_is_no_fault_of_what_depends_on_it() -> None:
    """Without the port that is misspelt nothing is left to intercept; only the port is told."""
    broken = [{"name": "app", "image": "x", "ports": [{"containerPort": "http"}]}]
    (message,) = consider(pod({"srcip.io/inbound-ports": "80"}, containers=broken), TRUSTING).messages
    assert "containerPort" in message


def test_the_number_of_fields_that_are_not_told_is() -> None:
    """A list of hundreds of the same would hide the others."""
    broken = [{"name": 5} for _ in range(30)]
    messages = consider(pod(containers=broken), TRUSTING).messages
    assert messages[20:] == ["Pod: and 10 more fields of the wrong type"]


@pytest.mark.parametrize("twice", ["spec:\n  volumes: []\n", "spec: {containers: [{}, {}, {}]}\n", "x: {y: 1, y: 2}\n"])
def test_a_key_that_is_there_twice_in_a_pod_that_asks_stops_nothing(twice: str) -> None:
    """The Pod is looked at as the last one of them says, and nothing is written."""
    for said in ({}, {"srcip.io/deliver-to": "there"}):
        result = run("inject", twice + manifests.dump(pod(said)))
        assert (result.exit_code, result.stdout) == (2, "")
        assert "duplicate key" in result.stderr
        assert all(key in result.stderr for key in said)


def test_the_lines_of_json_are_told() -> None:
    text = json.dumps(pod({"srcip.io/mode": "magic"}), indent="\t").replace('"spec"', '"kind": "Pod",\n\t"spec"')
    told = run("inject", text).stderr
    assert '<stdin>:7: Pod/web: refused: srcip.io/mode: "magic"' in told
    assert 'duplicate key "kind", in line 3 and in line 11' in told
