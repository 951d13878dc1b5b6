"""Beside a mesh's sidecar: stand-ins with the real ports, users and rules of Istio and Linkerd, in a running Pod.

What a mesh does inside TLS is not tried here; who is led where, and who sees the client, is.
"""

import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rig import APP, CLIENT4, HTTP_APP, LB4, OTHER4, POD4, Rig, needs_root, plan, start, v2
from web import ask, get, read, redirect

from srcip_lab.namespace import Host

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
    rules: str
    """In nft's words; a table of iptables has the same chains and priorities."""


ISTIO = Mesh(
    1337,
    15006,
    15001,
    (15020, 15021, 15090),
    "127.0.0.6",
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


@dataclass
class Beside:
    """A Pod with srcip and a mesh."""

    rig: Rig
    mode: str
    mesh: Mesh
    log: Path

    def saw(self, *parts: object) -> bool:
        """Whether the mesh has said this; a moment is given to it."""
        line, deadline = " ".join(map(str, parts)), time.monotonic() + 1
        while line not in self.log.read_text() and time.monotonic() < deadline:
            time.sleep(0.02)
        return line in self.log.read_text()

    def client(self, data: bytes = b"", host: Host | None = None) -> str:
        """Whom the application shows: its peer in tproxy mode, the header where there is one in redirect mode."""
        if self.mode == "tproxy":
            seen = self.rig.seen(data, host=host)
            return seen.peer[0] if seen.peer else seen.end
        saw = ask(self.rig, get(), data, host=host)
        return str(saw.written().get("X-Forwarded-For", saw.facts["peer"][0]))

    def nft(self, text: str) -> None:
        done = self.rig.lab.pod.run(["nft", "-f", "-"], input=text, capture_output=True)
        assert done.returncode == 0, done.stderr

    def load_srcip_again(self) -> None:
        """As if its init container had run after the mesh's."""
        table = self.rig.lab.pod.run(["nft", "-s", "list", "table", "inet", "srcip"], capture_output=True).stdout
        self.nft(f"delete table inet srcip\n{table}")


@pytest.fixture(params=[(mesh, mode) for mesh in MESHES for mode in ("tproxy", "redirect")], ids="-".join)
def beside(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Beside]:
    """Each mesh beside each mode; the mesh's rules come last."""
    needs_root()
    name, mode = request.param
    mesh, log = MESHES[name], tmp_path / "log"
    wanted, program = (plan(), APP) if mode == "tproxy" else (redirect(), HTTP_APP)
    lab = start(wanted, ("0.0.0.0", "7000"), program=program)
    user = ("setpriv", f"--reuid={mesh.user}", f"--regid={mesh.user}", "--clear-groups")
    ports = map(str, (mesh.inbound, mesh.outbound, *mesh.others))
    words = (*user, "/usr/bin/python3", "-Ic", MESH_APP.read_text(), mesh.source, *ports)
    with log.open("a") as output:
        process = lab.pod.popen(words, stdout=output, stderr=subprocess.STDOUT)
    try:
        pod = Beside(Rig(lab), mode, mesh, log)
        assert all(pod.saw("bound", port) for port in (mesh.inbound, mesh.outbound, *mesh.others)), log.read_text()
        pod.nft(f"table ip nat {{ {mesh.rules} }}")
        yield pod
    finally:
        process.kill()
        process.wait()
        lab.down()


@pytest.mark.parametrize("last", ["mesh", "srcip"])
def test_who_is_shown_to_the_application(beside: Beside, last: str) -> None:
    """The balancer's connections pass srcip alone, whichever rules were loaded last. All others pass the mesh in tproxy
    mode; in redirect mode they are not tracked, so no redirection takes them."""
    if last == "srcip":
        beside.load_srcip_again()
    assert [beside.client(v2()) for _ in range(3)] == [CLIENT4[0]] * 3
    assert not beside.saw("inbound", LB4)
    passes_the_mesh = beside.mode == "tproxy"
    assert (beside.client(host=beside.rig.lab.other) == OTHER4) != passes_the_mesh
    assert beside.saw("inbound", OTHER4, POD4, 7000) == passes_the_mesh


@pytest.mark.parametrize("size", [1_000_000])
def test_a_long_answer_is_not_led_to_the_mesh(beside: Beside, size: int) -> None:
    """Nor is what follows the first packets, which connection tracking might take for a connection of its own."""
    data = get("/", method="POST", body=b"x" * size)
    with beside.rig.connect() as client:
        client.send(v2() + data)
        if beside.mode == "tproxy":
            assert client.seen(rest=len(data), timeout=10).rest == data
        else:
            assert read(client).facts["length"] == size
    assert not beside.saw("outbound", POD4)


def test_the_ports_of_a_mesh_are_its_own(beside: Beside) -> None:
    """srcip reads no header there, from a balancer neither, and the mesh keeps srcip's health port reachable."""
    for port in beside.mesh.others:
        with beside.rig.connect(port) as client:
            client.sock.settimeout(2)
            assert client.sock.recv(9) == b"mesh\n"
    assert beside.rig.get("/healthz") == (200, "ok")


def test_what_the_pod_opens_passes_the_mesh(beside: Beside) -> None:
    """srcip, which opens nothing outwards here, is not in the way."""
    answer = "import socket; s = socket.create_server(('', 8080)); c, p = s.accept(); c.sendall(p[0].encode())"
    ask_it = f"import socket; s = socket.create_connection(('{OTHER4}', 8080), 5); print(s.recv(99).decode())"
    with beside.rig.lab.other.popen(["/usr/bin/python3", "-Ic", answer]) as server:
        time.sleep(0.5)
        done = beside.rig.lab.pod.run(["/usr/bin/python3", "-Ic", ask_it], capture_output=True)
        server.kill()
    assert done.stdout.strip() == POD4, done.stderr
    assert beside.saw("outbound", POD4, OTHER4, 8080)
