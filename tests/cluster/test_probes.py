"""kubelet's probes tell the truth about the application, whether or not its own connections are intercepted."""

import pytest

from srcip_e2e.cluster import clients
from srcip_e2e.cluster.edge import Balancer, Service
from srcip_e2e.cluster.kube import Kube, eventually, ip, is_ready
from srcip_e2e.cluster.site import Edge
from srcip_e2e.cluster.workloads import App, alone, pod, tproxy

pytestmark = pytest.mark.cluster
HANDLERS = {"tcp": {"tcpSocket": {"port": "main"}}, "http": {"httpGet": {"path": "/", "port": "main"}}}
DIE = b"GET /die HTTP/1.1\r\nHost: e2e\r\nConnection: close\r\n\r\n"


NODE = {
    "trusted": {"node_proxy_protocol": "required"},
    "not trusted": {"node_proxy_protocol": "required"},
    "not trusted, probes left alone": {"rewrite_probes": "false"},
}
"""What is said about the node, and how its probes go."""


@pytest.mark.parametrize(
    ("kind", "node"),
    [("tcp", "trusted"), ("http", "trusted"), ("tcp", "not trusted"), ("http", "not trusted, probes left alone")],
)
def test_probes_fail_when_the_application_is_dead_and_pass_when_it_lives(
    kube: Kube, edge: Edge, kind: str, node: str
) -> None:
    """They pass while the application lives, fail once it takes no more connections, and pass again after kubelet has
    started it anew; also where the node is trusted and must send headers, which kubelet does not."""
    trusted = (*edge.host.ips, *(edge.snat_ips if node == "trusted" else ()))
    asked = tproxy(trusted_cidrs=alone(*trusted), **NODE[node])
    readiness = {**HANDLERS[kind], "periodSeconds": 1, "failureThreshold": 1}
    liveness = {**HANDLERS[kind], "periodSeconds": 1, "failureThreshold": 4}
    app = App("web", annotations=asked, container={"readinessProbe": readiness, "livenessProbe": liveness})
    kube.apply(pod(app))
    kube.wait("condition=Ready", "pod/web")
    with Balancer(edge.host, Service("web", 8000)) as balancer:
        balancer.serve("web", [(ip(kube.get("pod", "web")), 8080)])
        clients.ask(balancer.connect("web"), DIE)
        eventually(lambda: not is_ready(kube.get("pod", "web")), "the readiness probe fails", every_s=0.1)
        eventually(lambda: restarts(kube) == 1, "the liveness probe fails, and kubelet starts the application anew")
        kube.wait("condition=Ready", "pod/web")
        assert clients.ask(balancer.connect("web", client=("203.0.113.9", 9999))).startswith("203.0.113.9 9999 ")


def restarts(kube: Kube) -> int:
    """How often the application was started again."""
    return int(kube.get("pod", "web")["status"]["containerStatuses"][0]["restartCount"])
