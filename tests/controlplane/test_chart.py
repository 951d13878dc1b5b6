"""What only a real API server can say about the chart: its CEL conditions, merges over its objects, its own dry run."""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from srcip_e2e.cluster.api import JSON_PATCH, Api, Json
from srcip_e2e.cluster.controlplane import ControlPlane
from srcip_e2e.cluster.load import TRUSTED, injected, pod
from srcip_e2e.cluster.release import CHART, CONFIGURATIONS, Release

pytestmark = pytest.mark.controlplane

UNINSTALL = Path(__file__).parents[2] / "docs" / "uninstall.md"
MISSPELT = {"srcip.io/mdoe": "tproxy"}
BUNDLE = base64.b64encode(b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n").decode()
DRY_RUN = "dryRun=All"
ENTRIES = 4
"""Webhooks of the configuration."""


@pytest.fixture
def dead(release: Release) -> Iterator[Release]:
    """The webhook without a replica."""
    release.scale(0)
    yield release
    release.scale(2)


def ask(api: Api, namespace: str, annotations: dict[str, str]) -> tuple[int, tuple[str, ...], Json]:
    """Create a Pod as a dry run: status, warnings, Pod."""
    wanted = pod("web")
    wanted["metadata"]["annotations"] = annotations
    answer = api.ask("POST", f"/api/v1/namespaces/{namespace}/pods?{DRY_RUN}", wanted)
    return answer.code, answer.warnings, answer.body


def test_a_mistyped_annotation_is_a_warning(api: Api, apps: str) -> None:
    """Whoever creates the Pod sees it; the Pod is as it was."""
    code, warnings, made = ask(api, apps, MISSPELT)
    assert (code, injected(made)) == (201, False)
    assert any("did you mean srcip.io/mode?" in each for each in warnings), warnings


@pytest.mark.usefixtures("dead")
def test_a_dead_webhook_stops_only_who_asks(api: Api, apps: str) -> None:
    """A mistyped annotation, an opt-out by annotation, annotations of others: all are let in. An empty mode asks: a
    template whose variable was empty meant something."""
    did_not_ask: list[dict[str, str]] = [
        MISSPELT,
        {"srcip.io/mode": "tproxy", "srcip.io/inject": "false"},
        {"other.example/mode": "tproxy"},
        {},
    ]
    assert [ask(api, apps, annotations)[0] for annotations in did_not_ask] == [201] * len(did_not_ask)
    code, _, body = ask(api, apps, {"srcip.io/mode": ""})
    assert code == 500
    assert "inject.srcip.io" in body["message"]
    series_of_the_api_server(api.text("/metrics"))


def series_of_the_api_server(text: str) -> None:
    """Those that the alerts ask for count what just happened."""
    refused = [line for line in text.splitlines() if line.startswith("apiserver_admission_webhook_rejection_count{")]
    assert any('name="inject.srcip.io"' in line and 'error_type="no_error"' not in line for line in refused)
    opened = [line for line in text.splitlines() if line.startswith("apiserver_admission_webhook_fail_open_count{")]
    assert any('name="hint.srcip.io"' in line for line in opened)


@pytest.fixture
def quiet(plane: ControlPlane, api: Api) -> Iterator[Release]:
    """A release whose Pods never start, so that nobody repairs its caBundle."""
    values = {"trustedCIDRs": [TRUSTED], "certs": {"image": {"repository": "not/there"}}}
    found = Release(plane, api, name="quiet", namespace="quiet-system", values=values)
    found.helm("install", "--create-namespace", "--no-hooks")
    name = found.configuration()["metadata"]["name"]
    places = [f"/webhooks/{at}/clientConfig/caBundle" for at in range(ENTRIES)]
    wanted = [{"op": "add", "path": place, "value": BUNDLE} for place in places]
    api.patch(f"{CONFIGURATIONS}/{name}", wanted, content=JSON_PATCH)
    yield found
    plane.helm("uninstall", found.name, "-n", found.namespace, "--no-hooks", "--ignore-not-found")


def bundles(release: Release) -> list[str | None]:
    return [each["clientConfig"].get("caBundle") for each in release.configuration()["webhooks"]]


def test_an_upgrade_leaves_the_bundle_alone(quiet: Release) -> None:
    """helm's three-way merge, with something else changed right beside it."""
    changed = {**quiet.values, "admission": {"timeoutSeconds": 7}}
    quiet.helm("upgrade", "--no-hooks", values=changed)
    assert quiet.configuration()["webhooks"][0]["timeoutSeconds"] == 7
    assert bundles(quiet) == [BUNDLE] * ENTRIES


@pytest.mark.parametrize("how", [("--server-side", "--force-conflicts", "--field-manager=gitops"), ()])
def test_an_apply_leaves_the_bundle_alone(quiet: Release, how: tuple[str, ...]) -> None:
    """GitOps tools apply the rendered chart, on the server's side or on theirs, again and again."""
    values = {**quiet.values, "admission": {"timeoutSeconds": 8}}
    text = quiet.helm(
        "template", "--no-hooks", "--show-only=templates/mutatingwebhookconfiguration.yaml", values=values
    )
    for _ in range(2):
        quiet.plane.kubectl("apply", *how, "-f", "-", stdin=text.stdout)
    assert quiet.configuration()["webhooks"][0]["timeoutSeconds"] == 8
    assert bundles(quiet) == [BUNDLE] * ENTRIES


def test_an_own_certificate_replaces_the_bundle(quiet: Release) -> None:
    """helm writes what is in its manifest, whatever srcip-certs left there."""
    authority = base64.b64decode(BUNDLE).decode().replace("AA==", "BB==")
    certificates = {"mode": "secret", "secret": {"name": "own", "caBundle": authority}}
    quiet.helm("upgrade", "--no-hooks", values={**quiet.values, "certificates": certificates})
    assert bundles(quiet) == [base64.b64encode(authority.encode()).decode()] * ENTRIES


def test_the_way_out_when_the_hook_fails(quiet: Release) -> None:
    """Its Pod can't start: helm gives up and says so, and the commands of docs/uninstall.md leave nothing."""
    gone = ("uninstall", quiet.name, "-n", quiet.namespace)
    failed = quiet.plane.helm(*gone, "--timeout=3s", check=False)
    assert failed.returncode
    assert quiet.configuration()
    text = UNINSTALL.read_text().partition("## When the hook fails")[2].partition("\n## ")[0]
    commands = re.search(r"```console\n(.*?)```", text, re.DOTALL)
    assert commands
    for command in commands[1].replace("helm uninstall srcip ", f"helm uninstall {quiet.name} ").splitlines():
        named = command.replace("srcip.srcip-system", f"{quiet.fullname}.{quiet.namespace}")
        named = named.replace("srcip-remove-webhook", f"{quiet.fullname}-remove-webhook")
        program, *arguments = shlex.split(named.replace("srcip-system", quiet.namespace))
        {"kubectl": quiet.plane.kubectl, "helm": quiet.plane.helm}[program](*arguments)
    kinds = "all,secrets,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings"
    left = quiet.plane.kubectl("get", f"{kinds},mutatingwebhookconfigurations", "-A", "-o", "name").stdout
    assert [each for each in left.splitlines() if "quiet" in each and "/sh.helm" not in each] == []


def test_the_api_server_takes_every_variant(plane: ControlPlane) -> None:
    """`helm install --dry-run=server`: the API server checks each object, CEL included, and stores none."""
    variants: list[Json] = [
        {},
        {"certificates": {"mode": "secret", "secret": {"name": "own", "caBundle": base64.b64decode(BUNDLE).decode()}}},
        {
            "webhook": {"hostNetwork": True, "preStopSleepSeconds": 0},
            "networkPolicy": {"enabled": True, "apiServerCIDRs": ["198.51.100.0/24"]},
            "metrics": {"dashboard": {"enabled": True}},
            "admission": {"matchConditions": [{"name": "small", "expression": "size(object.spec.containers) < 9"}]},
        },
    ]
    for values in variants:
        document = json.dumps({"trustedCIDRs": ["192.0.2.0/24"], **values})
        place = ["dry", str(CHART), "--namespace=default", "--values=-"]
        plane.helm("install", *place, "--dry-run=server", stdin=document)
        rendered = plane.helm("template", *place, "--no-hooks", stdin=document).stdout
        said = plane.kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", stdin=rendered).stdout
        assert "mutatingwebhookconfiguration" in said


def test_a_wrong_condition_is_refused_by_the_api_server(plane: ControlPlane) -> None:
    """The test above can fail: the API server compiles CEL."""
    values = {"trustedCIDRs": ["192.0.2.0/24"], "admission": {"matchConditions": [{"name": "a", "expression": "1 +"}]}}
    place = ["dry", str(CHART), "--namespace=default", "--values=-", "--no-hooks"]
    rendered = plane.helm("template", *place, stdin=json.dumps(values)).stdout
    done = plane.kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", stdin=rendered, check=False)
    assert done.returncode
    assert "matchConditions" in done.stderr


def test_pod_security_restricted_lets_every_pod_of_the_chart_in(plane: ControlPlane, api: Api) -> None:
    """The API server's own check, in a namespace that enforces the strictest level."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    found = Release(plane, api, name="strict", namespace="strict-system")
    found.namespace_for(found.namespace, labels)
    try:
        found.install()
        said = plane.helm("test", found.name, "-n", found.namespace, check=False)
        assert said.returncode == 0, said.stdout + said.stderr
    finally:
        found.uninstall()
    assert api.get(f"/apis/batch/v1/namespaces/{found.namespace}/jobs")["items"] == []
