"""The agent's way against the real API server: its Pod Security, its token mounts, and helm's look at the namespace."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from srcip_e2e.cluster.api import Api, Json, Refused
from srcip_e2e.cluster.controlplane import ControlPlane
from srcip_e2e.cluster.load import pod
from srcip_e2e.cluster.release import OPTED_IN, Release
from srcip_lab.state import wait_until

pytestmark = [pytest.mark.controlplane, pytest.mark.usefixtures("controllers")]
ENFORCE = "pod-security.kubernetes.io/enforce"
RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": 65534,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""What level `restricted` asks of the application, so that only what srcip adds can be in the way."""
WITH_AGENT = {"agent": {"enabled": True}}


@pytest.fixture(scope="module")
def with_agent(release: Release) -> Iterator[Release]:
    """The release with the agent enabled; afterwards it is as it was."""
    replace(release, {**release.values, **WITH_AGENT})
    yield release
    replace(release, release.values)


def replace(release: Release, values: Json) -> None:
    """Upgrade, and wait until no webhook of the old values answers any more: it does for some seconds."""
    path = f"/api/v1/namespaces/{release.namespace}/pods"

    def webhooks() -> set[str]:
        return {each["metadata"]["uid"] for each in release.api.get(path)["items"]}

    before = webhooks()
    release.upgrade(values)
    assert wait_until(lambda: not before & webhooks(), 60)


@pytest.fixture(params=["baseline", "restricted"])
def strict(request: pytest.FixtureRequest, others: Callable[[dict[str, str]], str]) -> str:
    """A namespace that is opted in and enforces this level."""
    return others({**OPTED_IN, ENFORCE: request.param})


def asking(mode: str, **more: str) -> Json:
    """A Pod whose own container the level takes."""
    found = pod("web", annotations={"srcip.io/mode": mode, **{f"srcip.io/{key}": text for key, text in more.items()}})
    found["spec"]["containers"][0]["securityContext"] = RESTRICTED
    return found


def create(api: Api, namespace: str, what: Json) -> Json:
    """As a dry run: Pod Security and all webhooks decide just so."""
    return api.post(f"/api/v1/namespaces/{namespace}/pods", what, dryRun="All")


@pytest.mark.usefixtures("release")
@pytest.mark.parametrize("labels", [OPTED_IN, {}])
def test_a_forged_label_on_a_pod_that_does_not_ask_is_a_warning(
    labels: dict[str, str], api: Api, others: Callable[[dict[str, str]], str]
) -> None:
    """The Pod is let in unchanged, with a word about the label: it is its owner's own."""
    forged = pod("web", annotations={}, labels={"srcip.io/agent": "ebpf"})
    answer = api.ask("POST", f"/api/v1/namespaces/{others(labels)}/pods?dryRun=All", forged)
    assert (answer.code, answer.body["metadata"]["labels"]) == (201, forged["metadata"]["labels"])
    assert "initContainers" not in answer.body["spec"]
    assert any("srcip" in each for each in answer.warnings), answer.warnings


@pytest.mark.usefixtures("release")
def test_without_an_agent_nobody_gets_its_way(api: Api, apps: str) -> None:
    """Who asks for it is refused, and told why."""
    with pytest.raises(Refused, match="no agent is enabled in this cluster"):
        create(api, apps, asking("ebpf", privilege="agent"))


@pytest.mark.usefixtures("with_agent")
def test_a_strict_namespace_takes_a_pod_that_the_agent_sets_up(api: Api, strict: str) -> None:
    """Mode ebpf and nothing else said: the API server takes the Pod, with the gate and the label."""
    made = create(api, strict, asking("ebpf"))
    (gate,) = made["spec"]["initContainers"]
    assert gate["command"] == ["srcip-proxy", "gate"]
    assert made["metadata"]["labels"]["srcip.io/agent"] == "ebpf"
    assert json.loads(made["metadata"]["annotations"]["srcip.io/status"])["privilege"] == "agent"


@pytest.mark.usefixtures("with_agent")
@pytest.mark.parametrize(("mode", "more"), [("ebpf", {"privilege": "pod"}), ("tproxy", {}), ("redirect", {})])
def test_a_strict_namespace_refuses_a_pod_with_privilege(
    mode: str, more: dict[str, str], api: Api, strict: str
) -> None:
    """Today's way stays what it was: the level names srcip's container and what it must not have."""
    with pytest.raises(Refused, match=r"violates PodSecurity .*srcip-init.*NET_ADMIN"):
        create(api, strict, asking(mode, **more, **({"http-ports": "8080"} if mode == "redirect" else {})))


@pytest.mark.usefixtures("with_agent")
def test_the_gate_gets_no_token(api: Api, apps: str) -> None:
    """The API server mounts the Pod's token into the application's container, and not into the gate."""
    spec = create(api, apps, asking("ebpf"))["spec"]
    tokens = {volume["name"] for volume in spec["volumes"] if "projected" in volume}
    (gate,), (app,) = spec["initContainers"], spec["containers"]
    assert tokens & {mount["name"] for mount in app["volumeMounts"]}
    assert not tokens & {mount["name"] for mount in gate["volumeMounts"]}


@pytest.mark.usefixtures("with_agent")
@pytest.mark.parametrize("mode", ["tproxy", "redirect", "ebpf,tproxy"])
def test_a_mode_with_a_sidecar_is_refused_in_words(mode: str, api: Api, apps: str) -> None:
    """Who asks for the agent and can't have it is told both ways out."""
    with pytest.raises(Refused, match=r"use srcip\.io/mode: ebpf, or srcip\.io/privilege: pod"):
        create(api, apps, asking(mode, **{"privilege": "agent", "http-ports": "8080"}))


@pytest.mark.usefixtures("with_agent")
def test_a_pod_that_comes_back_stays_as_it_is(api: Api, apps: str) -> None:
    """With all that the API server filled in, with its status and without it."""
    first = create(api, apps, asking("ebpf"))
    meta = {key: first["metadata"][key] for key in ("name", "annotations", "labels")}
    assert create(api, apps, {**first, "metadata": meta})["spec"] == first["spec"]
    stripped = {**meta, "annotations": {"srcip.io/mode": "ebpf"}}
    again = create(api, apps, {**first, "metadata": stripped})
    assert again["metadata"]["annotations"]["srcip.io/status"] == meta["annotations"]["srcip.io/status"]
    assert len(again["spec"]["initContainers"]) == 1


@pytest.mark.usefixtures("with_agent")
def test_nobody_writes_the_agents_label_but_srcip(api: Api, apps: str) -> None:
    """A Pod that asks and brings the label along is refused."""
    forged = asking("ebpf")
    forged["metadata"]["labels"] = {"srcip.io/agent": "ebpf"}
    with pytest.raises(Refused, match=r"label srcip\.io/agent is written by srcip alone"):
        create(api, apps, forged)


def test_helm_refuses_the_agent_in_a_namespace_that_would_refuse_its_pods(plane: ControlPlane, api: Api) -> None:
    """At install, with the command that helps; where the level is privileged, or not told, it goes on."""
    for level, refused in {"baseline": True, "restricted": True, "privileged": False}.items():
        where = f"agent-{level}"
        labels = {ENFORCE: level}
        api.post("/api/v1/namespaces", {"metadata": {"name": where, "labels": labels}})
        beside = Release(plane, api, name="beside", namespace=where, values={"trustedCIDRs": ["198.51.100.0/24"]})
        done = beside.helm("install", "--dry-run=server", values={**beside.values, **WITH_AGENT}, check=False)
        assert bool(done.returncode) is refused, done.stderr
        if refused:
            assert f"needs a namespace of Pod Security level privileged, and {where} enforces {level}" in done.stderr
            assert f"kubectl label namespace {where} {ENFORCE}=privileged --overwrite" in done.stderr
