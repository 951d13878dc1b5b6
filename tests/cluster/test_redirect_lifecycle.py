"""Redirect mode as Pods come and go, and where Pod Security is strict."""

from dataclasses import replace

import pytest

from srcip_e2e.cluster import clients, sidecar, workloads
from srcip_e2e.cluster.clients import Endpoint, Traffic
from srcip_e2e.cluster.edge import Balancer, Service, repeated
from srcip_e2e.cluster.kube import Kube, eventually, ip
from srcip_e2e.cluster.site import Edge, Site
from srcip_e2e.cluster.workloads import alone, pod, redirect, web, workload

pytestmark = pytest.mark.cluster
WEB = Service("web", 8000, check=True)
STRICT = {
    "runAsNonRoot": True,
    "runAsUser": 65534,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""What the strictest level asks of an application."""


@pytest.mark.parametrize("level", ["baseline", "restricted"])
def test_pod_security_has_nothing_against_the_sidecar(kube: Kube, level: str) -> None:
    """A stricter level names the init container, which sets the rules, and neither the sidecar nor the application."""
    kube.apply(workloads.namespace(kube.namespace, level))
    app = web("web", redirect(trusted_cidrs="192.0.2.1/32"))
    refused = kube.try_apply(pod(replace(app, container={**app.container, "securityContext": STRICT})))
    assert refused.code
    assert 'container "srcip-init" must not include "NET_ADMIN"' in refused.err
    assert "srcip-proxy" not in refused.err


def through(balancer: Balancer) -> Traffic:
    """Requests of many clients; an answer begins with the address that nginx read in the header."""

    def request(client: Endpoint) -> str:
        seen = clients.fields(clients.ask(balancer.connect("web", client=client)))
        return f"{seen.get('X-Forwarded-For')} {client[1]}"

    return Traffic(request)


def test_a_rollout_loses_no_request_and_no_header(kube: Kube, edge: Edge) -> None:
    """Two Pods are replaced under traffic, behind a balancer that checks them and follows the endpoints."""
    app = web("web", redirect(trusted_cidrs=alone(*edge.host.ips)))
    app = replace(app, container={**app.container, "lifecycle": {"preStop": {"sleep": {"seconds": 3}}}})
    at_once = {"replicas": 2, "strategy": {"rollingUpdate": {"maxSurge": 2, "maxUnavailable": 0}}}
    kube.apply(workload("Deployment", app, **at_once))
    kube.rolled_out("deployment/web")
    with Balancer(edge.host, WEB) as balancer:

        def follow() -> None:
            balancer.serve("web", [(ip(each), 8080) for each in kube.pods("app=web")])

        follow()
        eventually(lambda: balancer.up("web") == 2, "two healthy servers")
        with repeated(follow, 0.2), through(balancer) as traffic:
            eventually(lambda: traffic.answers > 20, "traffic before")
            kube("rollout", "restart", "deployment/web")
            kube.rolled_out("deployment/web")
            eventually(lambda: len(kube.pods("app=web", ready=False)) == len(kube.items("pods")), "the old Pods go")
            after = traffic.answers
            eventually(lambda: traffic.answers > after + 20, "traffic after")
        troubles = balancer.troubles()
    assert (dict(traffic.errors), traffic.wrong) == ({}, []), "\n".join(troubles)


def test_while_the_sidecar_is_down_no_request_gets_past_it(cluster: Site, kube: Kube, edge: Edge) -> None:
    """It is killed under traffic and comes back: connections are reset meanwhile, and the application sees no request
    without its header, and none from the balancer itself."""
    kube.apply(pod(web("web", redirect(trusted_cidrs=alone(*edge.host.ips)))))
    kube.wait("condition=Ready", "pod/web")
    with Balancer(edge.host, replace(WEB, check=False)) as balancer:
        balancer.serve("web", [(ip(kube.get("pod", "web")), 8080)])
        with through(balancer) as traffic:
            eventually(lambda: traffic.answers > 20, "traffic before")
            sidecar.kill(cluster, kube, "web")
            eventually(lambda: sidecar.restarts(kube, "web") == 1, "the restart of the sidecar")
            back = traffic.answers
            eventually(lambda: traffic.answers > back + 20, "traffic after")
    assert traffic.wrong == []
    assert f" {edge.host.ips[0]} " not in kube.logs("web")
