"""Beside a mesh's sidecar: stand-ins with the real ports, users and rules of each, in a running Pod (meshes.py).

What a mesh does inside TLS is not tried here; who is led where, and who sees the client, is.
"""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from srcip_lab.namespace import Host
from srcip_proxy.plan import ProbeAlias
from support import meshes
from support.meshes import MESHES
from support.rig import (
    APP,
    CLIENT4,
    CLIENT6,
    HTTP_APP,
    LB4,
    LB6,
    LB_NETWORKS,
    NODE4,
    OTHER4,
    OTHER6,
    POD4,
    POD6,
    needs_root,
    plan,
    start,
    v2,
)
from support.web import ask, get, read, redirect

pytestmark = pytest.mark.dataplane

ALIAS = 15100
PLANS = {
    "tproxy": plan(mesh=True),
    "tproxy-pod": plan(mesh=True, deliver_to="pod"),
    "redirect": redirect(mesh=True),
    "probes": plan(mesh=True, probe_aliases=(ProbeAlias(ALIAS, 7000),), trusted_cidrs=(*LB_NETWORKS, f"{NODE4}/32")),
    "redirect-probes": redirect(mesh=True, probe_aliases=(ProbeAlias(ALIAS, 7000),)),
}
PEERS = {4: (CLIENT4, LB4, OTHER4, POD4), 6: (CLIENT6, LB6, OTHER6, POD6)}
"""Who is there, by IP version: the client, the balancer, another host, the Pod."""


@dataclass
class Beside:
    """A Pod with srcip and a mesh."""

    pod: meshes.Beside
    mode: str

    @property
    def is_tproxy(self) -> bool:
        return PLANS[self.mode].mode == "tproxy"

    def client(self, data: bytes = b"", host: Host | None = None, to: str = POD4, port: int = 7000) -> str:
        """Whom the application shows: its peer in tproxy mode, the header where there is one in redirect mode."""
        if self.is_tproxy:
            seen = self.pod.rig.seen(data, port, host=host, to=to)
            return seen.peer[0] if seen.peer else seen.end
        saw = ask(self.pod.rig, get(), data, port, host=host, to=to)
        return str(saw.written().get("X-Forwarded-For", saw.facts["peer"][0])).removeprefix("::ffff:")


@pytest.fixture(scope="module", params=[(mesh, mode) for mesh in MESHES for mode in PLANS], ids="-".join)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beside]:
    """Each mesh beside each mode."""
    needs_root()
    name, mode = request.param
    wanted = PLANS[mode]
    lab = start(wanted, ("::", "7000"), program=APP if wanted.mode == "tproxy" else HTTP_APP)
    with meshes.beside(lab, MESHES[name], tmp_path_factory.mktemp("mesh") / "log") as pod:
        yield Beside(pod, mode)


@pytest.fixture(params=["mesh", "srcip"], ids="{}-last".format)
def beside(request: pytest.FixtureRequest, running: Beside) -> Beside:
    """The same with the rules of one of both loaded last, and nothing in the mesh's log."""
    running.pod.load_last(request.param)
    return running


def test_who_is_shown_to_the_application(beside: Beside) -> None:
    """The balancer's connections pass srcip alone, whichever rules were loaded last, and all others the mesh, which so
    guards the port against them."""
    for client, balancer, other, pod in PEERS.values():
        assert [beside.client(v2(client), to=pod) for _ in range(3)] == [client[0]] * 3
        assert not beside.pod.has_said("inbound", balancer)
        assert beside.client(host=beside.pod.rig.lab.other, to=pod) != other
        assert beside.pod.saw("inbound", other, pod, 7000)


def test_a_probe_passes_the_mesh_by(beside: Beside) -> None:
    """On its own port, from a node that is trusted, too; kubelet speaks no TLS of a mesh."""
    if not PLANS[beside.mode].probe_aliases:
        pytest.skip("no probes in this plan")
    with beside.pod.rig.lab.node.connect(POD4, ALIAS) as probe:
        probe.settimeout(60)
        if not beside.is_tproxy:
            probe.sendall(get())
        assert probe.recv(64)
    assert beside.client(v2(), port=7000) == CLIENT4[0]
    assert beside.pod.log() == ""


@pytest.mark.parametrize("size", [1_000_000])
def test_a_long_answer_is_not_led_to_the_mesh(beside: Beside, size: int) -> None:
    """Nor is what follows the first packets, which connection tracking might take for a connection of its own."""
    data = get("/", method="POST", body=b"x" * size)
    with beside.pod.rig.connect() as client:
        client.send(v2() + data)
        if beside.is_tproxy:
            assert client.seen(rest=len(data)).rest == data
        else:
            assert read(client).facts["length"] == size
    assert beside.pod.log() == ""


def test_the_ports_of_a_mesh_are_its_own(beside: Beside) -> None:
    """srcip reads no header there, from a balancer neither, and the mesh keeps srcip's health port reachable."""
    for port in beside.pod.mesh.others:
        with beside.pod.rig.connect(port) as client:
            client.sock.settimeout(60)
            assert client.sock.recv(9) == b"mesh\n"
    assert beside.pod.rig.get("/healthz") == (200, "ok")


def test_what_the_pod_opens_passes_the_mesh(beside: Beside) -> None:
    """srcip, which opens nothing outwards here, is not in the way."""
    answer = (
        "import socket; s = socket.create_server(('', 8080)); print(flush=True); "
        "c, p = s.accept(); c.sendall(p[0].encode())"
    )
    ask_it = f"import socket; s = socket.create_connection(('{OTHER4}', 8080), 5); print(s.recv(99).decode())"
    with beside.pod.rig.lab.other.popen(["/usr/bin/python3", "-Ic", answer], stdout=subprocess.PIPE) as server:
        assert server.stdout
        server.stdout.readline()
        done = beside.pod.rig.lab.pod.run(["/usr/bin/python3", "-Ic", ask_it], capture_output=True)
        server.kill()
    assert done.stdout.strip() == POD4, done.stderr
    assert beside.pod.saw("outbound", POD4, OTHER4, 8080)
