"""Beside a mesh's sidecar: stand-ins with the real ports, users and rules of Istio and Linkerd, in a running Pod.

What a mesh does inside TLS is not tried here; who is led where, and who sees the client, is.
"""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from srcip_lab.namespace import Host
from srcip_lab.state import wait_until
from srcip_proxy.plan import ProbeAlias
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
    Rig,
    needs_root,
    plan,
    start,
    v2,
)
from support.waiting import DEADLINE_S
from support.web import ask, get, read, redirect

pytestmark = pytest.mark.dataplane

MESH_APP = Path(__file__).with_name("mesh_app.py")


@dataclass(frozen=True)
class Mesh:
    """One mesh's sidecar: its user, its ports, and what its init container has the kernel do."""

    user: int
    inbound: int
    outbound: int
    others: tuple[int, ...]
    source: str
    """Where its connections to the application come from."""
    source6: str
    """The same over IPv6; its init container adds it to lo."""
    rules: str
    """In nft's words; a table of iptables has the same chains and priorities."""

    def tables(self) -> str:
        """The rules of both IP versions: those of IPv6 are the same, with its addresses."""
        rules6 = self.rules.replace("ip ", "ip6 ").replace("127.0.0.6", "::6").replace("127.0.0.1", "::1")
        return f"table ip nat {{ {self.rules} }}\ntable ip6 nat {{ {rules6} }}"


ISTIO = Mesh(
    1337,
    15006,
    15001,
    (15020, 15021, 15090),
    "127.0.0.6",
    "::6",
    """
    chain PREROUTING {
      type nat hook prerouting priority -100
      tcp dport { 15008, 15020, 15021, 15090 } return
      meta l4proto tcp redirect to :15006
    }
    chain OUTPUT {
      type nat hook output priority -100
      oif lo ip saddr 127.0.0.6 return
      oif lo ip daddr != 127.0.0.1 meta skuid 1337 tcp dport != 15008 redirect to :15006
      oif lo meta skuid != 1337 return
      meta skuid 1337 return
      ip daddr 127.0.0.1 return
      meta l4proto tcp redirect to :15001
    }
    """,
)
LINKERD = Mesh(
    2102,
    4143,
    4140,
    (4190, 4191),
    "0.0.0.0",
    "::",
    """
    chain PREROUTING {
      type nat hook prerouting priority -100
      tcp dport { 4190, 4191, 4567, 4568 } return
      meta l4proto tcp redirect to :4143
    }
    chain OUTPUT {
      type nat hook output priority -100
      meta skuid 2102 return
      oif lo return
      tcp dport { 4567, 4568 } return
      meta l4proto tcp redirect to :4140
    }
    """,
)
MESHES = {"istio": ISTIO, "linkerd": LINKERD}
ALIAS = 15100
PLANS = {
    "tproxy": plan(mesh=True),
    "redirect": redirect(mesh=True),
    "probes": plan(mesh=True, probe_aliases=(ProbeAlias(ALIAS, 7000),), trusted_cidrs=(*LB_NETWORKS, f"{NODE4}/32")),
    "redirect-probes": redirect(mesh=True, probe_aliases=(ProbeAlias(ALIAS, 7000),)),
}
PEERS = {4: (CLIENT4, LB4, OTHER4, POD4), 6: (CLIENT6, LB6, OTHER6, POD6)}
"""Who is there, by IP version: the client, the balancer, another host, the Pod."""


@dataclass
class Beside:
    """A Pod with srcip and a mesh."""

    rig: Rig
    mode: str
    mesh: Mesh
    log: Path

    def saw(self, *parts: object) -> bool:
        """Whether the mesh comes to say this."""
        return wait_until(lambda: self.has_said(*parts), DEADLINE_S)

    def has_said(self, *parts: object) -> bool:
        """Whether it has said this by now; what it has to say comes before it passes anything on."""
        return " ".join(map(str, parts)) in self.log.read_text()

    @property
    def is_tproxy(self) -> bool:
        return PLANS[self.mode].mode == "tproxy"

    def client(self, data: bytes = b"", host: Host | None = None, to: str = POD4, port: int = 7000) -> str:
        """Whom the application shows: its peer in tproxy mode, the header where there is one in redirect mode."""
        if self.is_tproxy:
            seen = self.rig.seen(data, port, host=host, to=to)
            return seen.peer[0] if seen.peer else seen.end
        saw = ask(self.rig, get(), data, port, host=host, to=to)
        return str(saw.written().get("X-Forwarded-For", saw.facts["peer"][0])).removeprefix("::ffff:")

    def nft(self, text: str) -> None:
        done = self.rig.lab.pod.run(["nft", "-f", "-"], input=text, capture_output=True)
        assert done.returncode == 0, done.stderr

    def load_srcip_again(self) -> None:
        """As if its init container had run after the mesh's."""
        table = self.rig.lab.pod.run(["nft", "-s", "list", "table", "inet", "srcip"], capture_output=True).stdout
        self.nft(f"delete table inet srcip\n{table}")


@pytest.fixture(params=[(mesh, mode) for mesh in MESHES for mode in PLANS], ids="-".join)
def beside(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Beside]:
    """Each mesh beside each mode; the mesh's rules come last."""
    needs_root()
    name, mode = request.param
    mesh, log = MESHES[name], tmp_path / "log"
    wanted = PLANS[mode]
    lab = start(wanted, ("::", "7000"), program=APP if wanted.mode == "tproxy" else HTTP_APP)
    lab.pod.run(["ip", "addr", "add", "::6/128", "dev", "lo"], check=True)
    user = ("setpriv", f"--reuid={mesh.user}", f"--regid={mesh.user}", "--clear-groups")
    ports = map(str, (mesh.inbound, mesh.outbound, *mesh.others))
    words = (*user, "/usr/bin/python3", "-Ic", MESH_APP.read_text(), mesh.source, mesh.source6, *ports)
    with log.open("a") as output:
        process = lab.pod.popen(words, stdout=output, stderr=subprocess.STDOUT)
    try:
        pod = Beside(Rig(lab), mode, mesh, log)
        assert all(pod.saw("bound", port) for port in (mesh.inbound, mesh.outbound, *mesh.others)), log.read_text()
        pod.nft(mesh.tables())
        yield pod
    finally:
        process.kill()
        process.wait()
        lab.down()


@pytest.mark.parametrize("last", ["mesh", "srcip"])
def test_who_is_shown_to_the_application(beside: Beside, last: str) -> None:
    """The balancer's connections pass srcip alone, whichever rules were loaded last, and all others the mesh, which so
    guards the port against them."""
    if last == "srcip":
        beside.load_srcip_again()
    for client, balancer, other, pod in PEERS.values():
        assert [beside.client(v2(client), to=pod) for _ in range(3)] == [client[0]] * 3
        assert not beside.has_said("inbound", balancer)
        assert beside.client(host=beside.rig.lab.other, to=pod) != other
        assert beside.saw("inbound", other, pod, 7000)


@pytest.mark.parametrize("last", ["mesh", "srcip"])
def test_a_probe_passes_the_mesh_by(beside: Beside, last: str) -> None:
    """On its own port, from a node that is trusted, too; kubelet speaks no TLS of a mesh."""
    if not PLANS[beside.mode].probe_aliases:
        pytest.skip("no probes in this plan")
    if last == "srcip":
        beside.load_srcip_again()
    before = beside.log.read_text().count("inbound")
    with beside.rig.lab.node.connect(POD4, ALIAS) as probe:
        probe.settimeout(DEADLINE_S)
        if not beside.is_tproxy:
            probe.sendall(get())
        assert probe.recv(64)
        source = probe.getsockname()[0]
    assert beside.client(v2(), port=7000) == CLIENT4[0]
    assert not beside.has_said("inbound", source)
    assert beside.log.read_text().count("inbound") == before


@pytest.mark.parametrize("size", [1_000_000])
def test_a_long_answer_is_not_led_to_the_mesh(beside: Beside, size: int) -> None:
    """Nor is what follows the first packets, which connection tracking might take for a connection of its own."""
    data = get("/", method="POST", body=b"x" * size)
    with beside.rig.connect() as client:
        client.send(v2() + data)
        if beside.is_tproxy:
            assert client.seen(rest=len(data)).rest == data
        else:
            assert read(client).facts["length"] == size
    assert not beside.has_said("outbound", POD4)


def test_the_ports_of_a_mesh_are_its_own(beside: Beside) -> None:
    """srcip reads no header there, from a balancer neither, and the mesh keeps srcip's health port reachable."""
    for port in beside.mesh.others:
        with beside.rig.connect(port) as client:
            assert client.sock.recv(9) == b"mesh\n"
    assert beside.rig.get("/healthz") == (200, "ok")


def test_what_the_pod_opens_passes_the_mesh(beside: Beside) -> None:
    """srcip, which opens nothing outwards here, is not in the way."""
    answer = (
        "import socket; s = socket.create_server(('', 8080)); print(flush=True); "
        "c, p = s.accept(); c.sendall(p[0].encode())"
    )
    ask_it = f"import socket; s = socket.create_connection(('{OTHER4}', 8080), 60); print(s.recv(99).decode())"
    with beside.rig.lab.other.popen(["/usr/bin/python3", "-Ic", answer], stdout=subprocess.PIPE) as server:
        assert server.stdout and server.stdout.readline()
        done = beside.rig.lab.pod.run(["/usr/bin/python3", "-Ic", ask_it], capture_output=True)
        server.kill()
    assert done.stdout.strip() == POD4, done.stderr
    assert beside.saw("outbound", POD4, OTHER4, 8080)
