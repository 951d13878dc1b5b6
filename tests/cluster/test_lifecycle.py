"""Pods come and go under traffic: no request is lost, and no application ever sees a wrong address."""

import json
import subprocess
import time

import pytest

from srcip_e2e.cluster import clients, sidecar
from srcip_e2e.cluster.clients import Endpoint, Traffic
from srcip_e2e.cluster.edge import Balancer, Service, repeated
from srcip_e2e.cluster.kube import Kube, Object, eventually, ip, is_ready
from srcip_e2e.cluster.site import Edge, Site
from srcip_e2e.cluster.workloads import App, alone, pod, service, tproxy, workload

pytestmark = pytest.mark.cluster
CHECKED = Service("web", 8000, check=True)
WEB = Service("web", 8000)
LINES = Service("lines", 9000)
GRACEFUL = {"lifecycle": {"preStop": {"sleep": {"seconds": 3}}}}
"""Balancers learn that a Pod goes a moment after it does, with and without srcip: the usual pause for them."""


GRACE_S = 600
"""A grace period that no busy machine needs."""
AT_ONCE = {"replicas": 2, "strategy": {"rollingUpdate": {"maxSurge": 2, "maxUnavailable": 0}}}
"""Both new Pods start at the same time, which shortens the test and hides nothing."""


def through(balancer: Balancer) -> Traffic:
    """Requests through the balancer, each as another client."""

    def request(client: Endpoint) -> str:
        return clients.ask(balancer.connect("web", client=client))

    return Traffic(request)


def web(edge: Edge, *trusted: str, **annotations: str) -> App:
    asked = tproxy(trusted_cidrs=alone(*(trusted or edge.host.ips)), **annotations)
    return App("web", annotations=asked, container=GRACEFUL)


def restart(kube: Kube, traffic: Traffic) -> None:
    """Replace every Pod while `traffic` runs, which must have run before and must run after."""
    with traffic:
        time.sleep(0.5)
        kube("rollout", "restart", "deployment/web")
        kube.rolled_out("deployment/web")
        eventually(lambda: len(kube.pods("app=web", ready=False)) == len(kube.items("pods")), "the old Pods are gone")
        time.sleep(0.5)


def test_a_rollout_behind_pod_addresses_loses_nothing(kube: Kube, edge: Edge) -> None:
    """A balancer with health checks that follows the endpoints, as cloud balancers with IP targets do."""
    kube.apply(workload("Deployment", web(edge), **AT_ONCE))
    kube.rolled_out("deployment/web")
    with Balancer(edge.host, CHECKED) as balancer:

        def follow() -> None:
            balancer.serve("web", [(ip(each), 8080) for each in kube.pods("app=web")])

        follow()
        eventually(lambda: balancer.up("web") == 2, "two healthy servers")
        with repeated(follow, 0.2):
            restart(kube, traffic := through(balancer))
        troubles = balancer.troubles()
    assert (dict(traffic.errors), traffic.wrong) == ({}, []), "\n".join(troubles)
    assert traffic.answers > 100


@pytest.mark.parametrize("policy", ["Local", "Cluster"])
def test_a_rollout_behind_a_nodeport_loses_nothing(kube: Kube, edge: Edge, policy: str) -> None:
    """The balancer knows the node only; kube-proxy follows the endpoints."""
    trusted = edge.host.ips if policy == "Local" else edge.snat_ips
    app = web(edge, *trusted, node_proxy_protocol="required")
    kube.apply(workload("Deployment", app, **AT_ONCE), service(app, policy))
    kube.rolled_out("deployment/web")
    port = int(kube.get("service", "web")["spec"]["ports"][0]["nodePort"])
    with Balancer(edge.host, WEB) as balancer:
        balancer.serve("web", [(edge.node_ips[0], port)])
        eventually(lambda: answers(balancer), "the NodePort")
        restart(kube, traffic := through(balancer))
        troubles = balancer.troubles()
    assert (dict(traffic.errors), traffic.wrong) == ({}, []), "\n".join(troubles)
    assert traffic.answers > 100


def answers(balancer: Balancer) -> bool:
    """Whether anybody answers yet: kube-proxy takes a moment."""
    try:
        return bool(clients.ask(balancer.connect("web")))
    except OSError:
        return False


def test_a_killed_sidecar_comes_back_and_no_address_was_wrong(cluster: Site, kube: Kube, edge: Edge) -> None:
    """While it is down connections are reset, and the application sees no connection of the balancer's own."""
    app = App("web", annotations=tproxy(trusted_cidrs=alone(*edge.host.ips)))
    kube.apply(pod(app))
    kube.wait("condition=Ready", "pod/web")
    with Balancer(edge.host, WEB) as balancer:
        balancer.serve("web", [(ip(kube.get("pod", "web")), 8080)])
        with through(balancer) as traffic:
            eventually(lambda: traffic.answers > 10, "traffic before")
            sidecar.kill(cluster, kube, "web")
            eventually(lambda: sidecar.restarts(kube, "web") == 1, "the restart of the sidecar")
            back = traffic.answers
            eventually(lambda: traffic.answers > back + 10, "traffic after")
    assert traffic.wrong == []
    assert edge.host.ips[0] not in kube.logs("web")
    assert kube.get("pod", "web")["status"]["containerStatuses"][0]["restartCount"] == 0


def test_a_drained_node_lets_open_connections_end(kube: Kube, edge: Edge) -> None:
    """kubectl drain: the application is told first, its open connection goes on through the sidecar until the
    application has ended it, and only then the sidecar ends."""
    app = App("lines", port=9000, annotations=tproxy(trusted_cidrs=alone(*edge.host.ips)))
    kube.apply(pod(app))
    kube.wait("condition=Ready", "pod/lines")
    placed = kube.get("pod", "lines")
    node = placed["spec"]["nodeName"]
    with Balancer(edge.host, LINES) as balancer:
        balancer.serve("lines", [(ip(placed), 9000)])
        with balancer.connect("lines", client=("203.0.113.99", 12345)) as connection:
            assert clients.line(connection) == "hello 203.0.113.99 12345 lines"
            # an injected Pod has a volume in memory, and kubectl asks for leave to lose such volumes
            options = ("--force", "--delete-emptydir-data", "--ignore-daemonsets", f"--pod-selector={app.selector}")
            drain = subprocess.Popen(kube.command("drain", node, *options), stdout=-1, stderr=-1, text=True)
            try:
                eventually(lambda: "SIGTERM" in kube.logs("lines"), "the application is told to end")
                for number in range(20):  # two seconds of a connection that goes on
                    connection.sendall(f"still here {number}\n".encode())
                    assert clients.line(connection) == f"still here {number}"
                    time.sleep(0.1)
                assert running(kube.get("pod", "lines")) == {"app", "srcip-proxy"}
                connection.close()
                said = drain.communicate(timeout=300)
            finally:
                drain.kill()
                kube("uncordon", node)
    assert drain.returncode == 0, said


def running(of: Object) -> set[str]:
    """Names of the Pod's containers that run."""
    statuses = [*of["status"]["containerStatuses"], *of["status"]["initContainerStatuses"]]
    return {each["name"] for each in statuses if "running" in each["state"]}


def test_the_sidecar_ends_after_the_application(kube: Kube, edge: Edge) -> None:
    """A Pod that is deleted: the application ends when its client has gone, then the sidecar, long before the grace
    period is over."""
    app = App("lines", port=9000, annotations=tproxy(trusted_cidrs=alone(*edge.host.ips)))
    made = pod(app)
    made["spec"]["terminationGracePeriodSeconds"] = GRACE_S
    kube.apply(made)
    kube.wait("condition=Ready", "pod/lines")
    assert is_ready(kube.get("pod", "lines"))
    seen: list[set[str]] = []
    with Balancer(edge.host, LINES) as balancer:
        balancer.serve("lines", [(ip(kube.get("pod", "lines")), 9000)])
        with balancer.connect("lines") as connection:
            clients.line(connection)
            kube("delete", "pod", "lines", "--wait=false")
            eventually(lambda: "SIGTERM" in kube.logs("lines"), "the application is told to end")
            connection.sendall(b"bye\n")
            assert clients.line(connection) == "bye"
        begin = time.monotonic()
        while (found := kube.try_("get", "pod", "lines", "-o", "json")).code == 0:
            seen.append(running(json.loads(found.out)))
    assert {"app"} not in seen, "the application has run without its sidecar"
    assert time.monotonic() - begin < GRACE_S / 2
