"""The command line takes manifests of every kind, touches only Pods that ask, and its exit status tells."""

import importlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from srcip_webhook import manifests
from srcip_webhook.cli import main
from srcip_webhook.yaml_reader import Loader
from support.reviews import pod

TEMPLATE = {key: pod()[key] for key in ("metadata", "spec")}
KINDS = {
    ("apps/v1", "Deployment"): {"spec": {"template": TEMPLATE}},
    ("apps/v1", "StatefulSet"): {"spec": {"template": TEMPLATE}},
    ("apps/v1", "DaemonSet"): {"spec": {"template": TEMPLATE}},
    ("apps/v1", "ReplicaSet"): {"spec": {"template": TEMPLATE}},
    ("v1", "ReplicationController"): {"spec": {"template": TEMPLATE}},
    ("v1", "PodTemplate"): {"template": TEMPLATE},
    ("batch/v1", "Job"): {"spec": {"template": TEMPLATE}},
    ("batch/v1", "CronJob"): {"spec": {"jobTemplate": {"spec": {"template": TEMPLATE}}}},
    ("v1", "Pod"): TEMPLATE,
}

UNTOUCHED = """# first
kind: ConfigMap  # mine
metadata: {name: a}
---
kind: X
spec: {template: 5}
---  # another group's Deployment is none of ours
apiVersion: example.org/v1
kind: Deployment
spec: {template: {metadata: {annotations: {srcip.io/mode: tproxy}}}}
# last
"""


def run(*arguments: str, text: str | None = None) -> Result:
    return CliRunner().invoke(main, [*arguments], input=text, catch_exceptions=False)


def inject(*objects: Any, arguments: tuple[str, ...] = ()) -> Result:
    return run("inject", "-f", "-", *arguments, text=yaml.safe_dump_all(objects))


@pytest.mark.parametrize(("api_version", "kind"), KINDS)
def test_a_pod_inside_every_kind_gets_the_sidecar(api_version: str, kind: str) -> None:
    result = inject({"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}, **KINDS[api_version, kind]})
    assert result.exit_code == 0
    (found,) = [spec for _, spec in manifests.pods_in(result.stdout)]
    assert [c["name"] for c in found["spec"]["initContainers"]] == ["srcip-init", "srcip-proxy"]


def test_pods_in_lists_get_the_sidecar() -> None:
    nested = {
        "apiVersion": "v1",
        "kind": "List",
        "items": [pod(), {"apiVersion": "v1", "kind": "PodList", "items": [pod()]}],
    }
    assert inject(nested).stdout.count("name: srcip-proxy") == 2


def test_what_does_not_change_is_printed_to_the_byte() -> None:
    text = UNTOUCHED
    assert run("inject", "-f", "-", text=text).stdout == text


def test_documents_beside_a_changed_one_stay_to_the_byte() -> None:
    first, last = "kind: A # one\n", "---\n# about b\nkind: B   # two\n"
    result = run("inject", "-f", "-", text=f"{first}---\n{json.dumps(pod())}\n{last}")
    assert result.stdout.startswith(first)
    assert result.stdout.endswith(last)
    assert len(list(yaml.safe_load_all(result.stdout))) == 3


def test_a_second_run_prints_the_same() -> None:
    once = inject(pod()).stdout
    assert run("inject", "-f", "-", text=once).stdout == once


@pytest.mark.parametrize(
    "value",
    [
        "1e3",
        "0o17",
        "017",
        "yes",
        "2020-01-01",
        "a\nb\n",
        "  x",
        "1_000",
        "~",
        "null",
        "\u00e9",
        "a\x85b",
        "\u2028",
        "a: b",
        "1:30",
    ],
)
def test_a_string_stays_a_string_for_every_reader_of_yaml(value: str) -> None:
    asked = pod({"example.org/value": value})
    text = run("inject", "-f", "-", text=manifests.dump(asked)).stdout
    assert yaml.safe_load(text)["metadata"]["annotations"]["example.org/value"] == value
    if value in ("1e3", "0o17", "1_000", "017"):
        assert f"'{value}'" in text


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("Cs",))))
def test_any_string_survives_the_way_through_yaml(value: str) -> None:
    text = manifests.dump({"v": value, value: 1})
    assert yaml.safe_load(text) == yaml.load(text, Loader) == {"v": value, value: 1}  # noqa: S506 (a SafeLoader)


DUPLICATES = {
    "spec": ("kind: Pod\nspec: {}\nmetadata: {}\nspec: {}\n", 'duplicate key "spec", in line 2 and in line 4'),
    "an annotation": (
        "kind: Pod\nmetadata:\n  annotations:\n    srcip.io/mode: tproxy\n    'srcip.io/mode': redirect\n",
        'duplicate key "srcip.io/mode", in line 4 and in line 5',
    ),
    "one by another name": ("a:\n  0x10: 1\n  16: 2\n", 'duplicate key "16", in line 2 and in line 3'),
    "JSON": ('{"kind": "Pod", "spec": {"a": 1, "a": 2}}', 'duplicate key "a"'),
}


@pytest.mark.parametrize("case", DUPLICATES)
@pytest.mark.parametrize("command", ["inject", "explain"])
def test_a_key_that_is_there_twice_is_refused_with_its_lines(command: str, case: str) -> None:
    text, said = DUPLICATES[case]
    result = run(command, "-f", "-", text=text)
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_merge_key_is_no_duplicate() -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n"
    assert manifests.documents(text)[0].value["b"] == {"x": 3, "true": 2}, "y is true, and a key is a text"


def test_json_objects_in_a_row_are_read_as_kubectl_reads_them() -> None:
    """They stay JSON, and those that do not change stay to the byte."""
    first, last = '{"kind": "ConfigMap",   "data": {"a": "N"}}\n', '{"kind": "X"}\n\n'
    result = run("inject", "-f", "-", text=first + json.dumps(pod()) + last)
    assert result.exit_code == 0
    assert result.stdout.startswith(first)
    assert result.stdout.endswith(last)
    values = [document.value for document in manifests.documents(result.stdout)]
    assert [value["kind"] for value in values] == ["ConfigMap", "Pod", "X"]
    assert "srcip-proxy" in result.stdout


OTHERS = {
    "Rollout": {"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "spec": {"template": TEMPLATE}},
    "Service": {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "spec": {"template": TEMPLATE}},
    "CronWorkflow": {"apiVersion": "x/v1", "kind": "C", "spec": {"jobTemplate": {"spec": {"template": TEMPLATE}}}},
    "DeploymentList": {
        "apiVersion": "apps/v1",
        "kind": "DeploymentList",
        "items": [{"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"template": TEMPLATE}}],
    },
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_pod_template_of_another_kind_gets_the_sidecar(name: str) -> None:
    result = inject(OTHERS[name])
    assert result.exit_code == 0
    assert result.stdout.count("name: srcip-proxy") == 1


BARE = {"spec": {"template": {"spec": TEMPLATE["spec"]}}, "metadata": TEMPLATE["metadata"]}
DEPLOYMENT = {"apiVersion": "apps/v1", "kind": "Deployment", **BARE}
MISPLACED = {
    "a Deployment's own": (
        {"apiVersion": "apps/v1", "kind": "Deployment", **BARE},
        "spec.template.metadata.annotations",
    ),
    "a kind in small letters": ({**pod(), "kind": "pod"}, "srcip knows no Pod template"),
    "a Service's": ({"apiVersion": "v1", "kind": "Service", "metadata": TEMPLATE["metadata"]}, "no Pod template"),
    "in a list": ([pod()], "a list of objects is not a manifest"),
    "in items": (
        {"kind": "List", "items": [{"apiVersion": "apps/v1", "kind": "Deployment", **BARE}]},
        "no effect there",
    ),
}


@pytest.mark.parametrize("case", MISPLACED)
@pytest.mark.parametrize("command", ["inject", "explain"])
def test_an_annotation_that_nobody_reads_is_told(command: str, case: str) -> None:
    value, said = MISPLACED[case]
    result = run(command, "-f", "-", text=yaml.safe_dump(value))
    assert result.exit_code == 1
    assert said in result.stderr


@pytest.mark.parametrize(("key", "status"), [("srcip.io/mode", 1), ("example.org/x", 0)])
def test_null_is_an_empty_text_as_in_the_cluster(key: str, status: int) -> None:
    """The API server gives the webhook an empty text: as a mode it is refused, elsewhere it does not matter."""
    asked = pod()
    asked["metadata"]["annotations"][key] = None
    result = inject(asked)
    assert result.exit_code == status
    assert ("srcip-proxy" in result.stdout) == (status == 0)


def test_a_pod_with_null_that_does_not_ask_stays_to_the_byte() -> None:
    text = "kind: Pod\napiVersion: v1\nmetadata: {annotations: {a: }, labels: {b: null}}\nspec: {containers: []}\n"
    assert run("inject", "-f", "-", text=text).stdout == text


def test_a_whole_number_with_a_point_is_an_integer_as_in_the_cluster() -> None:
    text = manifests.dump(pod(securityContext={"runAsUser": 1000})).replace("1000", "1000.0")
    assert run("inject", "-f", "-", text=text).exit_code == 0


def test_a_refusal_prints_nothing_and_exits_with_1() -> None:
    result = inject(pod(), pod({"srcip.io/mode": "magic"}))
    assert (result.exit_code, result.stdout) == (1, "")
    assert 'Pod/web: refused: srcip.io/mode: "magic" is not known' in result.stderr


@pytest.mark.parametrize("text", ["a: [", "a: b: c", "\x00", "- &a [*a, *b]", "- !!int x"])
@pytest.mark.parametrize("command", ["inject", "explain"])
def test_what_is_not_yaml_exits_with_2(command: str, text: str) -> None:
    result = run(command, "-f", "-", text=text)
    assert result.exit_code == 2
    assert "not YAML" in result.stderr


@pytest.mark.parametrize(
    "arguments", [(), ("-f", "/nonexistent"), ("-f", "-", "--trusted-cidrs", "x"), ("-f", "-", "--image", "-x")]
)
def test_a_bad_call_exits_with_2(arguments: tuple[str, ...]) -> None:
    assert run("inject", *arguments, text="").exit_code == 2


@pytest.mark.parametrize("text", ["", "---\n", "5\n", "- 1\n", "kind: Pod\n", "kind: List\nitems: [1, null]\n"])
def test_manifests_without_pods_pass(text: str) -> None:
    result = run("inject", "-f", "-", text=text)
    assert (result.exit_code, result.stdout) == (0, text)


def test_the_diff_shows_the_change_only() -> None:
    result = inject(pod(), {"kind": "ConfigMap"}, arguments=("--diff",))
    changed = [line for line in result.stdout.splitlines() if line.startswith(("+", "-"))]
    assert [line for line in changed if line.startswith("-")] == ["--- <stdin>"]
    assert "+  - name: srcip-proxy" in changed
    assert not any("ConfigMap" in line for line in changed)


@pytest.mark.parametrize("end", ["\n", ""])
def test_the_diff_fits_the_file(end: str, tmp_path: Path) -> None:
    """`patch` makes of the file what `srcip inject` prints, comments and a missing last line break included."""
    text = f"# mine\nkind: ConfigMap\n---\n{manifests.dump(pod())}---\n# last\n{manifests.dump(pod()).rstrip()}{end}"
    (tmp_path / "pod.yaml").write_text(text)
    difference = run("inject", "-f", "-", "--diff", text=text).stdout.replace("<stdin>", "pod.yaml")
    subprocess.run(["git", "apply", "-p0", "-"], cwd=tmp_path, input=difference, text=True, check=True)
    assert (tmp_path / "pod.yaml").read_text() == run("inject", "-f", "-", text=text).stdout


def test_options_stand_for_the_webhooks_settings() -> None:
    asked = pod({"srcip.io/trusted-cidrs": None})
    assert inject(asked).exit_code == 1
    options = ("--trusted-cidrs", "203.0.113.0/24", "--image", "registry.example/p:2")
    text = inject(asked, arguments=options).stdout
    assert '"trusted_cidrs":["203.0.113.0/24"]' in text
    assert "image: registry.example/p:2" in text


def test_explain_tells_ports_trust_delivery_and_warnings() -> None:
    result = run("explain", "-f", "-", text=yaml.safe_dump(pod({"srcip.io/deliver-to": "pod", "srcip.io/modus": "x"})))
    assert result.exit_code == 0
    for words in ("Pod/web gets the sidecar", "8080", "192.0.2.0", "the Pod's own address", "NET_RAW", "did you mean"):
        assert words in result.stdout


@pytest.mark.parametrize(("mode", "needs"), [("tproxy", "NET_RAW"), ("redirect", "nothing")])
def test_explain_tells_what_the_sidecar_needs(mode: str, needs: str) -> None:
    asked = pod({"srcip.io/mode": mode, "srcip.io/http-ports": "8080"})
    result = run("explain", "-f", "-", text=yaml.safe_dump(asked))
    assert f"NET_ADMIN at its start, then {needs};" in result.stdout


def test_explain_tells_every_fault_and_exits_with_1() -> None:
    result = run("explain", "-f", "-", text=yaml.safe_dump(pod({"srcip.io/mode": "x"}, hostNetwork=True)))
    assert result.exit_code == 1
    assert result.stdout.count("error:") == 2


def test_explain_says_why_a_pod_is_left_alone() -> None:
    assert (
        "has no `srcip.io/mode`" in run("explain", "-f", "-", text=yaml.safe_dump(pod({"srcip.io/mode": None}))).stdout
    )


def test_the_schema_is_json() -> None:
    assert "srcip.io/mode" in json.loads(run("annotations", "--schema").stdout)["properties"]


@pytest.mark.parametrize("name", ["lab", "demo"])
def test_without_the_lab_its_commands_say_so_and_the_rest_works(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def missing(module: str, package: str | None = None) -> Any:
        if module.startswith("srcip_lab"):
            raise ImportError("no srcip_lab")
        return real(module, package)

    monkeypatch.setattr("srcip_webhook.cli.importlib.import_module", missing)
    assert "not available here: no srcip_lab" in run(name, "up").stderr
    assert run("--help").exit_code == 0
    assert inject(pod()).exit_code == 0


def test_files_are_read_by_name(tmp_path: Path) -> None:
    path = tmp_path / "pod.yaml"
    path.write_text(yaml.safe_dump(pod()))
    assert "srcip-proxy" in run("inject", "-f", str(path)).stdout
