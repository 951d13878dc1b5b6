"""Whoever asks for srcip and is not heard is told, whatever kind of object asks; nobody is ever stopped or changed."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srcip_webhook.app import create_app
from srcip_webhook.hints import MOST
from srcip_webhook.mutate import consider
from srcip_webhook.pod_templates import PATHS
from srcip_webhook.review import MAX_WARNING
from srcip_webhook.work import JUDGES
from support.reviews import TRUSTING, pod, post, review

UNLABELLED, LABELLED = "/hint/unlabelled", "/hint"
EXCLUDED = {"/hint/excluded/namespace": "namespaceMatchExpressions", "/hint/excluded/pod": "podMatchExpressions"}
LABEL = "kubectl label --overwrite namespace default srcip.io/injection=enabled"
MODE = "set the annotation srcip.io/mode"
WORKLOADS = [(group, kind) for group, kind in PATHS if kind not in ("Pod", "PodTemplate")]


def holding(template: dict[str, Any], group: str = "apps", kind: str = "Deployment", **meta: Any) -> dict[str, Any]:
    """An object of this kind around a Pod template."""
    inner: Any = {"metadata": template["metadata"], "spec": template["spec"]}
    for step in reversed(PATHS[group, kind]):
        inner = {step: inner}
    version = f"{group}/v1" if group else "v1"
    return {
        "apiVersion": version,
        "kind": kind,
        **inner,
        "metadata": {"name": "web", **meta, **inner.get("metadata", {})},
    }


def told(thing: dict[str, Any], path: str) -> list[str]:
    """The warnings; it is let in as it is in any case."""
    group, _, version = thing["apiVersion"].rpartition("/")
    kind = {"group": group, "version": version, "kind": thing["kind"]}
    answer = post(create_app(TRUSTING), json.dumps(review(thing, kind=kind)).encode(), path=path)
    response = answer.json()["response"]
    assert answer.status_code == 200
    assert response["allowed"] is True
    assert "patch" not in response
    found: list[str] = response.get("warnings", [])
    assert all(len(text) < MAX_WARNING for text in found)
    return found


@pytest.mark.parametrize(("group", "kind"), [("", "Pod"), *WORKLOADS])
def test_a_namespace_without_the_label_is_named(group: str, kind: str) -> None:
    """With the command that adds it."""
    (warning,) = told(holding(pod(), group, kind), UNLABELLED)
    assert "no label srcip.io/injection: enabled" in warning
    assert LABEL in warning


ASKING: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "inject": ({"srcip.io/inject": "true"}, {}),
    "networks": ({"srcip.io/trusted-cidrs": "192.0.2.0/24"}, {}),
    "label": ({}, {"srcip.io/inject": "true"}),
    "label-of-namespaces": ({}, {"srcip.io/injection": "enabled"}),
}
"""Annotations and labels of who forgot the mode."""


@pytest.mark.parametrize("case", ASKING)
@pytest.mark.parametrize(("group", "kind"), [("", "Pod"), ("apps", "Deployment"), ("batch", "CronJob")])
def test_a_missing_mode_is_named(case: str, group: str, kind: str) -> None:
    """In a namespace of either sort; what was said instead is named, too."""
    annotations, labels = ASKING[case]
    thing = {**pod(), "metadata": {"name": "web", "annotations": annotations, "labels": labels}}
    path = "/mutate" if kind == "Pod" else LABELLED
    for found in (told(holding(thing, group, kind), path), told(holding(thing, group, kind), UNLABELLED)[1:]):
        (warning,) = found
        assert MODE in warning
        assert next(iter({**annotations, **labels})) in warning


def test_a_misspelt_annotation_is_named_for_a_deployment() -> None:
    thing = {**pod(), "metadata": {"annotations": {"srcip.io/mdoe": "tproxy"}}}
    assert "did you mean srcip.io/mode?" in " ".join(told(holding(thing), LABELLED))
    said = told(holding(thing), UNLABELLED)
    assert LABEL in said[0]
    assert "did you mean srcip.io/mode?" in said[1]


def test_an_annotation_of_the_deployment_itself_is_named() -> None:
    """Nobody reads it there."""
    thing = holding({**pod(), "metadata": {}}, annotations={"srcip.io/mode": "tproxy"})
    for path in (LABELLED, UNLABELLED):
        (warning,) = told(thing, path)
        assert "move it to spec.template.metadata.annotations" in warning


def test_what_the_pods_will_be_told_the_deployment_is_told() -> None:
    """A refusal and a warning alike: those of a ReplicaSet's Pods are seen by nobody."""
    said = told(holding(pod({"srcip.io/deliver-to": "there"}, hostNetwork=True)), LABELLED)
    assert len(said) == 2
    assert all(text.startswith("srcip: its Pods will be refused: ") for text in said)
    warned = pod({"srcip.io/proxy-protocol": "off"})
    assert told(holding(warned), LABELLED) == list(consider(warned, TRUSTING).decision.warnings) != []


def test_whoever_is_heard_or_did_not_ask_is_told_nothing() -> None:
    """Who is injected, who opts out, who asks others, and who was injected by `srcip inject`."""
    assert told(holding(pod()), LABELLED) == []
    injected = consider(pod(), TRUSTING).after
    silent = [
        pod({"srcip.io/inject": "false"}),
        {**pod(), "metadata": {"labels": {"srcip.io/inject": "false"}, "annotations": {"srcip.io/mode": "tproxy"}}},
        {**pod(), "metadata": {"annotations": {"other.example/mode": "tproxy"}}},
        {**pod(), "metadata": {}},
        injected,
    ]
    for thing in silent:
        assert [told(holding(thing), path) for path in (LABELLED, UNLABELLED)] == [[], []]
    assert told(injected, UNLABELLED) == []


def test_long_lists_of_warnings_are_cut() -> None:
    """The API server would cut each of them otherwise."""
    many = {
        f"srcip.io/{name}": "?" for name in ("deliver-to", "inject", "proxy-protocol", "client-address", "http-other")
    }
    said = told(holding(pod({**many, **{f"srcip.io/max-{n}": "1" for n in range(9)}})), LABELLED)
    assert len(said) == MOST + 1
    assert said[-1].endswith("run srcip explain for all of them")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["metadata", "spec", "template", "annotations", "labels", "containers", "srcip.io/mode", "kind"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_no_object_is_too_odd(inner: Any) -> None:
    """Whatever its shape, it is let in."""
    for path in (LABELLED, UNLABELLED):
        told({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"template": inner}, "metadata": inner}, path)


@pytest.mark.parametrize("path", EXCLUDED)
def test_whoever_the_installation_leaves_out_is_told_which_value_does(path: str) -> None:
    """And who can change it; who did not ask is told nothing."""
    for thing in (pod(), holding(pod())):
        (warning,) = told(thing, path)
        assert f"admission.{EXCLUDED[path]}" in warning
        assert "administrator of srcip" in warning
    assert told(pod({"srcip.io/inject": "false"}), path) == []
    assert told({**pod(), "metadata": {}}, path) == []


OTHERS = {
    "Rollout": ("argoproj.io/v1alpha1", {"workloadRef": None}),
    "Service": ("serving.knative.dev/v1", {}),
    "Configuration": ("serving.knative.dev/v1", {}),
    "DeploymentConfig": ("apps.openshift.io/v1", {"triggers": []}),
    "CloneSet": ("apps.kruise.io/v1alpha1", {}),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_that_hold_a_template_are_told_the_same(kind: str) -> None:
    """Whatever their group: the shape tells."""
    version, spec = OTHERS[kind]
    asked = pod()
    thing = {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": "web"},
        "spec": {**spec, "template": {"metadata": asked["metadata"], "spec": {**asked["spec"], "hostNetwork": True}}},
    }
    assert ["its Pods will be refused: spec.hostNetwork" in text for text in told(thing, LABELLED)] == [True]
    assert [LABEL in text for text in told(thing, UNLABELLED)] == [True]


def test_each_path_of_the_chart_is_served() -> None:
    assert set(JUDGES) == {"/mutate", LABELLED, UNLABELLED, *EXCLUDED}
