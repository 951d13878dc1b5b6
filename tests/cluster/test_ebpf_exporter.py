"""The exporter of ebpf mode on a real node: helm switches it on, and its page has the Pods by their names."""

import copy
import re
from collections.abc import Iterator

import pytest

from srcip_e2e.cluster import chart, clients, workloads
from srcip_e2e.cluster.edge import Balancer, Service
from srcip_e2e.cluster.kube import Kube, Object, eventually, ip, is_ready, name
from srcip_e2e.cluster.node import Node
from srcip_e2e.cluster.site import Edge, Site
from srcip_e2e.cluster.workloads import App, alone, ebpf, pod
from srcip_lab.errors import LabError
from srcip_proxy.ebpf.exporter.run import NEEDED

pytestmark = pytest.mark.cluster
WEB = Service("web", 8000)
PLAIN = Service("plain", 8001, options="")
DAEMONSET = "daemonset/srcip-ebpf-exporter"
SELECTOR = "app.kubernetes.io/component=ebpf-exporter"


@pytest.fixture(scope="module")
def system(cluster: Site) -> Iterator[Kube]:
    """The release's namespace with the exporter at work; without it in the end."""
    inside = cluster.kube.within(chart.NAMESPACE)
    notes = chart.install(cluster, "ebpfExporter.enabled=true")
    assert "rollout status daemonset/srcip-ebpf-exporter" in notes
    try:
        inside.rolled_out(DAEMONSET)
        yield inside
    finally:
        chart.install(cluster)
        eventually(lambda: inside.items("pods", SELECTOR) == [], "the exporter is gone", timeout_s=60)


def page(system: Kube, namespace: str = "") -> dict[str, int]:
    """What the exporter says of one namespace, by Pod and the rest of the sample."""
    (running,) = system.pods(SELECTOR)
    text = system("get", "--raw", f"/api/v1/namespaces/{chart.NAMESPACE}/pods/{name(running)}:15320/proxy/metrics")
    rows = re.findall(r'^(\w+)\{namespace="(.*)",pod="(.*)",(\w+=".*")\} (\d+)$', text, re.MULTILINE)
    return {f"{pod} {metric} {label}": int(value) for metric, ns, pod, label, value in rows if ns == namespace}


def ready(kube: Kube, app: App) -> Object:
    kube.apply(pod(app))
    kube.wait("condition=Ready", f"pod/{app.name}")
    return kube.get("pod", app.name)


def test_connections_are_counted_under_namespace_and_pod(system: Kube, kube: Kube, edge: Edge) -> None:
    """Two Pods in ebpf mode behind a real balancer; one that has none of it is not on the page. A Pod that is deleted
    leaves the page."""
    asked = ebpf(trusted_cidrs=alone(*edge.host.ips))
    web, other = (ready(kube, App(each, annotations=asked)) for each in ("web", "other"))
    ready(kube, App("plain", annotations={"inject": "false"}))
    with Balancer(edge.host, WEB, PLAIN) as balancer:
        for service in ("web", "plain"):
            balancer.serve(service, [(ip(web), 8080)])
        for _ in range(3):
            clients.ask(balancer.connect("web"))
        with pytest.raises((ConnectionResetError, LabError)):
            clients.ask(balancer.connect("plain"))
        balancer.serve("web", [(ip(other), 8080)])
        clients.ask(balancer.connect("web"))
    accepted = 'srcip_accepted_connections_total header="proxy"'
    wanted = {f"web {accepted}": 3, 'web srcip_refused_connections_total reason="no_header"': 1, f"other {accepted}": 1}

    def counted() -> dict[str, int]:
        return {sample: value for sample, value in page(system, kube.namespace).items() if value}

    eventually(lambda: counted() == wanted, "the counters")
    kube("delete", "pod", "web", "--grace-period=1")
    eventually(lambda: counted() == {f"other {accepted}": 1}, "the Pod has left the page")
    assert all(sample.startswith("other ") for sample in page(system, kube.namespace))


def test_a_new_sandbox_of_a_pod_goes_on_counting(cluster: Site, system: Kube, kube: Kube, edge: Edge) -> None:
    """Its programs are new ones, on the same cgroup, beside those of the network that is gone."""
    if not cluster.node:
        pytest.skip("the node of this cluster is not on this machine")
    made = ready(kube, App("web", annotations=ebpf(trusted_cidrs=alone(*edge.host.ips))))
    sample = 'web srcip_accepted_connections_total header="proxy"'
    for number in (1, 2):
        with Balancer(edge.host, WEB) as balancer:
            balancer.serve("web", [(ip(made), 8080)])
            clients.ask(balancer.connect("web"))
        eventually(lambda n=number: page(system, kube.namespace).get(sample) == n, "the counter")  # type: ignore[misc]
        if number == 1:
            made = with_new_sandbox(cluster.node, kube, made)
    assert kube.get("pod", "web")["metadata"]["uid"] == made["metadata"]["uid"]


def with_new_sandbox(node: Node, kube: Kube, of: Object) -> Object:
    """The Pod again, once kubelet has replaced its sandbox."""
    labels = {"io.cri-containerd.kind": "sandbox", "io.kubernetes.pod.uid": of["metadata"]["uid"]}
    filters = ",".join(f'labels."{label}"=={value}' for label, value in labels.items())
    sandbox = node.ctr("containers", "ls", "--quiet", filters).strip()
    node.ctr("task", "kill", "--signal=SIGKILL", sandbox)

    def again() -> Object | None:
        pod = kube.get("pod", name(of))
        restarts = pod["status"]["containerStatuses"][0]["restartCount"]
        return pod if restarts == 1 and is_ready(pod) else None

    found: Object = eventually(again, "ready again", timeout_s=90)
    return found


def test_it_has_no_token_and_four_capabilities(system: Kube) -> None:
    """As it really runs: the process that listens is nobody, under a read-only root and a seccomp filter."""
    (running,) = system.pods(SELECTOR)
    code = (
        "import os; numbers = sorted(filter(str.isdigit, os.listdir('/proc')), key=int);"
        "print([open(f'/proc/{number}/status').read() for number in numbers],"
        "os.path.exists('/var/run/secrets/kubernetes.io/serviceaccount/token'), os.access('/', os.W_OK))"
    )
    said = system.exec(name(running), "python3", "-I", "-c", code, container="exporter")
    assert said.code == 0, said.err
    rows = said.out.replace("\\n", "\n").replace("\\t", "\t")
    permitted = [int(value, 16) for value in re.findall(r"CapPrm:\t([0-9a-f]+)", rows)]
    users = re.findall(r"Uid:\t(\d+)", rows)
    assert permitted[:2] == [sum(1 << bit for bit in (21, 12, 7, 6)), 0]
    assert users[:2] == ["0", "7363"]
    assert re.findall(r"Seccomp:\t(\d)", rows)[:2] == ["2", "2"]
    assert re.findall(r"NoNewPrivs:\t(\d)", rows)[:2] == ["1", "1"]
    assert said.out.split("]")[1].split() == ["False", "False"]


def test_it_stops_at_once(system: Kube) -> None:
    """By the signal that the image names; kubelet starts it again, and nothing is lost but a moment."""
    (running,) = system.pods(SELECTOR)
    system("delete", "pod", name(running), "--wait=true", "--grace-period=60", timeout_s=20)
    eventually(lambda: system.pods(SELECTOR), "its successor", timeout_s=60)


def single(system: Kube, where: Kube, **annotations: str) -> Object:
    """The DaemonSet's Pod as one of its own in another namespace."""
    template = system.get("daemonset", "srcip-ebpf-exporter")["spec"]["template"]
    spec = {key: value for key, value in copy.deepcopy(template["spec"]).items() if "erviceAccount" not in key}
    meta = {"name": "exporter", "namespace": where.namespace, "labels": template["metadata"]["labels"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {**meta, "annotations": annotations}, "spec": spec}


def test_the_webhook_leaves_it_alone(system: Kube, kube: Kube) -> None:
    """Even in a namespace with injection and with an annotation that asks for it."""
    assert "initContainers" not in system.pods(SELECTOR)[0]["spec"]
    kube.apply(single(system, kube, **{"srcip.io/mode": "no such mode"}))
    assert "initContainers" not in kube.get("pod", "exporter")["spec"]


def test_a_node_without_cgroup_v2_is_told_in_the_log(system: Kube, kube: Kube) -> None:
    """The container ends with what is missing, which is also the Pod's message."""
    made = single(system, kube)
    next(each for each in made["spec"]["volumes"] if each["name"] == "cgroup")["hostPath"]["path"] = "/usr"
    kube.apply(made)
    said = eventually(lambda: kube.try_("logs", "exporter").out, "its log")
    assert "--cgroups /host/cgroup is not cgroup v2" in said
    assert not is_ready(kube.get("pod", "exporter"))


@pytest.mark.parametrize("level", ["baseline", "restricted"])
def test_a_stricter_level_of_the_namespace_refuses_it(system: Kube, kube: Kube, level: str) -> None:
    """So the release's namespace needs the label that helm's notes name."""
    kube.apply(workloads.namespace(kube.namespace, level))
    refused = kube.try_apply(single(system, kube))
    assert refused.code
    assert f'violates PodSecurity "{level}:latest"' in refused.err
    assert all(f'"{capability}"' in refused.err for capability in NEEDED if not capability.startswith("SET"))
    assert "hostPath" in refused.err
