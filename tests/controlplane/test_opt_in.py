"""Whoever did not ask for srcip never meets it, alive or dead; whoever did is not let in without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from srcip_e2e.cluster.api import Api, Json
from srcip_e2e.cluster.load import injected, pod
from srcip_e2e.cluster.release import OPTED_IN, Release

pytestmark = pytest.mark.controlplane

Others = Callable[[dict[str, str]], str]


@pytest.fixture(scope="module", params=["alive", "dead"])
def webhook(request: pytest.FixtureRequest, release: Release) -> Iterator[str]:
    """The webhook, with all its replicas or with none."""
    if request.param == "alive":
        yield request.param
        return
    release.scale(0)
    yield request.param
    release.scale(2)


@pytest.fixture
def kube_system(api: Api) -> Iterator[str]:
    """The namespace kube-system, opted in by mistake."""
    api.patch("/api/v1/namespaces/kube-system", {"metadata": {"labels": OPTED_IN}})
    yield "kube-system"
    api.patch("/api/v1/namespaces/kube-system", {"metadata": {"labels": dict.fromkeys(OPTED_IN)}})


@pytest.fixture
def own(api: Api, release: Release) -> Iterator[str]:
    """The namespace of the release, opted in by mistake."""
    path = f"/api/v1/namespaces/{release.namespace}"
    api.patch(path, {"metadata": {"labels": OPTED_IN}})
    yield release.namespace
    api.patch(path, {"metadata": {"labels": dict.fromkeys(OPTED_IN)}})


def create(api: Api, namespace: str, wanted: Json) -> Json:
    return api.post(f"/api/v1/namespaces/{namespace}/pods", wanted, dryRun="All")


@pytest.mark.usefixtures("webhook")
def test_who_did_not_ask_is_left_alone(api: Api, apps: str, others: Others, kube_system: str, own: str) -> None:
    cases = {
        "a namespace without the label": (others({}), pod()),
        "a namespace that is opted out": (others({"srcip.io/injection": "disabled"}), pod()),
        "a Pod without the annotation": (apps, pod(annotations={})),
        "a Pod with the opt-out label": (apps, pod(labels={"srcip.io/inject": "false"})),
        "kube-system": (kube_system, pod()),
        "the release's own namespace": (own, pod()),
    }
    for case, (namespace, wanted) in cases.items():
        made = create(api, namespace, wanted)
        assert not injected(made), case
        assert "initContainers" not in made["spec"], case
        assert "srcip.io/status" not in made["metadata"].get("annotations", {}), case


def test_who_asked_is_refused_while_the_webhook_is_dead_and_told_who_refuses(api: Api, apps: str, webhook: str) -> None:
    answer = api.ask("POST", f"/api/v1/namespaces/{apps}/pods", pod("web"))
    if webhook == "alive":
        assert answer.code == 201
        return
    assert answer.code == 500
    assert 'failed calling webhook "inject.srcip.io"' in answer.message
    assert api.get(f"/api/v1/namespaces/{apps}/pods")["items"] == []
