"""ebpf mode on a real node: one init container, then nothing of srcip, and the application sees the client."""

import copy
import json
import subprocess
from pathlib import Path

import pytest

from srcip_e2e.cluster import apps, clients, workloads
from srcip_e2e.cluster.edge import Balancer, Service
from srcip_e2e.cluster.kube import Kube, Object, eventually, ip, is_ready, name
from srcip_e2e.cluster.node import Node
from srcip_e2e.cluster.node_network import BALANCER, CLIENT
from srcip_e2e.cluster.site import Edge, Site
from srcip_e2e.cluster.workloads import NGINX, POSTGRES, POSTGRES_UID, SSHD, App, alone, ebpf, pod, workload
from srcip_e2e.images.recipe import reference
from srcip_lab.errors import LabError
from srcip_lab.tools import run
from srcip_proxy.ebpf import cgroups
from srcip_webhook.mutate import consider
from srcip_webhook.settings import Settings

pytestmark = pytest.mark.cluster
CLIENTS = {4: ("203.0.113.99", 12345), 6: ("2001:db8::99", 12345)}
WEB = Service("web", 8000)
PLAIN = Service("plain", 8001, options="")
HEAD = Service("app", 5000)
ATTACHED = "srcip-proxy init: ports"


def deployed(kube: Kube, app: App) -> Object:
    """Run the application in a Deployment; its only Pod."""
    kube.apply(workload("Deployment", app))
    kube.rolled_out(f"deployment/{app.name}")
    return kube.pods(app.selector)[0]


def alone_in_pod(kube: Kube, app: App) -> Object:
    """Run the application in a Pod of its own."""
    kube.apply(pod(app))
    kube.wait("condition=Ready", f"pod/{app.name}")
    return kube.get("pod", app.name)


def web(edge: Edge, *more: str, **asked: str) -> App:
    """The application of the tests, which tells each client who it seems to be."""
    return App("web", annotations=ebpf(trusted_cidrs=alone(*edge.host.ips, *more), **asked))


def test_the_pod_has_one_init_container_and_no_process_of_srcips(kube: Kube, edge: Edge) -> None:
    """It has ended well when the application starts, holds no token, and nothing but the application runs after it."""
    made = deployed(kube, web(edge))
    (init,) = made["spec"]["initContainers"]
    assert [each["name"] for each in made["spec"]["containers"]] == ["app"]
    assert init["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["BPF", "NET_ADMIN"]}
    assert all(mount["name"] == "srcip-cgroup" and mount["readOnly"] for mount in init["volumeMounts"])
    (status,) = made["status"]["initContainerStatuses"]
    assert status["state"]["terminated"]["exitCode"] == 0
    assert kube.logs(name(made), "srcip-init").startswith(ATTACHED)
    said = kube.exec(name(made), "python3", "-c", "import os; print(*filter(str.isdigit, os.listdir('/proc')))")
    assert len(said.out.split()) == 2, "the application and the program that asks"
    assert "srcip.io/injected" not in made["metadata"]["labels"]


@pytest.mark.parametrize("family", [4, 6])
def test_the_application_sees_clients_of_either_version(kube: Kube, edge: Edge, family: int) -> None:
    """Address and port, over a balancer's connection of either version, also where the two differ: a socket of
    AF_INET6 shows both."""
    made = deployed(kube, web(edge))
    with Balancer(edge.host, WEB) as balancer:
        balancer.serve("web", [(ip(made, family), 8080)])
        answers = {v: clients.ask(balancer.connect("web", client=CLIENTS[v], family=v)) for v in CLIENTS}
    assert {v: clients.seen(answer) for v, answer in answers.items()} == CLIENTS


def test_nginx_logs_the_client(kube: Kube, edge: Edge) -> None:
    """Unmodified, and over both versions of IP."""
    made = deployed(kube, App("web", NGINX, annotations=ebpf(trusted_cidrs=alone(*edge.host.ips))))
    for version in (4, 6):
        with Balancer(edge.host, WEB) as balancer:
            balancer.serve("web", [(ip(made, version), 8080)])
            clients.ask(balancer.connect("web", client=CLIENTS[version], family=version))
    for address, port in CLIENTS.values():
        assert f'{address} {port} "GET / HTTP/1.1" 200' in kube.logs(name(made))


def test_openssh_greets_first_and_logs_the_client(kube: Kube, edge: Edge) -> None:
    """A protocol where the server speaks first."""
    made = alone_in_pod(kube, App("ssh", SSHD, 2222, ebpf(trusted_cidrs=alone(*edge.host.ips))))
    with Balancer(edge.host, HEAD) as balancer:
        balancer.serve("app", [(ip(made), 2222)])
        with balancer.connect("app", client=CLIENTS[4]) as connection:
            connection.settimeout(60)
            assert clients.line(connection).startswith("SSH-2.0-OpenSSH_")
            connection.sendall(b"SSH-2.0-e2e\r\n")
            eventually(lambda: "Connection from 203.0.113.99 port 12345 on " in kube.logs("ssh"), "the line in its log")


@pytest.mark.parametrize("version", [4, 6])
def test_postgresql_lets_the_client_in_by_its_address(kube: Kube, edge: Edge, version: int) -> None:
    """pg_hba.conf allows the clients' network only: a real psql gets in, and the server names the client."""
    user = {"securityContext": {"runAsUser": POSTGRES_UID, "runAsGroup": POSTGRES_UID}}
    asked = ebpf(trusted_cidrs=alone(*edge.host.ips))
    made = alone_in_pod(kube, App("pg", POSTGRES, 5432, asked, container=user))
    with Balancer(edge.host, HEAD) as balancer:
        balancer.serve("app", [(ip(made, version), 5432)])
        where, client = BALANCER[version == 6], CLIENT[version == 6]
        psql = ["psql", "-h", where, "-p", "5000", "-U", "postgres", "-Atc", "select host(inet_client_addr())"]
        done = edge.host.run(["chroot", str(apps.rootfs()), *psql], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert (done.stdout.strip(), done.stderr) == (client, "")
    assert f"connection received: host={client} port=" in kube.logs("pg")


def test_a_stranger_is_native_and_its_header_is_just_bytes(kube: Kube, edge: Edge) -> None:
    """From a host that nobody trusts: the application sees that host, and every byte that it sends."""
    if not edge.strangers:
        pytest.skip("the host outside this cluster has no second address")
    asked = ebpf(trusted_cidrs=alone(*edge.host.ips))
    made = alone_in_pod(kube, App("web", port=9000, annotations=asked))
    stranger = (edge.strangers[0], 23456)
    with edge.host.connect(ip(made), 9000, source=stranger) as connection:
        assert clients.line(connection).startswith(f"hello {stranger[0]} {stranger[1]} ")
        forged = b"PROXY TCP4 203.0.113.7 192.0.2.1 54321 25\r\n"
        connection.sendall(forged)
        assert clients.line(connection) == forged.decode().strip()


def test_a_balancer_without_header_is_refused_and_counted(kube: Kube, edge: Edge) -> None:
    """The counters are read from a debug container: it needs no capability, and the application is not restarted."""
    made = alone_in_pod(kube, web(edge))
    with Balancer(edge.host, WEB, PLAIN) as balancer:
        for service in ("web", "plain"):
            balancer.serve(service, [(ip(made), 8080)])
        clients.ask(balancer.connect("web"))
        with pytest.raises((ConnectionResetError, LabError)):
            clients.ask(balancer.connect("plain"))
    image = f"--image={reference('proxy')}"
    kube("debug", "web", image, "--container=stats", "--profile=restricted", "--", "srcip-proxy", "ebpf", "stats")
    text = eventually(lambda: kube.try_("logs", "web", "--container=stats").out, "the counters")
    assert 'srcip_refused_connections_total{reason="no_header"} 1' in text
    assert 'srcip_accepted_connections_total{header="proxy"} 1' in text
    assert edge.host.ips[0] not in kube.logs("web"), "the application has seen nothing of it"


def test_a_container_that_starts_anew_sees_clients_as_before(kube: Kube, edge: Edge) -> None:
    """The programs belong to the Pod: the init container does not run again, and need not."""
    made = alone_in_pod(kube, web(edge))
    with Balancer(edge.host, WEB) as balancer:
        balancer.serve("web", [(ip(made), 8080)])
        for number in range(2):
            assert clients.seen(clients.ask(balancer.connect("web", client=("203.0.113.9", 9000 + number))))[1] == (
                9000 + number
            )
            kube.exec("web", "sh", "-c", "kill 1")
            eventually(lambda n=number: restarts(kube) == n + 1, "the restart")  # type: ignore[misc]
            eventually(lambda: is_ready(kube.get("pod", "web")), "ready again")
        assert clients.seen(clients.ask(balancer.connect("web", client=CLIENTS[4]))) == CLIENTS[4]
    assert kube.get("pod", "web")["status"]["initContainerStatuses"][0]["restartCount"] == 0


def test_a_pod_with_a_new_sandbox_is_set_up_anew(cluster: Site, kube: Kube, edge: Edge) -> None:
    """When a Pod's sandbox dies, kubelet gives it another network, and the cgroup stays: init runs again and attaches
    again, and what is left of the first network's programs says nothing."""
    if not cluster.node:
        pytest.skip("the node of this cluster is not on this machine")
    before = alone_in_pod(kube, web(edge))
    cluster.node.ctr("task", "kill", "--signal=SIGKILL", sandbox(cluster.node, before))
    eventually(lambda: restarts(kube) == 1 and is_ready(kube.get("pod", "web")), "ready again")
    after = kube.get("pod", "web")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 0
    with Balancer(edge.host, WEB) as balancer:
        balancer.serve("web", [(ip(after), 8080)])
        assert clients.seen(clients.ask(balancer.connect("web", client=CLIENTS[4]))) == CLIENTS[4]


def sandbox(node: Node, of: Object) -> str:
    """The container that holds the Pod's namespaces."""
    wanted = {"io.cri-containerd.kind": "sandbox", "io.kubernetes.pod.uid": of["metadata"]["uid"]}
    filters = (f'labels."{label}"=={value}' for label, value in wanted.items())
    return node.ctr("containers", "ls", "--quiet", ",".join(filters)).strip()


def restarts(kube: Kube) -> int:
    """How often the application was started again."""
    return int(kube.get("pod", "web")["status"]["containerStatuses"][0]["restartCount"])


@pytest.mark.parametrize("kind", ["tcpSocket", "httpGet"])
def test_probes_from_a_trusted_node_tell_the_truth(kube: Kube, edge: Edge, kind: str) -> None:
    """No probe is rewritten: the kernel answers one that only connects, as it would without srcip, and by default the
    node may speak without a header. Both fail when the application is dead and pass when it lives again."""
    handler = {kind: {"port": "main", **({"path": "/"} if kind == "httpGet" else {})}, "periodSeconds": 1}
    probes = {"readinessProbe": {**handler, "failureThreshold": 1}, "livenessProbe": {**handler, "failureThreshold": 4}}
    asked = web(edge, *edge.snat_ips)
    made = alone_in_pod(kube, App("web", annotations=asked.annotations, container=probes))
    assert made["spec"]["containers"][0]["readinessProbe"][kind]["port"] == "main"
    with Balancer(edge.host, WEB) as balancer:
        balancer.serve("web", [(ip(made), 8080)])
        clients.ask(balancer.connect("web"), b"GET /die HTTP/1.1\r\nHost: e2e\r\nConnection: close\r\n\r\n")
        eventually(lambda: not is_ready(kube.get("pod", "web")), "the readiness probe fails", every_s=0.1)
        eventually(lambda: restarts(kube) == 1, "the liveness probe fails, and kubelet starts the application anew")
        kube.wait("condition=Ready", "pod/web")
        assert clients.seen(clients.ask(balancer.connect("web", client=CLIENTS[4]))) == CLIENTS[4]


def bpf(*words: str) -> list[Object]:
    """What bpftool lists of this machine's kernel."""
    found: list[Object] = json.loads(run("bpftool", "--json", *words))
    return found


def programs(of: Object) -> dict[str, set[int]]:
    """The programs that are attached to the Pod's cgroup and all that share maps with them, and these maps."""
    root = cgroups.version_2(Path("/sys/fs/cgroup"))
    own = cgroups.of_pod(root, of["metadata"]["uid"]) if root else None
    assert own, "the Pod's cgroup"
    attached = {each["id"] for each in bpf("cgroup", "show", str(own))}
    listed = {each["id"]: set(each.get("map_ids", ())) for each in bpf("prog", "show")}
    maps = set().union(*(listed[each] for each in attached))
    return {"prog": {number for number, its in listed.items() if its & maps}, "map": maps}


def test_nothing_is_left_of_a_deleted_pod(cluster: Site, kube: Kube, edge: Edge) -> None:
    """Its four programs and all of their maps go with its network and its cgroup; those of another Pod stay."""
    if not cluster.node:
        pytest.skip("the node of this cluster is not on this machine")
    other = deployed(kube, App("other", annotations=web(edge).annotations))
    gone = programs(alone_in_pod(kube, web(edge)))
    stay = programs(other)
    assert len(gone["prog"]) == 4
    assert not gone["prog"] & stay["prog"]
    assert not gone["map"] & stay["map"]
    kube("delete", "pod", "web", "--grace-period=1")

    def left() -> set[int]:
        return {each["id"] for kind in gone for each in bpf(kind, "show") if each["id"] in gone[kind]}

    eventually(lambda: not left(), "programs and maps are gone", timeout_s=15)
    assert programs(other) == stay


FALLBACK = "ebpf,tproxy"


def test_the_fallback_idles_where_the_node_can_have_ebpf_mode(kube: Kube, edge: Edge) -> None:
    """The kernel has all connections, the sidecar none; probes go to their aliases, past both."""
    probe = {"httpGet": {"path": "/", "port": "main"}, "periodSeconds": 1}
    asked = {**web(edge, *edge.snat_ips, node_proxy_protocol="required").annotations, "mode": FALLBACK}
    made = alone_in_pod(kube, App("web", annotations=asked, container={"readinessProbe": probe}))
    assert kube.logs("web", "srcip-init").endswith("; the sidecar is inactive\n")  # its only line
    with Balancer(edge.host, WEB) as balancer:
        balancer.serve("web", [(ip(made), 8080)])
        assert clients.seen(clients.ask(balancer.connect("web", client=CLIENTS[4]))) == CLIENTS[4]
    stats = kube.exec("web", "srcip-proxy", "ebpf", "stats", container="srcip-proxy").out
    assert 'srcip_accepted_connections_total{header="proxy"} 1' in stats
    done = kube.exec("web", "srcip-proxy", "check", container="srcip-proxy")
    assert (done.code, done.out) == (0, "ok      programs: they are attached to this Pod\n")
    assert metrics(kube).get('srcip_accepted_connections_total{header="proxy"}', "0") == "0"


def test_the_fallback_is_tproxy_where_the_node_cannot(kube: Kube, edge: Edge) -> None:
    """Here its cgroups are not where they should be: init says so, and the sidecar does all the work."""
    kube("label", "namespace", kube.namespace, "srcip.io/injection-")  # the Pod below is patched already
    asked = {**web(edge).annotations, "mode": FALLBACK}
    settings = Settings(proxy_image=reference("proxy"), proxy_image_pull_policy="Never")
    patched = consider(pod(App("web", annotations=asked)), settings).after
    (cgroup,) = (each for each in patched["spec"]["volumes"] if each["name"] == "srcip-cgroup")
    kube.apply(with_path(patched, cgroup["name"], "/usr"))
    kube.wait("condition=Ready", "pod/web")
    said = kube.logs("web", "srcip-init")
    assert "does not support ebpf mode, using tproxy mode: /host/cgroup, the node's /sys/fs/cgroup, is not" in said
    with Balancer(edge.host, WEB) as balancer:
        balancer.serve("web", [(ip(kube.get("pod", "web")), 8080)])
        assert clients.seen(clients.ask(balancer.connect("web", client=CLIENTS[4]))) == CLIENTS[4]
    assert metrics(kube)['srcip_accepted_connections_total{header="proxy"}'] == "1"


def with_path(made: Object, volume: str, path: str) -> Object:
    """The Pod with another hostPath."""
    changed = copy.deepcopy(made)
    for each in changed["spec"]["volumes"]:
        if each["name"] == volume:
            each["hostPath"]["path"] = path
    return changed


def metrics(kube: Kube) -> dict[str, str]:
    """The sidecar's metrics."""
    text = kube("get", "--raw", f"/api/v1/namespaces/{kube.namespace}/pods/web:15320/proxy/metrics")
    return dict(line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))  # type: ignore[misc]


@pytest.mark.parametrize("level", ["baseline", "restricted"])
def test_a_stricter_level_refuses_and_names_the_cause(kube: Kube, level: str) -> None:
    """No Pod comes up without its programs: the refusal names the level, the capabilities and the hostPath."""
    kube.apply(workloads.namespace(kube.namespace, level))
    refused = kube.try_apply(pod(App("web", annotations=ebpf(trusted_cidrs="192.0.2.1/32"))))
    assert refused.code
    assert f'violates PodSecurity "{level}:latest"' in refused.err
    assert 'container "srcip-init" must not include' in refused.err
    assert '"BPF", "NET_ADMIN"' in refused.err
    assert 'volume "srcip-cgroup"' in refused.err
    assert "hostPath" in refused.err
