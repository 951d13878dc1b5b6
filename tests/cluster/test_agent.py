"""The agent on a real node: applications of a `restricted` namespace see their clients, whatever happens to it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from srcip_e2e.cluster import chart, clients, workloads
from srcip_e2e.cluster.clients import Endpoint, Traffic
from srcip_e2e.cluster.edge import Balancer, Service
from srcip_e2e.cluster.kube import Kube, Object, eventually, ip, is_ready, name
from srcip_e2e.cluster.node import Node
from srcip_e2e.cluster.site import Edge, Site
from srcip_e2e.cluster.workloads import RESTRICTED, App, alone, ebpf, pod

pytestmark = pytest.mark.cluster
WEB = Service("web", 8000)
DAEMONSET = "daemonset/srcip-agent"
CLIENTS = {4: ("203.0.113.99", 12345), 6: ("2001:db8::99", 12345)}
NOWHERE = "srcip.io/no-such-node"


@pytest.fixture(scope="module")
def system(cluster: Site) -> Iterator[Kube]:
    """The release's namespace with the agent at work; without it in the end."""
    inside = cluster.kube.within(chart.NAMESPACE)
    chart.install(cluster, "agent.enabled=true")
    try:
        inside.rolled_out(DAEMONSET)
        yield inside
    finally:
        chart.install(cluster)
        eventually(lambda: inside.items("pods", chart.AGENTS) == [], "the agent is gone", timeout_s=60)


@pytest.fixture
def shop(system: Kube, kube: Kube) -> Kube:
    """A new namespace of the strictest level that is open to srcip."""
    kube.apply(workloads.namespace(kube.namespace, "restricted"))
    return kube


def app(edge: Edge, called: str = "web", **asked: str) -> App:
    return App(called, annotations=ebpf(trusted_cidrs=alone(*edge.host.ips), **asked), container=RESTRICTED)


def started(kube: Kube, edge: Edge, called: str = "web") -> Object:
    """A Pod, once it is ready."""
    kube.apply(pod(app(edge, called)))
    kube.wait("condition=Ready", f"pod/{called}")
    return kube.get("pod", called)


@contextmanager
def absent(system: Kube) -> Iterator[None]:
    """No agent meanwhile."""
    place(system, "yes")
    eventually(lambda: system.items("pods", chart.AGENTS) == [], "the agent is gone", timeout_s=60)
    try:
        yield
    finally:
        place(system, None)
        system.rolled_out(DAEMONSET)


def place(system: Kube, label: str | None) -> None:
    """Have the agent on nodes with this label alone, which none has, or on all again."""
    patch = {"spec": {"template": {"spec": {"nodeSelector": {NOWHERE: label}}}}}
    system("patch", DAEMONSET, "--patch", json.dumps(patch))


def test_a_restricted_namespace_shows_the_client(shop: Kube, edge: Edge) -> None:
    """Of either version of IP; its Pod has one init container without any privilege, which has ended well."""
    made = started(shop, edge)
    (gate,) = made["spec"]["initContainers"]
    assert gate["command"] == ["srcip-proxy", "gate"]
    assert gate["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert not any("hostPath" in volume for volume in made["spec"]["volumes"])
    assert "programs are attached by this node's agent" in shop.logs("web", "srcip-init")
    with Balancer(edge.host, WEB) as balancer:
        for version in (4, 6):
            balancer.serve("web", [(ip(made, version), 8080)])
            answers = {v: clients.ask(balancer.connect("web", client=CLIENTS[v], family=v)) for v in CLIENTS}
            assert {v: clients.seen(answer) for v, answer in answers.items()} == CLIENTS


def test_without_an_agent_no_application_starts(system: Kube, shop: Kube, edge: Edge) -> None:
    """The gate says what it waits for; a late agent lets it go on."""
    with absent(system):
        shop.apply(pod(app(edge)))
        said = eventually(lambda: shop.try_("logs", "web", "--container=srcip-init").out, "the gate's log")
        assert said.startswith("srcip-proxy gate: waits for srcip's agent of this node")
        made = shop.get("pod", "web")
        assert made["status"]["phase"] == "Pending"
        assert "running" in made["status"]["initContainerStatuses"][0]["state"]
    shop.wait("condition=Ready", "pod/web")


def asking(balancer: Balancer) -> Traffic:
    def request(client: Endpoint) -> str:
        return clients.ask(balancer.connect("web", client=client))

    return Traffic(request)


@pytest.mark.timeout(1200)
def test_an_agent_that_restarts_disturbs_nobody(system: Kube, shop: Kube, edge: Edge) -> None:
    """Killed 20 times under traffic: no request is lost, none shows a wrong address, and one connection goes on."""
    made = started(shop, edge)
    with Balancer(edge.host, WEB) as balancer:
        balancer.serve("web", [(ip(made), 8080)])
        with asking(balancer) as traffic:
            eventually(lambda: traffic.answers > 10, "traffic")
            for _ in range(20):
                (running,) = system.pods(chart.AGENTS)
                system("delete", "pod", name(running), "--grace-period=0", "--force", "--wait=true")
                so_far = traffic.answers
                eventually(lambda n=so_far: traffic.answers > n, "traffic goes on")  # type: ignore[misc]
                eventually(lambda: len(system.pods(chart.AGENTS)) == 1, "another agent", timeout_s=60)
    assert (dict(traffic.errors), traffic.wrong) == ({}, [])


def test_a_new_sandbox_is_set_up_anew(cluster: Site, shop: Kube, edge: Edge) -> None:
    """Its gate runs again, and what is left of the first network's programs says nothing."""
    if not cluster.node:
        pytest.skip("the node of this cluster is not on this machine")
    before = started(shop, edge)
    cluster.node.ctr("task", "kill", "--signal=SIGKILL", sandbox(cluster.node, before))

    def again() -> Object | None:
        found = shop.get("pod", "web")
        return found if found["status"]["containerStatuses"][0]["restartCount"] == 1 and is_ready(found) else None

    after = eventually(again, "ready again", timeout_s=90)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    with Balancer(edge.host, WEB) as balancer:
        balancer.serve("web", [(ip(after), 8080)])
        assert clients.seen(clients.ask(balancer.connect("web", client=CLIENTS[4]))) == CLIENTS[4]


def sandbox(node: Node, of: Object) -> str:
    """The container that holds the Pod's namespaces."""
    wanted = {"io.cri-containerd.kind": "sandbox", "io.kubernetes.pod.uid": of["metadata"]["uid"]}
    filters = (f'labels."{label}"=={value}' for label, value in wanted.items())
    return node.ctr("containers", "ls", "--quiet", ",".join(filters)).strip()


@pytest.mark.timeout(1200)
def test_many_pods_at_once(system: Kube, shop: Kube, edge: Edge) -> None:
    """Each is set up once, and the agent's page says so."""
    called = [f"web-{number}" for number in range(30)]
    shop.apply(*(pod(app(edge, each)) for each in called))
    shop.wait("condition=Ready", *(f"pod/{each}" for each in called), timeout_s=900)
    (running,) = system.pods(chart.AGENTS)
    page = system("get", "--raw", f"/api/v1/namespaces/{chart.NAMESPACE}/pods/{name(running)}:15330/proxy/metrics")
    assert 'srcip_agent_pods{state="attached"} 30' in page
    assert 'srcip_agent_pods{state="refused"} 0' in page
