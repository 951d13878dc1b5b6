"""A balancer outside the cluster sends PROXY protocol version 2; the application sees the balancer's clients."""

import pytest

from srcip_e2e.cluster import clients
from srcip_e2e.cluster.edge import Balancer, Service
from srcip_e2e.cluster.kube import Kube, eventually, ip, name
from srcip_e2e.cluster.site import Edge
from srcip_e2e.cluster.workloads import NGINX, App, alone, service, tproxy, workload
from srcip_lab.errors import LabError

pytestmark = pytest.mark.cluster
CLIENTS = {4: ("203.0.113.99", 12345), 6: ("2001:db8::99", 12345)}
WEB = Service("web", 8000)
PLAIN = Service("plain", 8001, options="")


def deploy(kube: Kube, app: App) -> str:
    """Run the application; the name of its only Pod."""
    kube.apply(workload("Deployment", app))
    kube.rolled_out(f"deployment/{app.name}")
    return name(kube.pods(app.selector)[0])


def node_port(kube: Kube, app: App, policy: str) -> int:
    """Give the application a NodePort Service; its port."""
    kube.apply(service(app, policy))
    return int(kube.get("service", app.name)["spec"]["ports"][0]["nodePort"])


def test_the_application_behind_pod_addresses_logs_the_client(kube: Kube, edge: Edge) -> None:
    """A client of either IP version, over a balancer's connection of either IP version: nginx sees address and port."""
    app = App("web", NGINX, annotations=tproxy(trusted_cidrs=alone(*edge.host.ips)))
    pod = deploy(kube, app)
    for version in (4, 6) if edge.host.ipv6 else (4,):
        with Balancer(edge.host, WEB) as balancer:
            balancer.serve("web", [(ip(kube.get("pod", pod), version), 8080)])
            answers = {v: clients.ask(balancer.connect("web", client=CLIENTS[v], family=v)) for v in CLIENTS}
        assert {v: clients.seen(answer) for v, answer in answers.items()} == CLIENTS, f"over IPv{version}"
    for address, port in CLIENTS.values():
        assert f'{address} {port} "GET / HTTP/1.1" 200' in kube.logs(pod)


def test_a_nodeport_with_policy_local_keeps_the_balancer_trusted(kube: Kube, edge: Edge) -> None:
    """externalTrafficPolicy: Local does no SNAT: the balancer's own address is the trusted one."""
    app = App("web", NGINX, annotations=tproxy(trusted_cidrs=alone(*edge.host.ips)))
    pod = deploy(kube, app)
    port = node_port(kube, app, "Local")
    with Balancer(edge.host, WEB) as balancer:
        balancer.serve("web", [(edge.node_ips[0], port)])
        eventually(lambda: answers(balancer), "the NodePort")
        assert clients.seen(clients.ask(balancer.connect("web", client=CLIENTS[4]))) == CLIENTS[4]
    assert '203.0.113.99 12345 "GET / HTTP/1.1" 200' in kube.logs(pod)


def answers(balancer: Balancer) -> bool:
    """Whether anybody answers yet: kube-proxy takes a moment."""
    try:
        return bool(clients.ask(balancer.connect("web")))
    except OSError:
        return False


def test_a_nodeport_with_policy_cluster_trusts_the_node(kube: Kube, edge: Edge) -> None:
    """externalTrafficPolicy: Cluster shows the node in the balancer's place. Trusted, and with
    node-proxy-protocol: required, clients are seen, kubelet's probes pass, and nobody gets in without a header."""
    asked = tproxy(trusted_cidrs=alone(*edge.snat_ips), node_proxy_protocol="required")
    probe = {"httpGet": {"path": "/", "port": "main"}, "periodSeconds": 1}
    app = App("web", NGINX, annotations=asked, container={"readinessProbe": probe, "livenessProbe": probe})
    pod = deploy(kube, app)
    port = node_port(kube, app, "Cluster")
    with Balancer(edge.host, WEB, PLAIN) as balancer:
        balancer.serve("web", [(edge.node_ips[0], port)])
        balancer.serve("plain", [(edge.node_ips[0], port)])
        eventually(lambda: answers(balancer), "the NodePort")
        assert clients.seen(clients.ask(balancer.connect("web", client=CLIENTS[4]))) == CLIENTS[4]
        with pytest.raises((ConnectionResetError, LabError)):
            clients.ask(balancer.connect("plain"))
    assert "reason=no_header" in kube.logs(pod, "srcip-proxy")
    assert edge.snat_ips[0] in kube.logs(pod), "kubelet's probes reach nginx, from the node's address"


def test_the_default_takes_both_from_the_node(kube: Kube, edge: Edge) -> None:
    """Without node-proxy-protocol, what comes from the node may have a header or none."""
    app = App("web", NGINX, annotations=tproxy(trusted_cidrs=alone(*edge.snat_ips)))
    deploy(kube, app)
    port = node_port(kube, app, "Cluster")
    with Balancer(edge.host, WEB, PLAIN) as balancer:
        balancer.serve("web", [(edge.node_ips[0], port)])
        balancer.serve("plain", [(edge.node_ips[0], port)])
        eventually(lambda: answers(balancer), "the NodePort")
        assert clients.seen(clients.ask(balancer.connect("web", client=CLIENTS[4]))) == CLIENTS[4]
        assert clients.seen(clients.ask(balancer.connect("plain")))[0] == edge.snat_ips[0]


def test_a_forged_header_changes_nothing(kube: Kube, edge: Edge) -> None:
    """From a host that nobody trusts a header is just bytes: the application sees that host, and those bytes."""
    if not edge.strangers:
        pytest.skip("the host outside this cluster has no second address")
    app = App("web", annotations=tproxy(trusted_cidrs=alone(*edge.host.ips)), port=9000)
    pod = deploy(kube, app)
    stranger = (edge.strangers[0], 23456)
    with edge.host.connect(ip(kube.get("pod", pod)), 9000, source=stranger) as connection:
        assert clients.line(connection).startswith(f"hello {stranger[0]} {stranger[1]} ")
        forged = b"PROXY TCP4 203.0.113.7 192.0.2.1 54321 25\r\n"
        connection.sendall(forged)
        assert clients.line(connection) == forged.decode().strip()


def test_a_balancer_without_header_is_refused_and_told_why(kube: Kube, edge: Edge) -> None:
    """The trusted balancer must send a header: else the connection is reset, logged with a cure, and counted."""
    app = App("web", NGINX, annotations=tproxy(trusted_cidrs=alone(*edge.host.ips)))
    pod = deploy(kube, app)
    with Balancer(edge.host, PLAIN) as balancer:
        balancer.serve("plain", [(ip(kube.get("pod", pod)), 8080)])
        with pytest.raises((ConnectionResetError, LabError)):
            clients.ask(balancer.connect("plain"))
    log = kube.logs(pod, "srcip-proxy")
    assert f"refused connection from {edge.host.ips[0]}:" in log
    assert "reason=no_header; what to do: configure the balancer to send the PROXY protocol" in log
    metrics = kube("get", "--raw", f"/api/v1/namespaces/{kube.namespace}/pods/{pod}:15320/proxy/metrics")
    assert 'srcip_refused_connections_total{reason="no_header"} 1' in metrics
    assert "203.0.113" not in kube.logs(pod), "nginx has seen nothing of it"
