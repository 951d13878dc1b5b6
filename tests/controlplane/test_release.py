"""The life of a release: install, test, upgrade under load, a second one beside it, uninstall."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from srcip_e2e.cluster.api import Api
from srcip_e2e.cluster.controlplane import ControlPlane
from srcip_e2e.cluster.load import Load, pod
from srcip_e2e.cluster.podrunner import PodRunner
from srcip_e2e.cluster.release import CONFIGURATIONS, Release
from srcip_lab.state import wait_until

pytestmark = pytest.mark.controlplane


def objects(plane: ControlPlane, word: str) -> set[str]:
    """Every object of every kind whose name holds `word`, as NAMESPACE KIND/NAME; events apart."""
    kinds = plane.kubectl("api-resources", "--verbs=list", "-o", "name").stdout.split()
    listed = ",".join(kind for kind in kinds if not kind.startswith("events"))
    path = "custom-columns=:.metadata.namespace,:.kind,:.metadata.name"
    lines = plane.kubectl("get", listed, "-A", "-o", path, "--no-headers", "--ignore-not-found").stdout.splitlines()
    return {" ".join(line.split()) for line in lines if word in line.split()[-1]}


@pytest.fixture
def second(plane: ControlPlane, api: Api, runner: PodRunner) -> Iterator[Release]:
    """Another release in another namespace, not installed."""
    assert runner
    values = {"trustedCIDRs": ["198.51.100.0/24"]}
    found = Release(plane, api, name="second", namespace="second-system", values=values)
    yield found
    plane.helm("uninstall", found.name, "-n", found.namespace, "--ignore-not-found", check=False)


def test_an_install_without_trusted_networks_says_what_to_set(second: Release) -> None:
    done = second.helm("install", "--create-namespace", values={}, check=False)
    assert done.returncode
    assert "trustedCIDRs" in done.stderr
    assert "--set" in done.stderr
    assert objects(second.plane, "second-srcip") == set()


@pytest.mark.usefixtures("controllers")
def test_helm_test_passes(release: Release) -> None:
    said = release.plane.helm("test", release.name, "-n", release.namespace, "--timeout=300s", check=False)
    assert said.returncode == 0, said.stdout + said.stderr
    assert "Succeeded" in said.stdout
    assert objects(release.plane, f"{release.fullname}-test") == set()


@pytest.mark.usefixtures("controllers")
def test_an_upgrade_under_load_fails_no_admission(release: Release, apps: str) -> None:
    with Load(release.plane, apps) as load:
        load.wait(100)
        before = {each["metadata"]["uid"] for each in release.api.get(_pods(release))["items"]}
        release.upgrade({**release.values, "webhook": {"logLevel": "debug"}})
        pods = _pods(release)
        assert wait_until(lambda: not before & {x["metadata"]["uid"] for x in release.api.get(pods)["items"]}, 180)
        load.wait(100)
    tally = load.tally()
    assert tally.count("injected") > 500
    assert tally.messages == {}


def _pods(release: Release) -> str:
    return f"/api/v1/namespaces/{release.namespace}/pods"


@pytest.mark.usefixtures("controllers")
def test_a_second_release_beside_the_first_does_no_harm_and_leaves_nothing(
    release: Release, second: Release, api: Api, apps: str
) -> None:
    second.install()
    assert release.bundle() != second.bundle()
    made = api.post(f"/api/v1/namespaces/{apps}/pods", pod("web"), dryRun="All")
    assert [each["name"] for each in made["spec"]["initContainers"]] == ["srcip-init", "srcip-proxy"]
    trusted = json.loads(made["metadata"]["annotations"]["srcip.io/status"])["trustedCIDRs"]
    assert trusted in (release.values["trustedCIDRs"], second.values["trustedCIDRs"])  # of one, never a mixture
    before = objects(second.plane, second.fullname)
    assert {line.rpartition(" ")[2] for line in before} >= {f"{second.fullname}-webhook", f"{second.fullname}-ca"}
    with Load(release.plane, apps) as load:
        load.wait(50)
        second.uninstall()
        load.wait(50)
    assert load.tally().messages == {}
    assert wait_until(lambda: not objects(second.plane, second.fullname), 180, every_s=0.5)
    mine = release.configuration()["metadata"]["name"]
    assert [each["metadata"]["name"] for each in api.get(CONFIGURATIONS)["items"]] == [mine]
