"""Who does the privileged work for a Pod, and what becomes of Pods that webhooks of two settings or versions saw."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from srcip_proxy.plan import ENV
from srcip_webhook.annotations import AGENT, STATUS
from srcip_webhook.cli import main
from srcip_webhook.mutate import Outcome, consider
from srcip_webhook.reasons import Reason
from srcip_webhook.settings import from_environ
from support.reviews import TRUSTING, pod

WITH_AGENT = replace(TRUSTING, agent=True)
RESTRICTED = {"ALL"}
"""What level `restricted` wants to be dropped."""
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
"""What it allows: https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted"""
EBPF = {"srcip.io/mode": "ebpf"}


def gate(outcome: Outcome) -> dict[str, Any]:
    """The only init container."""
    (found,) = outcome.after["spec"]["initContainers"]
    return found  # type: ignore[no-any-return]


def label(outcome: Outcome) -> str | None:
    found: str | None = outcome.after["metadata"].get("labels", {}).get(AGENT)
    return found


def test_the_gate_has_no_privilege_at_all() -> None:
    """No capability, no root, nothing of the node's, no token, and nothing to write to."""
    after = consider(pod(EBPF), WITH_AGENT)
    security = gate(after)["securityContext"]
    assert set(security["capabilities"]["drop"]) == RESTRICTED
    assert "add" not in security["capabilities"]
    assert (security["runAsNonRoot"], security["allowPrivilegeEscalation"], security["privileged"]) == (
        True,
        False,
        False,
    )
    assert (security["readOnlyRootFilesystem"], security["seccompProfile"]) == (True, {"type": "RuntimeDefault"})
    assert all(mount["readOnly"] for mount in gate(after)["volumeMounts"])
    assert [each.keys() - {"name"} for each in after.after["spec"]["volumes"]] == [{"emptyDir"}]
    assert {"emptyDir"} <= VOLUMES


def test_the_gate_is_told_what_the_init_container_would_be() -> None:
    """The same plan and the same facts about the Pod: both speak of the same programs."""
    by_agent, by_pod = (gate(consider(pod(EBPF), settings)) for settings in (WITH_AGENT, TRUSTING))
    assert by_agent["env"] == by_pod["env"]
    assert ENV in [each["name"] for each in by_agent["env"]]
    assert by_agent["command"] == ["srcip-proxy", "gate"]


@pytest.mark.parametrize(
    ("enabled", "said", "mode", "expected"),
    [
        (True, None, "ebpf", "ebpf"),
        (True, "agent", "ebpf", "ebpf"),
        (True, "pod", "ebpf", None),
        (True, None, "tproxy", None),
        (True, None, "redirect", None),
        (True, None, "ebpf,tproxy", None),
        (False, None, "ebpf", None),
        (False, "pod", "ebpf", None),
    ],
)
def test_the_label_is_there_exactly_where_the_agent_does_it(
    enabled: bool, said: str | None, mode: str, expected: str | None
) -> None:
    """The agent finds its Pods by it; all others look as they do without an agent."""
    asked = pod({"srcip.io/mode": mode, "srcip.io/privilege": said, "srcip.io/http-ports": None})
    outcome, usual = consider(asked, replace(TRUSTING, agent=enabled)), consider(asked, TRUSTING)
    assert label(outcome) == expected
    assert expected is not None or outcome.after == usual.after


@pytest.mark.parametrize("mode", ["tproxy", "redirect", "ebpf,tproxy"])
def test_a_mode_with_a_sidecar_is_refused_with_both_ways_out(mode: str) -> None:
    """One sentence names the mode that works and the privilege that does."""
    outcome = consider(
        pod({"srcip.io/mode": mode, "srcip.io/privilege": "agent", "srcip.io/http-ports": "8080"}), WITH_AGENT
    )
    (message,) = (text for text in outcome.messages if "privilege" in text)
    assert "use srcip.io/mode: ebpf, or srcip.io/privilege: pod" in message
    assert outcome.reason == Reason.NO_AGENT


def test_a_pod_that_changes_its_way_keeps_nothing_of_the_other() -> None:
    """Label, volume and container go with the way; a third look changes nothing."""
    first = consider(pod(EBPF), WITH_AGENT).after
    second = consider(first, TRUSTING)
    assert second.after == consider(pod(EBPF), TRUSTING).after
    assert second.reason == Reason.CHANGED
    assert consider(second.after, WITH_AGENT).after == first
    assert consider(first, WITH_AGENT).reason == Reason.UNCHANGED


def test_a_pod_that_an_older_webhook_saw_in_between_comes_right() -> None:
    """A webhook of a version that knows no agent takes back containers, volumes and status, and leaves the label: the
    next look makes the Pod whole again."""
    labelled = deepcopy(consider(pod(EBPF), TRUSTING).after)
    labelled["metadata"]["labels"] = {AGENT: "ebpf"}
    assert consider(labelled, WITH_AGENT).after == consider(pod(EBPF), WITH_AGENT).after
    assert label(consider(labelled, TRUSTING)) is None


def test_a_gate_without_its_status_is_known_by_its_content() -> None:
    """Another webhook removed the annotation: the gate and its label are srcip's again, not refused as forged."""
    whole = consider(pod(EBPF), WITH_AGENT).after
    stripped = deepcopy(whole)
    del stripped["metadata"]["annotations"][STATUS]
    again = consider(stripped, WITH_AGENT)
    assert (again.after, again.reason) == (whole, Reason.CHANGED)


@pytest.mark.parametrize("settings", [TRUSTING, WITH_AGENT])
@pytest.mark.parametrize("mode", ["ebpf", "tproxy"])
def test_a_label_of_the_agents_that_somebody_else_wrote_is_refused(mode: str, settings: Any) -> None:
    """Taken off in silence, a selector that names it would make its controller create Pods without end."""
    asked = pod({"srcip.io/mode": mode})
    asked["metadata"]["labels"] = {AGENT: "ebpf"}
    assert consider(asked, settings).messages == [
        "label srcip.io/agent is written by srcip alone, when the agent does the work for a Pod; remove it"
    ]


@pytest.mark.parametrize(("text", "enabled"), [("true", True), ("false", False), ("", False)])
def test_the_setting_is_read_from_the_environment(text: str, enabled: bool) -> None:
    assert from_environ({"SRCIP_PROXY_IMAGE": "a/b:1", "SRCIP_AGENT": text}).agent is enabled


def namespace(level: str | None, name: str = "shop") -> dict[str, Any]:
    labels = {"pod-security.kubernetes.io/enforce": level} if level else {}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def in_shop(mode: str) -> dict[str, Any]:
    found = pod({"srcip.io/mode": mode})
    return {**found, "metadata": {**found["metadata"], "namespace": "shop"}}


def explained(*documents: Any, agent: bool = False) -> str:
    text = yaml.safe_dump_all(documents)
    command = ["explain", "-f", "-", *(["--agent"] if agent else [])]
    result = CliRunner().invoke(main, command, input=text, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("level", ["baseline", "restricted"])
def test_explain_says_which_way_a_pod_goes_and_what_its_level_makes_of_it(level: str) -> None:
    """By the agent the level allows what srcip adds; by the Pod itself it does not, and the way out is named."""
    by_agent = explained(namespace(level), in_shop("ebpf"), agent=True)
    assert "privilege: agent" in by_agent
    assert f"level:     {level} in namespace shop, which allows what srcip adds\n" in by_agent
    by_pod = explained(in_shop("ebpf"), namespace(level))
    assert "privilege: pod" in by_pod
    refusing = f"level:     {level} in namespace shop, which refuses the Pod for what srcip adds"
    assert f"{refusing}; with srcip.io/privilege: agent it would allow that\n" in by_pod
    assert f"{refusing}\n" in explained(namespace(level), in_shop("tproxy"), agent=True)


def test_explain_says_nothing_of_a_level_that_the_manifest_does_not_tell() -> None:
    """A namespace without the label, one that is not in the manifest, and a Pod that names none."""
    for documents in ([namespace(None), in_shop("ebpf")], [in_shop("ebpf")], [namespace("baseline"), pod(EBPF)]):
        assert "level:" not in explained(*documents)
    assert "level:     privileged in namespace shop, which allows" in explained(
        namespace("privileged"), in_shop("tproxy")
    )


def test_explain_finds_the_namespace_of_templates_and_lists() -> None:
    """A Deployment names the namespace of its Pods, and a List holds both."""
    template = pod(EBPF)
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"template": {"metadata": template["metadata"], "spec": template["spec"]}},
    }
    both = {"apiVersion": "v1", "kind": "List", "items": [namespace("restricted"), deployment]}
    assert "restricted in namespace shop, which refuses" in explained(both)
