"""What becomes of each Pod in tests/golden/webhook, through HTTP and through the command line alike."""

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonpatch
import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner

from srcip_proxy.plan import ENV, Plan, PortRange
from srcip_webhook import manifests
from srcip_webhook.app import create_app
from srcip_webhook.cli import main
from srcip_webhook.settings import Settings
from support.reviews import SETTINGS, body, post

FOLDER = Path(__file__).parents[1] / "golden" / "webhook"
INPUTS = sorted(FOLDER.glob("*.input.yaml"))
RESULTS = ("output.yaml", "refused.txt", "skipped.txt", "warnings.txt")
WITH_AN_AGENT = replace(SETTINGS, agent=True)
APPS = {settings: create_app(settings) for settings in (SETTINGS, WITH_AN_AGENT)}
USUAL = json.loads(Plan(inbound_ports=(PortRange(1, 1),), trusted_cidrs=("192.0.2.1/32",)).to_env())
"""A plan with every default."""
NEW_FIELDS = {"keeps-fields-it-does-not-know", "refuses-an-annotation-that-is-no-string"}
"""Inputs that the schema of today's Kubernetes does not know."""

Golden = Callable[[Path, str | None], None]


def behaviour(path: Path) -> str:
    return path.name.removesuffix(".input.yaml")


def settings_of(path: Path) -> Settings:
    """Those of a cluster with an agent where the behaviour says so."""
    return WITH_AN_AGENT if behaviour(path).startswith("with-an-agent-") else SETTINGS


def ask(pod: dict[str, Any], settings: Settings) -> dict[str, Any]:
    answer = post(APPS[settings], body(pod))
    assert answer.status_code == 200, answer.text
    response: dict[str, Any] = answer.json()["response"]
    return response


def patched(pod: dict[str, Any], response: dict[str, Any]) -> dict[str, Any]:
    operations = json.loads(base64.b64decode(response.get("patch", "W10=")))
    result: dict[str, Any] = jsonpatch.apply_patch(pod, operations)
    return result


def legible(node: Any) -> Any:
    """With each plan as what differs from the usual one, so that a new field of it changes no golden."""
    if isinstance(node, list):
        return [legible(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("name") == ENV and "value" in node:
        plan = json.loads(Plan.from_env(node["value"]).to_env())
        return {**node, "value": {name: value for name, value in plan.items() if USUAL.get(name) != value}}
    return {key: legible(value) for key, value in node.items()}


def lines(items: list[str]) -> str | None:
    return "".join(f"{item}\n" for item in items) or None


@pytest.mark.parametrize("path", INPUTS, ids=behaviour)
def test_the_webhook_answers_as_the_golden_says(path: Path, golden: Golden) -> None:
    pod = yaml.safe_load(path.read_text())
    response = ask(pod, settings_of(path))
    after = patched(pod, response)
    reason = response["auditAnnotations"]["reason"]
    verdict = response["auditAnnotations"]["decision"]
    message = response.get("status", {}).get("message", "")
    results = {
        "output.yaml": manifests.dump(legible(after)) if after != pod else None,
        "refused.txt": lines([reason, message]) if verdict == "refuse" else None,
        "skipped.txt": lines([reason]) if verdict == "skip" else None,
        "warnings.txt": lines(response.get("warnings", [])),
    }
    assert response["allowed"] is (verdict != "refuse")
    for kind, text in results.items():
        golden(path.with_name(f"{behaviour(path)}.{kind}"), text)


@pytest.mark.parametrize("path", INPUTS, ids=behaviour)
def test_a_second_run_changes_nothing(path: Path) -> None:
    after = patched(pod := yaml.safe_load(path.read_text()), ask(pod, settings_of(path)))
    assert "patch" not in ask(after, settings_of(path))


@pytest.mark.parametrize("path", INPUTS, ids=behaviour)
def test_the_command_line_does_the_same_as_the_webhook(path: Path) -> None:
    options = ["--image", SETTINGS.proxy_image, *(["--agent"] if settings_of(path).agent else [])]
    result = CliRunner().invoke(main, ["inject", "-f", str(path), *options], catch_exceptions=False)
    response = ask(pod := yaml.safe_load(path.read_text()), settings_of(path))
    if response["allowed"]:
        assert result.exit_code == 0, result.stderr
        assert yaml.safe_load(result.stdout) == patched(pod, response)
    else:
        assert result.exit_code == 1
        assert result.stdout == ""
        told = [line.partition("refused: ")[2] for line in result.stderr.splitlines() if "refused: " in line]
        message = response["status"]["message"]
        wanted = [line.removeprefix("- ") for line in message.splitlines()][len(told) > 1 :]
        assert sorted(told) == sorted(wanted), "there, they come in the order of their lines"
    assert [w for w in response.get("warnings", []) if w not in result.stderr] == []


@pytest.mark.parametrize("path", INPUTS, ids=behaviour)
def test_every_patched_pod_is_valid_for_kubernetes(path: Path) -> None:
    after = patched(pod := yaml.safe_load(path.read_text()), response := ask(pod, settings_of(path)))
    if response["allowed"] and behaviour(path) not in NEW_FIELDS:
        kubernetes_validate.validate(after, "1.36", strict=True)


def test_no_golden_is_stale() -> None:
    """Every file in the folder belongs to an input."""
    known = {f"{behaviour(path)}.{kind}" for path in INPUTS for kind in ("input.yaml", *RESULTS)}
    assert [path.name for path in FOLDER.iterdir() if path.name not in known] == []
    assert len(INPUTS) > 50
