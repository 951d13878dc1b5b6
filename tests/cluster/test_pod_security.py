"""What happens in a namespace of each Pod Security level is said in words that name srcip and the way out."""

import pytest

from srcip_e2e.cluster import workloads
from srcip_e2e.cluster.kube import Kube, eventually
from srcip_e2e.cluster.workloads import RESTRICTED, App, tproxy, workload

pytestmark = pytest.mark.cluster
CAPABILITIES = 'containers "srcip-init", "srcip-proxy" must not include "NET_ADMIN", "NET_RAW"'
APP = App("web", annotations=tproxy(trusted_cidrs="192.0.2.1/32"), container=RESTRICTED)


def enforce(kube: Kube, level: str) -> None:
    kube.apply(workloads.namespace(kube.namespace, level))


def test_level_privileged_takes_the_sidecar(kube: Kube) -> None:
    """The level that srcip needs."""
    enforce(kube, "privileged")
    kube.apply(workload("Deployment", APP))
    kube.rolled_out("deployment/web")


@pytest.mark.parametrize("level", ["baseline", "restricted"])
def test_a_stricter_level_refuses_and_names_the_cause(kube: Kube, level: str) -> None:
    """No Pod comes up without its sidecar: the event of the ReplicaSet names the level, the containers and what they
    must not have. kubectl says the same of a Pod that is created by itself."""
    enforce(kube, level)
    kube.apply(workload("Deployment", APP))

    def event() -> str | None:
        failed = [e["message"] for e in kube.items("events") if e["reason"] == "FailedCreate"]
        return failed[0] if failed else None

    message = eventually(event, "the event FailedCreate")
    assert f'violates PodSecurity "{level}:latest"' in message
    assert CAPABILITIES in message
    assert kube.items("pods") == []
    refused = kube.try_apply(workloads.pod(APP))
    assert refused.code
    assert CAPABILITIES in refused.err


@pytest.mark.parametrize("level", ["baseline", "restricted"])
def test_an_opt_out_helps_where_the_level_cannot_change(kube: Kube, level: str) -> None:
    """The annotation srcip.io/inject: "false" lets the same Pod run, without srcip."""
    enforce(kube, level)
    out = App("web", annotations={**APP.annotations, "inject": "false"}, container=RESTRICTED)
    kube.apply(workload("Deployment", out))
    kube.rolled_out("deployment/web")
    assert "initContainers" not in kube.pods(out.selector)[0]["spec"]
