"""Whoever asks and is not heard gets a Warning and what they wrote; a dead webhook stops nobody."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from srcip_e2e.cluster.api import Answer, Api, Json
from srcip_e2e.cluster.controlplane import ControlPlane
from srcip_e2e.cluster.load import injected, pod
from srcip_e2e.cluster.release import Release
from srcip_lab.state import wait_until

pytestmark = pytest.mark.controlplane

Others = Callable[[dict[str, str]], str]
KINDS = {
    "Pod": "/api/v1/namespaces/{}/pods",
    "ReplicationController": "/api/v1/namespaces/{}/replicationcontrollers",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "StatefulSet": "/apis/apps/v1/namespaces/{}/statefulsets",
    "DaemonSet": "/apis/apps/v1/namespaces/{}/daemonsets",
    "ReplicaSet": "/apis/apps/v1/namespaces/{}/replicasets",
    "Job": "/apis/batch/v1/namespaces/{}/jobs",
    "CronJob": "/apis/batch/v1/namespaces/{}/cronjobs",
}
NO_LABEL = "the namespace has no label srcip.io/injection: enabled"
NO_MODE = "set the annotation srcip.io/mode"
FORGOT = {"srcip.io/trusted-cidrs": "192.0.2.0/24"}


def wanted(kind: str, annotations: dict[str, str] | None = None) -> Json:
    """An object of this kind around the usual Pod."""
    made = pod("web", annotations=annotations, labels={"app": "web"})
    if kind == "Pod":
        return made
    template = {
        "metadata": {key: made["metadata"][key] for key in ("annotations", "labels")},
        "spec": dict(made["spec"]),
    }
    spec: Json = {"template": template}
    if kind in ("Job", "CronJob"):
        template["spec"]["restartPolicy"] = "Never"
    else:
        spec["selector"] = {"app": "web"} if kind == "ReplicationController" else {"matchLabels": {"app": "web"}}
    if kind == "StatefulSet":
        spec["serviceName"] = "web"
    if kind == "CronJob":
        spec = {"schedule": "0 0 * * *", "jobTemplate": {"spec": spec}}
    return {"metadata": {"name": "web"}, "spec": spec}


def create(api: Api, kind: str, namespace: str, annotations: dict[str, str] | None = None) -> Answer:
    return api.ask("POST", f"{KINDS[kind].format(namespace)}?dryRun=All", wanted(kind, annotations))


@pytest.mark.parametrize("kind", KINDS)
def test_an_unlabelled_namespace_is_a_warning(kind: str, release: Release, api: Api, others: Others) -> None:
    """The object is created, unchanged; the label may be missing or say something else."""
    for labels in ({}, {"srcip.io/injection": "true"}):
        namespace = others(labels)
        answer = create(api, kind, namespace)
        assert (answer.code, injected(answer.body)) == (201, False), answer.body
        assert [NO_LABEL in each and namespace in each for each in answer.warnings] == [True], answer.warnings


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_mode_is_a_warning(kind: str, api: Api, apps: str, others: Others) -> None:
    """With the label and without it."""
    answer = create(api, kind, apps, FORGOT)
    assert answer.code == 201, answer.body
    assert [NO_MODE in each for each in answer.warnings] == [True], answer.warnings
    both = create(api, kind, others({}), FORGOT).warnings
    assert [NO_LABEL in both[0], NO_MODE in both[1]] == [True, True]


def test_a_deployment_is_told_what_its_pods_will_be_refused_for(api: Api, apps: str) -> None:
    """It is created all the same, as it would be without srcip."""
    answer = create(api, "Deployment", apps, {"srcip.io/mode": "tpoxy"})
    assert answer.code == 201
    assert any("its Pods will be refused: srcip.io/mode" in each for each in answer.warnings), answer.warnings


def test_an_update_that_asks_is_a_warning(release: Release, api: Api, others: Others) -> None:
    """As `kubectl annotate` or a second `kubectl apply` makes it."""
    namespace = others({})
    path = KINDS["Deployment"].format(namespace)
    assert api.ask("POST", path, wanted("Deployment", {})).warnings == ()
    change = {"spec": {"template": {"metadata": {"annotations": {"srcip.io/mode": "tproxy"}}}}}
    merge = "application/merge-patch+json"
    assert NO_LABEL in str(api.ask("PATCH", f"{path}/web", change, content=merge).warnings)


@pytest.mark.parametrize("kind", KINDS)
def test_who_asks_nothing_or_is_heard_is_told_nothing(kind: str, api: Api, apps: str, others: Others) -> None:
    """No annotation of srcip, an opt-out, another prefix; and one that is heard."""
    for said in ({}, {"srcip.io/mode": "tproxy", "srcip.io/inject": "false"}, {"other.example/mode": "tproxy"}):
        assert create(api, kind, others({}), said).warnings == ()
    heard = {"srcip.io/mode": "tproxy"}
    answer = create(api, kind, apps, heard)
    assert (answer.code, answer.warnings) == (201, ())
    assert injected(answer.body) is (kind == "Pod")


def test_the_template_of_a_deployment_is_told_once(api: Api, others: Others) -> None:
    """Its ReplicaSet is its controller's, who reads no warnings."""
    owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "1", "controller": True}
    owned = wanted("ReplicaSet")
    owned["metadata"]["ownerReferences"] = [owner]
    answer = api.ask("POST", f"{KINDS['ReplicaSet'].format(others({}))}?dryRun=All", owned)
    assert (answer.code, answer.warnings) == (201, ())


RESOURCES = {"rollouts.argoproj.io": "Rollout", "services.serving.knative.dev": "Service"}


@pytest.fixture(scope="module")
def others_kinds(plane: ControlPlane, api: Api) -> None:
    """Kinds of others that hold a Pod template, with schemas that take everything."""
    for name, kind in RESOURCES.items():
        plural, _, group = name.partition(".")
        schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
        names = {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"}
        version = {"name": "v1", "served": True, "storage": True, "schema": schema}
        spec = {"group": group, "names": names, "scope": "Namespaced", "versions": [version]}
        made = {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": name},
            "spec": spec,
        }
        assert api.ask("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", made).code == 201
        path = f"/apis/{group}/v1/{plural}"
        deadline = time.monotonic() + 120
        while api.ask("GET", path).code != 200:
            assert time.monotonic() < deadline, f"{path} is not served"
            time.sleep(0.2)


@pytest.mark.parametrize("name", RESOURCES)
def test_a_kind_of_others_with_a_template_is_told_the_same(
    name: str, others_kinds: None, api: Api, apps: str, others: Others
) -> None:
    """Argo's Rollout and Knative's Service; one of them that names nothing of srcip is told nothing."""
    plural, _, group = name.partition(".")
    for asking, said in (({"srcip.io/mode": "tpoxy"}, "its Pods will be refused: srcip.io/mode"), ({}, "")):
        asked = {**wanted("Deployment", asking), "apiVersion": f"{group}/v1", "kind": RESOURCES[name]}
        answer = api.ask("POST", f"/apis/{group}/v1/namespaces/{apps}/{plural}?dryRun=All", asked)
        assert (answer.code, [said in each for each in answer.warnings]) == (201, [True] if said else []), answer
    asked = {**wanted("Deployment"), "apiVersion": f"{group}/v1", "kind": RESOURCES[name]}
    answer = api.ask("POST", f"/apis/{group}/v1/namespaces/{others({})}/{plural}?dryRun=All", asked)
    assert (answer.code, [NO_LABEL in each for each in answer.warnings]) == (201, [True]), answer


LEFT_OUT = {
    "namespaceMatchExpressions": [
        {"key": "srcip.io/injection", "operator": "Exists"},
        {"key": "left-out", "operator": "DoesNotExist"},
        {"key": "left-out", "operator": "NotIn", "values": ["too"]},
    ],
    "podMatchExpressions": [{"key": "left-out", "operator": "DoesNotExist"}],
    "matchConditions": [{"name": "few", "expression": "size(object.spec.containers) < 2"}],
}
"""Values that leave out what is labelled so, and Pods of two containers."""


@pytest.fixture
def narrowed(release: Release, apps: str, api: Api) -> Iterator[None]:
    """The release with these values; ready when the API server calls the new entries."""
    release.helm("upgrade", values={**release.values, "admission": LEFT_OUT})
    asking = pod("web", labels={"left-out": "yes"})
    path = f"{KINDS['Pod'].format(apps)}?dryRun=All"
    assert wait_until(lambda: bool(api.ask("POST", path, asking).warnings), 120, every_s=0.2)
    yield
    release.helm("upgrade")


def test_whoever_is_left_out_by_the_charts_values_is_warned(
    narrowed: None, api: Api, apps: str, others: Others
) -> None:
    """By a selector of namespaces, one of Pods, or a condition: once, and the value is named. Others go on."""
    namespace = others({"srcip.io/injection": "enabled", "left-out": "too"})
    for kind in KINDS:
        answer = create(api, kind, namespace)
        assert (answer.code, injected(answer.body)) == (201, False)
        assert ["admission.namespaceMatchExpressions" in each for each in answer.warnings] == [True], answer.warnings
        assert create(api, kind, namespace, {}).warnings == ()
    path = f"{KINDS['Pod'].format(apps)}?dryRun=All"
    labelled, double = pod("web", labels={"left-out": "yes"}), pod("web")
    double["spec"]["containers"].append({"name": "other", "image": "other"})
    for asked in (labelled, double):
        answer = api.ask("POST", path, asked)
        assert (answer.code, injected(answer.body)) == (201, False), answer.body
        assert ["admission.podMatchExpressions" in each for each in answer.warnings] == [True], answer.warnings
    answer = create(api, "Pod", apps)
    assert (answer.warnings, injected(answer.body)) == ((), True)


def test_a_dead_webhook_stops_nobody(release: Release, api: Api, apps: str, others: Others) -> None:
    """Neither templates anywhere nor Pods in namespaces without the label."""
    release.scale(0)
    try:
        namespace = others({})
        assert {kind: create(api, kind, namespace).code for kind in KINDS} == dict.fromkeys(KINDS, 201)
        templates = [kind for kind in KINDS if kind != "Pod"]
        assert {kind: create(api, kind, apps).code for kind in templates} == dict.fromkeys(templates, 201)
    finally:
        release.scale(2)
