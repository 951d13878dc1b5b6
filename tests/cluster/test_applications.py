"""Real, unmodified applications behind the balancer: their own logs show the client."""

import subprocess

import pytest

from srcip_e2e.cluster import apps, clients
from srcip_e2e.cluster.edge import Balancer, Service
from srcip_e2e.cluster.kube import Kube, eventually, ip
from srcip_e2e.cluster.node_network import BALANCER, CLIENT
from srcip_e2e.cluster.site import Edge
from srcip_e2e.cluster.workloads import POSTGRES, POSTGRES_UID, SSHD, App, alone, pod, tproxy

pytestmark = pytest.mark.cluster
HEAD = Service("app", 5000)


def run(kube: Kube, app: App) -> str:
    """Run one Pod and return its address when it is Ready."""
    kube.apply(pod(app))
    kube.wait("condition=Ready", f"pod/{app.name}")
    return ip(kube.get("pod", app.name))


def test_openssh_greets_first_and_logs_the_client(kube: Kube, edge: Edge) -> None:
    """A protocol where the server speaks first: the greeting comes at once, and sshd's log has the client."""
    app = App("ssh", SSHD, 2222, tproxy(trusted_cidrs=alone(*edge.host.ips)))
    address = run(kube, app)
    with Balancer(edge.host, HEAD) as balancer:
        balancer.serve("app", [(address, 2222)])
        with balancer.connect("app", client=("203.0.113.99", 12345)) as connection:
            connection.settimeout(60)
            assert clients.line(connection).startswith("SSH-2.0-OpenSSH_")
            connection.sendall(b"SSH-2.0-e2e\r\n")
            eventually(lambda: "Connection from 203.0.113.99 port 12345 on " in kube.logs("ssh"), "the line in its log")


@pytest.mark.parametrize("version", [4, 6])
def test_postgresql_lets_the_client_in_by_its_address(kube: Kube, edge: Edge, version: int) -> None:
    """pg_hba.conf allows the clients' network only, and the balancer's is not in it: a real psql gets in, and the
    server's function and its log name the client."""
    app = App(
        "pg",
        POSTGRES,
        5432,
        tproxy(trusted_cidrs=alone(*edge.host.ips)),
        container={"securityContext": {"runAsUser": POSTGRES_UID, "runAsGroup": POSTGRES_UID}},
    )
    address = run(kube, app)
    where = BALANCER[0 if version == 4 else 1]
    client = CLIENT[0 if version == 4 else 1]
    with Balancer(edge.host, HEAD) as balancer:
        balancer.serve("app", [(address, 5432)])
        psql = ["psql", "-h", where, "-p", "5000", "-U", "postgres", "-Atc", "select host(inet_client_addr())"]
        done = edge.host.run(["chroot", str(apps.rootfs()), *psql], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert (done.stdout.strip(), done.stderr) == (client, "")
    assert f"connection received: host={client} port=" in kube.logs("pg")


def test_postgresql_without_srcip_keeps_the_client_out(kube: Kube, edge: Edge) -> None:
    """The proof of the above: without the sidecar the same server sees the balancer, which may not log in."""
    app = App("pg", POSTGRES, 5432, container={"securityContext": {"runAsUser": POSTGRES_UID}})
    address = run(kube, app)
    with Balancer(edge.host, Service("app", 5000, options="")) as balancer:
        balancer.serve("app", [(address, 5432)])
        psql = ["psql", "-h", BALANCER[0], "-p", "5000", "-U", "postgres", "-Atc", "select 1"]
        done = edge.host.run(["chroot", str(apps.rootfs()), *psql], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.returncode
    assert f'no pg_hba.conf entry for host "{edge.host.ips[0]}"' in done.stderr
