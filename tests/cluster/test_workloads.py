"""Every kind of workload that makes Pods gets the sidecar, and works as it did."""

import pytest

from srcip_e2e.cluster import clients
from srcip_e2e.cluster.edge import Balancer, Service
from srcip_e2e.cluster.kube import Kube, Object, ip
from srcip_e2e.cluster.site import Edge
from srcip_e2e.cluster.workloads import App, alone, cron_job, job, service, tproxy, workload

pytestmark = pytest.mark.cluster
WEB = Service("web", 8000)
PROXIES = ("srcip-init", "srcip-proxy")


def injected(pod: Object) -> bool:
    """Whether the Pod bears both containers of srcip."""
    return tuple(each["name"] for each in pod["spec"].get("initContainers", ())) == PROXIES


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("Deployment", {"replicas": 2}),
        ("StatefulSet", {"replicas": 2, "serviceName": "web", "podManagementPolicy": "OrderedReady"}),
        ("DaemonSet", {}),
    ],
)
def test_each_pod_of_a_workload_sees_the_clients(kube: Kube, edge: Edge, kind: str, spec: dict[str, object]) -> None:
    """Each of its Pods becomes Ready with the sidecar, and answers the balancer's client with the client's address."""
    app = App("web", annotations=tproxy(trusted_cidrs=alone(*edge.host.ips)))
    kube.apply(service(app), workload(kind, app, **spec))
    kube.rolled_out(f"{kind.lower()}/web")
    pods = kube.pods(app.selector)
    assert len(pods) >= int(str(spec.get("replicas", 1)))
    with Balancer(edge.host, WEB) as balancer:
        for port, pod in enumerate(pods, start=12345):
            assert injected(pod)
            balancer.serve("web", [(ip(pod), 8080)])
            answer = clients.ask(balancer.connect("web", client=("203.0.113.99", port)))
            assert answer == f"203.0.113.99 {port} {pod['metadata']['name']}"


ONCE = ("python3", "-c", "import time; time.sleep(1); print('worked')")
ASKS = tproxy(trusted_cidrs="192.0.2.1/32")


def test_a_job_completes(kube: Kube) -> None:
    """The sidecar does not keep a Job from its end: the Pod succeeds as soon as its own container has."""
    app = App("once", ONCE, annotations=ASKS, container={"readinessProbe": None})
    kube.apply(job(app))
    kube.wait("condition=Complete", "job/once")
    (pod,) = kube.pods(app.selector, ready=False)
    assert injected(pod)
    assert pod["status"]["phase"] == "Succeeded"
    assert kube.logs(pod["metadata"]["name"]) == "worked\n"


def test_a_failing_job_fails(kube: Kube) -> None:
    """Nor does it hide that the application failed."""
    app = App("once", ("sh", "-c", "exit 3"), annotations=ASKS, container={"readinessProbe": None})
    kube.apply(job(app))
    kube.wait("condition=Failed", "job/once")
    (pod,) = kube.pods(app.selector, ready=False)
    assert injected(pod)
    assert pod["status"]["phase"] == "Failed"


def test_a_cron_job_completes(kube: Kube) -> None:
    """The same for a Job that a CronJob makes."""
    app = App("once", ONCE, annotations=ASKS, container={"readinessProbe": None})
    kube.apply(cron_job(app))
    kube("create", "job", "--from=cronjob/once", "now")
    kube.wait("condition=Complete", "job/now")
    (pod,) = kube.pods(app.selector, ready=False)
    assert injected(pod)


def test_a_pod_that_does_not_ask_is_left_alone(kube: Kube) -> None:
    """In a namespace that is open to srcip, too: same containers, no label, no annotation."""
    kube.apply(workload("Deployment", App("web")))
    kube.rolled_out("deployment/web")
    (pod,) = kube.pods("app=web")
    assert "initContainers" not in pod["spec"]
    assert "srcip" not in str(pod["metadata"])
