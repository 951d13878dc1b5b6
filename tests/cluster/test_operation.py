"""What an operator does with a running Pod: metrics, the self check, the status."""

import json

import pytest

from srcip_e2e.cluster import clients
from srcip_e2e.cluster.edge import Balancer, Service
from srcip_e2e.cluster.kube import Kube, ip
from srcip_e2e.cluster.site import Edge, Site
from srcip_e2e.cluster.workloads import App, alone, pod, tproxy

pytestmark = pytest.mark.cluster
WEB = Service("web", 8000)


@pytest.fixture
def web(kube: Kube, cluster: Site) -> str:
    """The address of a Pod that is Ready; it trusts the edge, where there is one."""
    balancers = cluster.edge.host.ips if cluster.edge else ("192.0.2.1",)
    kube.apply(pod(App("web", annotations=tproxy(trusted_cidrs=alone(*balancers)))))
    kube.wait("condition=Ready", "pod/web")
    return ip(kube.get("pod", "web"))


def test_the_self_check_passes_by_kubectl_exec(kube: Kube, web: str) -> None:
    """`kubectl exec POD -c srcip-proxy -- srcip-proxy check`, with the capabilities that kubelet gives: none."""
    said = kube.exec("web", "srcip-proxy", "check", container="srcip-proxy")
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("ok ") for line in lines)


def test_metrics_count_what_was_handed_over(kube: Kube, edge: Edge, web: str) -> None:
    """Read from inside the Pod by kubectl exec, as Prometheus would read them from outside."""
    with Balancer(edge.host, WEB) as balancer:
        balancer.serve("web", [(web, 8080)])
        for _ in range(3):
            clients.ask(balancer.connect("web"))
    said = kube.exec("web", "curl", "--silent", "--fail", "http://127.0.0.1:15320/metrics")
    assert 'srcip_accepted_connections_total{header="proxy"} 3' in said.out


def test_the_status_says_what_was_added(kube: Kube, web: str) -> None:
    """The annotation srcip.io/status, the label for PodMonitors, and the application as kubectl's default container."""
    metadata = kube.get("pod", "web")["metadata"]
    assert json.loads(metadata["annotations"]["srcip.io/status"])["mode"] == "tproxy"
    assert metadata["labels"]["srcip.io/injected"] == "true"
    assert kube("logs", "web").startswith("listening"), "kubectl logs without -c shows the application"


def test_a_bad_annotation_is_refused_with_every_fault(kube: Kube) -> None:
    """kubectl shows the webhook's own words."""
    refused = kube.try_apply(pod(App("web", annotations={"mode": "tproxi", "trusted-cidrs": "10.0.0.1/33"})))
    assert refused.code
    assert "srcip.io/mode" in refused.err
    assert "srcip.io/trusted-cidrs" in refused.err
    assert "10.0.0.1/33" in refused.err
