"""Pods on every way into the cluster meet the webhook, through the API server and the chart's own certificate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from srcip_e2e.cluster.api import Api, Json, Refused
from srcip_e2e.cluster.load import injected, pod
from srcip_e2e.cluster.release import OPTED_IN, Release
from srcip_lab.state import wait_until
from srcip_proxy.plan import UID

pytestmark = pytest.mark.controlplane


def pods(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods"


def test_a_pod_that_asks_for_it_is_injected(api: Api, apps: str) -> None:
    made = api.post(pods(apps), pod("web"))
    assert [each["name"] for each in made["spec"]["initContainers"]] == ["srcip-init", "srcip-proxy"]
    assert made["metadata"]["labels"]["srcip.io/injected"] == "true"
    assert api.get(f"{pods(apps)}/web")["spec"] == made["spec"]


def test_the_sidecar_gets_no_token(api: Api, apps: str) -> None:
    """The API server mounts the Pod's token into the application's container, and into none of srcip's."""
    spec = api.post(pods(apps), pod("web"))["spec"]
    tokens = {volume["name"] for volume in spec["volumes"] if "projected" in volume}
    assert tokens
    held = {each["name"]: tokens & {m["name"] for m in each["volumeMounts"]} for each in spec["initContainers"]}
    assert held == {"srcip-init": set(), "srcip-proxy": set()}
    assert tokens & {mount["name"] for mount in spec["containers"][0]["volumeMounts"]}


def test_a_dry_run_shows_the_sidecar_and_leaves_nothing(api: Api, apps: str) -> None:
    assert injected(api.post(pods(apps), pod("web"), dryRun="All"))
    assert api.get(pods(apps))["items"] == []


def test_a_pod_whose_name_is_generated_is_injected(api: Api, apps: str) -> None:
    made = api.post(pods(apps), pod("web-"))
    assert injected(made)
    assert made["metadata"]["name"].startswith("web-")


@pytest.mark.usefixtures("controllers")
def test_the_pods_of_a_deployment_are_injected(api: Api, apps: str) -> None:
    template = pod("unused")
    template["metadata"] = {"labels": {"app": "web"}, "annotations": template["metadata"]["annotations"]}
    spec = {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template}
    made = api.post(f"/apis/apps/v1/namespaces/{apps}/deployments", {"metadata": {"name": "web"}, "spec": spec})
    assert "initContainers" not in made["spec"]["template"]["spec"]
    assert wait_until(lambda: len(api.get(pods(apps))["items"]) == 2, 120)
    for each in api.get(pods(apps))["items"]:
        assert injected(each)
        assert each["metadata"]["ownerReferences"][0]["kind"] == "ReplicaSet"


@pytest.mark.parametrize("mode", ["tproxy", "redirect", "ebpf", "ebpf,tproxy"])
def test_a_pod_that_lost_only_its_status_is_known(mode: str, api: Api, apps: str) -> None:
    """With all that the API server filled into srcip's containers, as another webhook would hand it on."""
    asked = {"srcip.io/mode": mode, "srcip.io/http-ports": "8080"}
    first = api.post(pods(apps), pod("web", annotations=asked), dryRun="All")
    status = first["metadata"]["annotations"].pop("srcip.io/status")
    meta = {key: first["metadata"][key] for key in ("name", "annotations", "labels") if key in first["metadata"]}
    again = api.post(pods(apps), {**first, "metadata": meta}, dryRun="All")
    assert again["metadata"]["annotations"]["srcip.io/status"] == status
    assert [each["name"] for each in again["spec"]["initContainers"]] == [
        each["name"] for each in first["spec"]["initContainers"]
    ]


def test_an_injected_pod_can_be_relabelled_and_deleted(api: Api, apps: str) -> None:
    made = api.post(pods(apps), pod("web"))
    changed = api.patch(f"{pods(apps)}/web", {"metadata": {"labels": {"tier": "front"}}})
    assert changed["metadata"]["labels"] == {**made["metadata"]["labels"], "tier": "front"}
    assert changed["spec"] == made["spec"]
    api.delete(f"{pods(apps)}/web")
    assert api.find(f"{pods(apps)}/web") is None


@pytest.mark.parametrize("flags", [(), ("--server-side",)], ids=["client-side", "server-side"])
def test_kubectl_apply_works_and_works_again(release: Release, apps: str, flags: tuple[str, ...]) -> None:
    document = pod("web")
    apply = ("apply", *flags, "-n", apps, "-f", "-")
    release.plane.kubectl(*apply, stdin=json.dumps(document))
    first = release.api.get(f"{pods(apps)}/web")
    assert injected(first)
    again = release.plane.kubectl(*apply, stdin=json.dumps(document))
    assert flags or "unchanged" in again.stdout
    document["metadata"]["labels"] = {"tier": "front"}
    release.plane.kubectl(*apply, stdin=json.dumps(document))
    last = release.api.get(f"{pods(apps)}/web")
    assert last["spec"] == first["spec"]
    assert last["metadata"]["labels"] == {**first["metadata"]["labels"], "tier": "front"}


def test_warnings_reach_the_client(api: Api, release: Release, apps: str) -> None:
    mistyped = pod("web", annotations={"srcip.io/mode": "tproxy", "srcip.io/trusted-cidr": "192.0.2.0/24"})
    answer = api.ask("POST", pods(apps), mistyped)
    assert answer.code == 201
    assert any("srcip.io/trusted-cidr" in each and "srcip.io/trusted-cidrs" in each for each in answer.warnings)
    mistyped["metadata"]["name"] = "web2"
    said = release.plane.kubectl("create", "-n", apps, "-f", "-", stdin=json.dumps(mistyped))
    assert "Warning: " in said.stderr
    assert "srcip.io/trusted-cidr" in said.stderr


def test_a_bad_pod_is_refused_with_every_reason(api: Api, apps: str) -> None:
    bad = {"srcip.io/mode": "tproxy", "srcip.io/inbound-ports": "70000", "srcip.io/trusted-cidrs": "192.0.2.0/33"}
    with pytest.raises(Refused) as refused:
        api.post(pods(apps), pod("web", annotations=bad))
    answer = refused.value.answer
    assert 400 <= answer.code < 500
    for reason in ("srcip.io/inbound-ports", "70000", "srcip.io/trusted-cidrs", "192.0.2.0/33"):
        assert reason in answer.message
    assert api.find(f"{pods(apps)}/web") is None


@pytest.mark.usefixtures("controllers")
def test_a_deployments_owner_reads_why_its_pods_are_refused(api: Api, apps: str) -> None:
    template: Json = pod("unused", annotations={"srcip.io/mode": "tproxi"})
    template["metadata"] = {"labels": {"app": "web"}, "annotations": template["metadata"]["annotations"]}
    spec = {"selector": {"matchLabels": {"app": "web"}}, "template": template}
    api.post(f"/apis/apps/v1/namespaces/{apps}/deployments", {"metadata": {"name": "web"}, "spec": spec})

    def said() -> list[str]:
        status = api.get(f"/apis/apps/v1/namespaces/{apps}/deployments/web").get("status", {})
        return [each["message"] for each in status.get("conditions", []) if each["type"] == "ReplicaFailure"]

    assert wait_until(said, 120)
    assert "tproxi" in said()[0]


OLDER = Path(__file__).parents[1] / "golden" / "webhook" / "renders-a-pod-of-an-older-version-anew.input.yaml"
"""A Pod as srcip made it when its user was 1337 and its ports were 15001, 15006 and 15020 to 15022."""


def of_srcip(made: Json) -> set[int]:
    """The users of srcip's containers in a Pod."""
    mine = [each for each in made["spec"]["initContainers"] if each["name"].startswith("srcip-")]
    return {each["securityContext"]["runAsUser"] for each in mine}


def test_a_pod_of_an_older_version_stays_as_it_is_until_it_is_made_anew(
    api: Api, others: Callable[[dict[str, str]], str]
) -> None:
    """Changes of the old Pod pass the upgraded webhook, and its spec is never touched. A copy of it gets today's user
    and ports, and nothing is left of the old ones."""
    older = yaml.safe_load(OLDER.read_text())
    namespace = others({})
    path = pods(namespace)
    api.post(path, older)
    before = api.get(f"{path}/web")
    api.patch(f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": OPTED_IN}})
    copy = {**older, "metadata": {**older["metadata"], "name": "copy"}}
    assert wait_until(lambda: of_srcip(api.post(path, copy, dryRun="All")) == {UID}, 120, every_s=0.1)
    for change in ({"labels": {"x": "y"}}, {"annotations": {"srcip.io/deliver-to": "pod"}}):
        answer = api.ask("PATCH", f"{path}/web", {"metadata": change}, content="application/merge-patch+json")
        assert (answer.code, answer.warnings) == (200, ())
    after = api.get(f"{path}/web")
    assert (of_srcip(after), after["spec"]) == ({1337}, before["spec"])
    assert after["metadata"]["annotations"]["srcip.io/status"] == before["metadata"]["annotations"]["srcip.io/status"]
    anew = str(api.post(path, copy, dryRun="All")["spec"])
    assert [sign for sign in ("1337", "15001", "15006", "15020", "15021", "15022") if sign in anew] == []
