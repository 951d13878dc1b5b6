"""From the init container's way to the agent's and back, by helm, on a real node: those that run are not touched."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from srcip_e2e.cluster import chart, clients, workloads
from srcip_e2e.cluster.clients import Endpoint, Traffic
from srcip_e2e.cluster.edge import Balancer, Service
from srcip_e2e.cluster.kube import Kube, Object, eventually, ip, name
from srcip_e2e.cluster.site import Edge, Site
from srcip_e2e.cluster.workloads import RESTRICTED, App, alone, ebpf, pod, workload

pytestmark = pytest.mark.cluster
SERVICES = tuple(Service(each, 8000 + at) for at, each in enumerate(("before", "during", "after")))


@pytest.fixture
def upgrade(cluster: Site) -> Iterator[Callable[[bool], None]]:
    """Upgrade the release to one with an agent, or without; without in the end."""
    system = cluster.kube.within(chart.NAMESPACE)

    def to(enabled: bool) -> None:
        chart.install(cluster, f"agent.enabled={str(enabled).lower()}")
        eventually(lambda: bool(system.items("pods", chart.AGENTS)) is enabled, "the agent", timeout_s=60)

    yield to
    chart.install(cluster)
    eventually(lambda: system.items("pods", chart.AGENTS) == [], "the agent is gone", timeout_s=60)


def started(kube: Kube, edge: Edge, called: str) -> Object:
    """A Pod in mode ebpf, once it is ready."""
    app = App(called, annotations=ebpf(trusted_cidrs=alone(*edge.host.ips)), container=RESTRICTED)
    kube.apply(pod(app))
    kube.wait("condition=Ready", f"pod/{called}")
    return kube.get("pod", called)


def command(made: Object) -> list[str]:
    """Of its only init container."""
    (init,) = made["spec"]["initContainers"]
    found: list[str] = init["command"]
    return found


@contextmanager
def asking(balancer: Balancer, made: Object) -> Iterator[Traffic]:
    """Traffic to this Pod through the balancer."""
    service = name(made)
    balancer.serve(service, [(ip(made), 8080)])

    def request(client: Endpoint) -> str:
        return clients.ask(balancer.connect(service, client=client))

    with Traffic(request) as traffic:
        eventually(lambda: traffic.answers > 10, f"traffic to {service}")
        yield traffic
        so_far = traffic.answers
        eventually(lambda: traffic.answers > so_far + 10, f"traffic to {service} goes on")
    assert (dict(traffic.errors), traffic.wrong) == ({}, [])


def test_pods_of_either_way_outlive_the_upgrade_to_the_other(
    kube: Kube, edge: Edge, upgrade: Callable[[bool], None]
) -> None:
    """Enabled under traffic, new Pods get a gate; disabled, an init container again. No request of those that run is
    lost, and none shows a wrong address."""
    with Balancer(edge.host, *SERVICES) as balancer, asking(balancer, before := started(kube, edge, "before")):
        upgrade(True)
        assert command(before) == ["srcip-proxy", "init"]
        with asking(balancer, during := started(kube, edge, "during")):
            assert command(during) == ["srcip-proxy", "gate"]
            upgrade(False)
        with asking(balancer, after := started(kube, edge, "after")):
            assert command(after) == ["srcip-proxy", "init"]


def test_a_namespace_becomes_restricted(kube: Kube, edge: Edge, upgrade: Callable[[bool], None]) -> None:
    """As docs/agent.md says: the agent, a restart of the Deployment, the level. The application shows the client."""
    app = App("before", annotations=ebpf(trusted_cidrs=alone(*edge.host.ips)), container=RESTRICTED)
    kube.apply(workload("Deployment", app))
    kube.rolled_out("deployment/before")
    upgrade(True)
    kube("rollout", "restart", "deployment/before")
    kube.rolled_out("deployment/before")
    kube.apply(workloads.namespace(kube.namespace, "restricted"))
    (old,) = kube.pods(app.selector)
    kube("delete", "pod", name(old), "--grace-period=1")
    eventually(lambda: name(old) not in [name(each) for each in kube.pods(app.selector)], "another Pod")
    kube.rolled_out("deployment/before")
    (made,) = kube.pods(app.selector)
    assert command(made) == ["srcip-proxy", "gate"]
    with Balancer(edge.host, *SERVICES) as balancer:
        balancer.serve("before", [(ip(made), 8080)])
        client = ("203.0.113.99", 12345)
        assert clients.seen(clients.ask(balancer.connect("before", client=client))) == client
