"""Whoever asks and is not heard gets a Warning and what they wrote; a dead webhook stops nobody."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cluster.api import Answer, Api, Json
from cluster.load import injected, pod
from cluster.release import Release

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
NO_MODE = "without the annotation srcip.io/mode"
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
