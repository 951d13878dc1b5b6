"""A Pod that comes back, an object that is none of ours, and a Pod of any shape: each ends well."""

import base64
import copy
import json
from typing import Any

import jsonpatch
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srcip_webhook.mutate import consider, mutate
from srcip_webhook.policy import Inject, Reason, Refuse, Skip
from srcip_webhook.review import ReviewError
from srcip_webhook.settings import Settings
from support.reviews import SETTINGS, TRUSTING, pod, review

STATUS = "srcip.io/status"
PROBED = {
    "readinessProbe": {"httpGet": {"path": "/", "port": "http"}},
    "lifecycle": {"preStop": {"tcpSocket": {"port": 80}}},
}
APP = {"name": "app", "image": "a", "ports": [{"name": "http", "containerPort": 80}], **PROBED}


def injected(asked: dict[str, Any], settings: Settings = SETTINGS) -> dict[str, Any]:
    outcome = consider(asked, settings)
    assert isinstance(outcome.decision, Inject)
    return copy.deepcopy(outcome.after)


def with_annotation(asked: dict[str, Any], key: str, value: str | None) -> dict[str, Any]:
    changed = copy.deepcopy(asked)
    changed["metadata"]["annotations"][key] = value
    return changed


def test_the_incoming_pod_is_never_changed_in_place() -> None:
    asked = pod(containers=[APP])
    before = copy.deepcopy(asked)
    assert consider(asked, SETTINGS).operations()
    assert asked == before


def test_a_changed_annotation_renders_anew_what_was_added() -> None:
    asked = pod(containers=[APP])
    changed = with_annotation(injected(asked), "srcip.io/header-timeout", "1s")
    outcome = consider(changed, SETTINGS)
    assert outcome.reason == Reason.CHANGED
    fresh = injected(with_annotation(asked, "srcip.io/header-timeout", "1s"))
    assert jsonpatch.apply_patch(changed, outcome.operations()) == fresh


def test_a_changed_setting_renders_anew() -> None:
    other = Settings(proxy_image="registry.example/srcip-proxy:2")
    assert injected(injected(pod()), other) == injected(pod(), other)


@pytest.mark.parametrize("key", ["srcip.io/inject", "label"])
def test_an_opt_out_takes_away_what_was_added(key: str) -> None:
    asked = pod(containers=[APP])
    after = injected(asked)
    if key == "label":
        after["metadata"]["labels"]["srcip.io/inject"] = "false"
        asked["metadata"]["labels"] = {"srcip.io/inject": "false"}
    else:
        after["metadata"]["annotations"][key] = "false"
        asked["metadata"]["annotations"][key] = "false"
    outcome = consider(after, SETTINGS)
    assert isinstance(outcome.decision, Skip)
    assert jsonpatch.apply_patch(after, outcome.operations()) == asked


def test_what_the_api_server_fills_in_is_no_reason_to_render_anew() -> None:
    """Between two calls the API server sets defaults and mounts the service account's token everywhere."""
    after = injected(pod(containers=[APP]))
    for container in (*after["spec"]["initContainers"], *after["spec"]["containers"]):
        container["terminationMessagePath"] = "/dev/termination-log"
        container.setdefault("volumeMounts", []).append({"name": "kube-api-access-x", "mountPath": "/var/run/secrets"})
    after["spec"]["volumes"].append({"name": "kube-api-access-x", "projected": {}})
    outcome = consider(after, SETTINGS)
    assert outcome.reason == Reason.UNCHANGED
    assert outcome.operations() == []


def test_a_container_added_by_another_webhook_is_taken_in() -> None:
    after = injected(pod(containers=[APP]))
    after["spec"]["containers"].append({"name": "late", "image": "l", "ports": [{"containerPort": 9000}]})
    outcome = consider(after, SETTINGS)
    assert isinstance(outcome.decision, Inject)
    assert [str(item) for item in outcome.decision.plan.inbound_ports] == ["80", "9000"]
    names = [container["name"] for container in outcome.after["spec"]["initContainers"]]
    assert names == ["srcip-init", "srcip-proxy"]


def test_a_probe_that_somebody_changed_since_is_left_alone() -> None:
    after = injected(pod(containers=[APP]))
    after["spec"]["containers"][0]["readinessProbe"]["httpGet"]["port"] = 81
    outcome = consider(with_annotation(after, "srcip.io/inject", "false"), SETTINGS)
    assert outcome.after["spec"]["containers"][0]["readinessProbe"]["httpGet"]["port"] == 81
    assert outcome.after["spec"]["containers"][0]["lifecycle"]["preStop"]["tcpSocket"]["port"] == 80


def test_a_sidecar_removed_by_somebody_comes_back() -> None:
    after = injected(pod())
    after["spec"]["initContainers"].pop()
    assert consider(after, SETTINGS).after == injected(pod())


@pytest.mark.parametrize(
    "status",
    [
        "",
        "null",
        "[]",
        "{}",
        "[" * 100_000,
        '{"probes":{},"probeAliases":[]}',
        '{"probes":{"app":{"x":1}},"probeAliases":{}}',
    ],
)
def test_a_status_that_srcip_did_not_write_is_refused(status: str) -> None:
    outcome = consider(pod({STATUS: status}), SETTINGS)
    assert isinstance(outcome.decision, Refuse)
    assert outcome.reason == Reason.INVALID_STATUS


def test_a_forged_status_can_not_hide_a_foreign_container() -> None:
    """A container with our name is replaced by ours, not trusted."""
    status = injected(pod())["metadata"]["annotations"][STATUS]
    forged = pod({STATUS: status}, initContainers=[{"name": "srcip-proxy", "image": "evil"}])
    assert consider(forged, SETTINGS).after == injected(pod())


def test_the_settings_are_the_default_for_trusted_networks() -> None:
    outcome = consider(pod({"srcip.io/trusted-cidrs": None}), TRUSTING)
    assert isinstance(outcome.decision, Inject)
    assert outcome.decision.plan.trusted_cidrs == ("192.0.2.0/24",)


def test_the_annotation_replaces_the_settings_networks() -> None:
    outcome = consider(pod({"srcip.io/trusted-cidrs": "203.0.113.0/24"}), TRUSTING)
    assert isinstance(outcome.decision, Inject)
    assert outcome.decision.plan.trusted_cidrs == ("203.0.113.0/24",)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"operation": "UPDATE"}, "not-create"),
        ({"operation": "DELETE", "object": None}, "not-create"),
        ({"operation": "CONNECT", "subResource": "exec"}, "not-a-pod"),
        ({"kind": {"group": "apps", "version": "v1", "kind": "Deployment"}}, "not-a-pod"),
        ({"kind": {"group": "example.org", "version": "v1", "kind": "Pod"}}, "not-a-pod"),
    ],
)
def test_what_is_no_new_pod_is_let_through_untouched(request_: dict[str, Any], reason: str) -> None:
    response = mutate(review(pod()) | {"request": review(pod())["request"] | request_}, SETTINGS)["response"]
    assert response["allowed"] is True
    assert "patch" not in response
    assert response["auditAnnotations"] == {"decision": "skip", "reason": reason}


def test_a_dry_run_is_answered_like_any_other() -> None:
    wet, dry = (mutate(review(pod(), dryRun=run), SETTINGS) for run in (False, True))
    assert wet == dry


def test_the_answer_is_a_complete_admission_review() -> None:
    answer = mutate(review(pod()), SETTINGS)
    assert (answer["apiVersion"], answer["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    assert answer["response"]["uid"] == review(pod())["request"]["uid"]
    assert answer["response"]["patchType"] == "JSONPatch"
    operations = json.loads(base64.b64decode(answer["response"]["patch"]))
    assert jsonpatch.apply_patch(pod(), operations) == consider(pod(), SETTINGS).after


@pytest.mark.parametrize(
    "change", [{"kind": "Pod"}, {"apiVersion": "admission.k8s.io/v1beta1"}, {"request": None}, {"request": {}}]
)
def test_another_envelope_is_refused_with_a_reason(change: dict[str, Any]) -> None:
    with pytest.raises(ReviewError, match="not an AdmissionReview v1: "):
        mutate(review(pod()) | change, SETTINGS)


def test_a_creation_without_an_object_is_refused() -> None:
    with pytest.raises(ReviewError, match="object: missing"):
        mutate(review(None), SETTINGS)


@pytest.mark.parametrize(
    "broken", [{"containers": 5}, {"containers": [{"ports": [{"containerPort": "80"}]}]}, {"hostNetwork": "yes"}]
)
def test_a_pod_that_never_asked_is_skipped_however_broken(broken: dict[str, Any]) -> None:
    assert consider(pod({"srcip.io/mode": None}, **broken), SETTINGS).reason == Reason.NOT_REQUESTED
    assert consider(pod({"srcip.io/inject": "false"}, **broken), SETTINGS).reason == Reason.OPTED_OUT
    assert consider(pod(**broken), SETTINGS).reason == Reason.INVALID_POD


def test_a_huge_pod_is_decided_in_reasonable_time() -> None:
    """Many ports, ranges and probes must not multiply: this takes well under the test's time limit."""
    ports = [{"name": f"p{n}", "containerPort": n} for n in range(1, 15000)]
    probes = [{"name": f"c{n}", "image": "x", "livenessProbe": {"tcpSocket": {"port": 20000 + n}}} for n in range(5000)]
    items = ",".join(f"{n}-{n}" for n in range(2, 512, 2))
    asked = pod(
        {"srcip.io/exclude-inbound-ports": items}, containers=[{"name": "a", "image": "b", "ports": ports}, *probes]
    )
    assert isinstance(consider(asked, SETTINGS).decision, Inject)


junk = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=6,
)
RICH = injected(
    pod(
        initContainers=[{"name": "helper", "image": "h", "restartPolicy": "Always", "ports": [{"containerPort": 70}]}],
        containers=[{**APP, "securityContext": {"runAsUser": 1}, "resources": {"limits": {"cpu": 1}}}],
        nodeSelector={"a": "b"},
        os={"name": "linux"},
        volumes=[{"name": "v"}],
    )
)


def paths(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(found for key, value in inner for found in paths(value, (*path, key)))]


@settings(max_examples=400)
@given(st.sampled_from(paths(RICH)[1:]), junk, st.booleans())
def test_junk_anywhere_in_a_pod_ends_in_a_decision(path: tuple[Any, ...], value: Any, fresh: bool) -> None:
    asked = copy.deepcopy(RICH)
    if fresh:
        del asked["metadata"]["annotations"][STATUS]
        asked["spec"]["initContainers"], asked["spec"]["volumes"] = asked["spec"]["initContainers"][2:], []
    node: Any = asked
    try:
        for step in path[:-1]:
            node = node[step]
        node[path[-1]] = value
    except (KeyError, IndexError):
        return
    outcome = consider(asked, SETTINGS)
    patched = jsonpatch.apply_patch(copy.deepcopy(asked), outcome.operations())
    assert isinstance(outcome.decision, Inject | Skip | Refuse)
    assert consider(patched, SETTINGS).operations() == []
