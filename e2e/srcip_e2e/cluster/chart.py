"""srcip on the cluster under test, installed as a user installs it: images, then the chart with helm."""

from __future__ import annotations

from pathlib import Path

from srcip_e2e import images
from srcip_e2e.cluster import apps
from srcip_e2e.cluster.kube import eventually
from srcip_e2e.cluster.node import run
from srcip_e2e.cluster.site import Site

ROOT = Path(__file__).parents[3]
PATH = ROOT / "charts" / "srcip"
RELEASE = "srcip"
NAMESPACE = "srcip-system"
AGENTS = "app.kubernetes.io/component=agent"
WEBHOOKS = "app.kubernetes.io/component=webhook"
NOBODY = "192.0.2.0/24"
"""Trusted by the chart's values: a network of documentation, so that each Pod of the tests must name its balancer."""
HELM_TIMEOUT_S = 180


def load_images(site: Site) -> None:
    """Build the images of srcip and of the tests' applications, unless that was done, and hand them to the cluster."""
    for archive in (*images.build().values(), apps.apps()):
        site.load(archive)


def helm(site: Site, *arguments: str) -> str:
    """Run helm in the release's namespace and return what it printed. Raises LabError with what it said."""
    return run(site.helm(*arguments, f"--namespace={NAMESPACE}"), timeout_s=HELM_TIMEOUT_S + 20)


def install(site: Site, *values: str) -> str:
    """Install the chart and wait until it is ready; `values` as `--set` takes them. Returns helm's notes.

    helm does not wait for Pods that end: a webhook with the settings before would still answer for some seconds.
    """
    settings = [f"--set={value}" for value in (f"trustedCIDRs={{{NOBODY}}}", *values)]
    options = ("--create-namespace", "--wait", f"--timeout={HELM_TIMEOUT_S}s")
    notes = helm(site, "upgrade", "--install", RELEASE, str(PATH), *options, *settings)
    inside = site.kube.within(NAMESPACE)
    inside.rolled_out("deployment/srcip-webhook")
    eventually(
        lambda: all("deletionTimestamp" not in each["metadata"] for each in inside.items("pods", WEBHOOKS)),
        "the webhooks before are gone",
        timeout_s=60,
    )
    return notes


def uninstall(site: Site) -> str:
    """Remove the release; no release is no error."""
    return helm(site, "uninstall", RELEASE, "--ignore-not-found", "--wait", f"--timeout={HELM_TIMEOUT_S}s")
