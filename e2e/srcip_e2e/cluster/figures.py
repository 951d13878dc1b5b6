"""Figures of the whole: how long an installation takes, what a sidecar adds to a Pod's start, memory, image sizes.

They are measured on the single-node cluster and written to docs/figures.json and docs/figures.md.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from srcip_e2e import images
from srcip_e2e.cluster import chart, clients, site, workloads
from srcip_e2e.cluster.edge import Balancer, Service
from srcip_e2e.cluster.kube import Kube, eventually, ip
from srcip_e2e.cluster.node import Node
from srcip_e2e.cluster.site import Site
from srcip_e2e.cluster.workloads import App, alone, tproxy
from srcip_e2e.images.archive import Archive
from srcip_lab.errors import LabError

DOCS = chart.ROOT / "docs"
STARTS = 7
"""Pods that are started for each median."""
WEB = Service("web", 8000)
TITLES = {
    "node_up_s": "From nothing to a Ready node",
    "install_s": "`helm install --wait`",
    "install_to_ready_s": "From `helm install` to the first injected Pod Ready",
    "pod_ready_s": "A Pod's start until Ready, without srcip",
    "injected_ready_s": "The same with srcip",
}
"""Each figure that is one number: what it is. The name ends with its unit."""
Figures = dict[str, Any]


def main() -> None:
    """Measure on a cluster that is made for it, and write both files."""
    begin = time.monotonic()
    if Node.at().init:
        raise LabError(
            "the single-node cluster is up: the figures need one of their own; python -m srcip_e2e.cluster down"
        )
    with site.under_test({}) as here:
        figures = {"machine": machine(here), "node_up_s": time.monotonic() - begin} | measured(here)
    (DOCS / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    (DOCS / "figures.md").write_text(page(figures))


def measured(here: Site) -> Figures:
    """All but the start of the node, which is over by now."""
    chart.load_images(here)
    figures = installation(here)
    kube = here.kube.within("figures")
    kube.apply(workloads.namespace("figures"))
    eventually(lambda: kube.try_("get", "serviceaccount", "default").code == 0, "the default service account")
    asks, plain = App("injected", annotations=asking(here)), App("plain")
    figures |= {"pod_ready_s": start_s(kube, plain), "injected_ready_s": start_s(kube, asks)}
    return figures | {"memory_mib": memory(here, kube, asks), "images_mb": image_sizes()}


def asking(here: Site) -> dict[str, str]:
    """Annotations of a Pod that trusts the edge."""
    return tproxy(trusted_cidrs=alone(*here.edge.host.ips) if here.edge else chart.NOBODY)


def installation(here: Site) -> Figures:
    """helm install, and at once a Pod that asks for the sidecar."""
    kube = here.kube.within("default")
    kube("label", "namespace", "default", "srcip.io/injection=enabled")
    begin = time.monotonic()
    chart.install(here)
    installed = time.monotonic()
    kube.apply(workloads.pod(App("first", annotations=asking(here))))
    kube.wait("condition=Ready", "pod/first")
    ready = time.monotonic()
    kube("delete", "pod", "first", "--wait=false")
    return {"install_s": installed - begin, "install_to_ready_s": ready - begin}


def start_s(kube: Kube, app: App) -> float:
    """From kubectl apply to Ready, one Pod after the other; the median."""

    def once() -> float:
        begin = time.monotonic()
        kube.apply(workloads.pod(app))
        kube.wait("condition=Ready", f"pod/{app.name}")
        took = time.monotonic() - begin
        kube("delete", "pod", app.name, "--grace-period=0", "--force")
        return took

    return median(once() for _ in range(STARTS))


def memory(here: Site, kube: Kube, app: App) -> dict[str, float]:
    """Working set of each container as kubelet counts it, after some traffic."""
    kube.apply(workloads.pod(app))
    kube.wait("condition=Ready", f"pod/{app.name}")
    assert here.edge
    with Balancer(here.edge.host, WEB) as balancer:
        balancer.serve("web", [(ip(kube.get("pod", app.name)), app.port)])
        with clients.Traffic(lambda client: clients.ask(balancer.connect("web", client=client))) as traffic:
            eventually(lambda: traffic.answers >= 500, "500 requests")
        time.sleep(15)  # kubelet looks every 10 s
    stats = json.loads(
        kube("get", "--raw", f"/api/v1/nodes/{kube.get('pod', app.name)['spec']['nodeName']}/proxy/stats/summary")
    )
    return {name: size for pod in stats["pods"] for name, size in containers(pod)}


def containers(pod: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    """Name and MiB of those containers of a Pod that are srcip's."""
    for each in pod.get("containers", ()):
        if pod["podRef"]["namespace"] == chart.NAMESPACE or each["name"] == "srcip-proxy":
            yield each["name"], each["memory"]["workingSetBytes"] / 2**20


def image_sizes() -> dict[str, dict[str, float]]:
    """Each image as it travels, compressed, and unpacked; in MB as registries count them."""
    sizes = {name: Archive(archive).sizes() for name, archive in images.build().items()}
    return {name: {"compressed": packed / 1e6, "unpacked": whole / 1e6} for name, (packed, whole) in sizes.items()}


def machine(here: Site) -> str:
    """What it was measured on, in one line."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    node = here.kube.items("nodes")[0]["status"]["nodeInfo"]
    versions = f"Kubernetes {node['kubeletVersion']}, {node['containerRuntimeVersion'].replace('://', ' ')}"
    return (
        f"{os.cpu_count()} CPUs ({models[0] if models else platform.machine()}), {memory_kib / 2**20:.0f} GiB, "
        f"Linux {platform.release()}, {versions}, one node, load average {os.getloadavg()[0]:.1f} before"
    )


def page(figures: Mapping[str, Any]) -> str:
    """docs/figures.md. Pure."""
    lines = [
        "<!-- Written by `python -m srcip_e2e.cluster figures`. Don't edit. -->",
        "# Figures on a real node",
        "",
        f"Measured on {figures['machine']}; everything ran on it: control plane, node, balancer and clients.",
        "",
        "| what | figure |",
        "| --- | --- |",
    ]
    lines += [f"| {title} | {amount(figures[name])} {name.rpartition('_')[2]} |" for name, title in TITLES.items()]
    lines += ["", "| container | memory in use, MiB |", "| --- | --- |"]
    lines += [f"| `{name}` | {amount(size)} |" for name, size in sorted(figures["memory_mib"].items())]
    lines += ["", "| image | compressed, MB | unpacked, MB |", "| --- | --- | --- |"]
    sizes = figures["images_mb"].items()
    lines += [f"| `{name}` | {amount(s['compressed'])} | {amount(s['unpacked'])} |" for name, s in sizes]
    return "\n".join(lines) + "\n"


def amount(value: float) -> str:
    """A number with the digits that count."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"
