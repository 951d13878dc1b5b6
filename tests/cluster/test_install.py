"""helm install, helm test and helm uninstall on a cluster with Pods."""

import pytest

from srcip_e2e.cluster import chart, clients
from srcip_e2e.cluster.edge import Balancer, Service
from srcip_e2e.cluster.kube import Kube, eventually, ip
from srcip_e2e.cluster.site import Edge, Site
from srcip_e2e.cluster.workloads import App, alone, pod, tproxy

pytestmark = pytest.mark.cluster
WEB = Service("web", 8000)


def test_helm_test_passes(cluster: Site) -> None:
    """The chart's own test injects a Pod by dry run."""
    assert "Succeeded" in chart.helm(cluster, "test", chart.RELEASE)


def test_the_webhook_holds_no_token(cluster: Site) -> None:
    """The container that parses what others send has no way to the API; only the one beside it has."""
    system = cluster.kube.within(chart.NAMESPACE)
    webhook = system.pods("app.kubernetes.io/component=webhook")[0]
    mounted = {
        each["name"]: [m["mountPath"] for m in each.get("volumeMounts", ())] for each in webhook["spec"]["containers"]
    }
    token = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 (a path)
    assert {name: token in paths for name, paths in mounted.items()} == {"webhook": False, "certs": True}


def test_an_uninstall_leaves_running_pods_at_work_and_blocks_nothing(cluster: Site, kube: Kube, edge: Edge) -> None:
    """Injected Pods go on as they are; new ones come up without a sidecar; nothing of the release is left."""
    app = App("web", annotations=tproxy(trusted_cidrs=alone(*edge.host.ips)))
    kube.apply(pod(app))
    kube.wait("condition=Ready", "pod/web")
    try:
        chart.uninstall(cluster)
        with Balancer(edge.host, WEB) as balancer:
            balancer.serve("web", [(ip(kube.get("pod", "web")), 8080)])
            answer = clients.ask(balancer.connect("web", client=("203.0.113.99", 12345)))
        assert clients.seen(answer) == ("203.0.113.99", 12345)
        later = App("later", annotations=app.annotations)
        kube.apply(pod(later))
        kube.wait("condition=Ready", "pod/later")
        assert "initContainers" not in kube.get("pod", "later")["spec"]
        eventually(lambda: remains(cluster) == [], "nothing of the release is left")
    finally:
        chart.install(cluster)


def remains(cluster: Site) -> list[str]:
    """Names of objects of the release that are still there."""
    kinds = "deployments,pods,services,secrets,serviceaccounts,roles,rolebindings,poddisruptionbudgets,configmaps"
    selector = f"--selector=app.kubernetes.io/instance={chart.RELEASE}"
    scoped = cluster.kube.within(chart.NAMESPACE)("get", kinds, selector, "-o", "name")
    everywhere = cluster.kube(
        "get", "mutatingwebhookconfigurations,clusterroles,clusterrolebindings", selector, "-o", "name"
    )
    secrets = cluster.kube.within(chart.NAMESPACE)("get", "secrets", "-o", "name")
    return [*scoped.split(), *everywhere.split(), *secrets.split()]
