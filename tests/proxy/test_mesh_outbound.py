"""Headers in outgoing requests beside a mesh's sidecar: they are set first, and the mesh passes them on."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from srcip_proxy.plan import Plan, PortRange
from support import meshes, outbound_servers
from support.meshes import MESHES
from support.outbound_servers import HTTP, UNLISTED, Outward, outbound
from support.rig import CLIENT4, OTHER4, OTHER6, POD4, POD6, needs_root, plan, start, v2
from support.web import get, redirect

pytestmark = pytest.mark.dataplane
LEAVING = {"outbound_ports": outbound_servers.OUT, "outbound_forwarded_for": "default", "mesh": True}
PLANS = {
    "outbound": outbound(mesh=True),
    "tproxy": plan(**LEAVING),
    "redirect": redirect(**LEAVING, http_ports=(PortRange(7000, 7000),)),
}
ASK = """
import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=30)
connection.request("GET", "/")
print(connection.getresponse().read().decode())
"""


@dataclass
class Beside:
    """A Pod whose application is this process, with srcip and a mesh, and servers outside."""

    pod: meshes.Beside
    out: Outward
    mode: str

    def as_mesh(self, to: str, port: int) -> str:
        """The answer to a request of the mesh's own user."""
        user = self.pod.mesh.user
        words = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "/usr/bin/python3", "-Ic", ASK]
        return str(self.pod.rig.lab.pod.run([*words, to, str(port)], capture_output=True).stdout)


def run(wanted: Plan, mesh: meshes.Mesh, log: Path, mode: str = "") -> Iterator[Beside]:
    needs_root()
    with meshes.beside(start(wanted, ("::", "7000")), mesh, log) as pod:
        servers = outbound_servers.servers(pod.rig)
        yield Beside(pod, Outward(pod.rig, tuple(servers)), mode)
        for server in servers:
            server.stop()


@pytest.fixture(scope="module", params=[(mesh, mode) for mesh in MESHES for mode in PLANS], ids="-".join)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beside]:
    """Each mesh beside each mode; srcip knows the mesh's user."""
    name, mode = request.param
    known = replace(PLANS[mode], mesh_proxy_uids=(MESHES[name].user,))
    yield from run(known, MESHES[name], tmp_path_factory.mktemp("mesh") / "log", mode)


@pytest.fixture(params=["mesh", "srcip"], ids="{}-last".format)
def beside(request: pytest.FixtureRequest, running: Beside) -> Beside:
    """The same with the rules of one of both loaded last, and nothing in the mesh's log."""
    running.pod.load_last(request.param)
    return running


@pytest.mark.parametrize(("to", "own"), [(OTHER4, POD4), (OTHER6, POD6)])
def test_a_request_gets_its_headers_and_then_passes_the_mesh(beside: Beside, to: str, own: str) -> None:
    """Once each: the mesh sees one connection for one of the application, and so can encrypt what has its headers."""
    saw = beside.out.ask(get(), HTTP, to)
    assert (saw.status, saw.all("x-forwarded-for")) == (200, [POD4])
    assert saw.facts["peer"][0] == own
    assert beside.pod.saw("outbound", own, to, HTTP)
    assert beside.pod.log().count("outbound") == 1


@pytest.mark.parametrize("to", [OTHER4, OTHER6])
def test_other_ports_pass_the_mesh_alone(beside: Beside, to: str) -> None:
    saw = beside.out.ask(get("/", "X-Forwarded-For: 1.1.1.1"), UNLISTED, to)
    assert saw.all("x-forwarded-for") == ["1.1.1.1"]
    assert beside.pod.saw("outbound", POD4 if to == OTHER4 else POD6, to, UNLISTED)


@pytest.mark.parametrize("to", [OTHER4, OTHER6])
def test_what_the_mesh_opens_gets_no_headers(beside: Beside, to: str) -> None:
    """Its control plane may be at such a port."""
    answer = beside.as_mesh(to, HTTP)
    assert "GET / HTTP/1.1" in answer
    assert "orwarded" not in answer
    assert beside.pod.log() == ""


def test_what_comes_in_is_not_touched(beside: Beside) -> None:
    """A trusted balancer's connection passes srcip alone, with outgoing headers, too."""
    if beside.mode != "tproxy":
        pytest.skip("nothing is intercepted, or the application of this rig reads no headers")
    assert beside.pod.rig.seen(v2()).peer == CLIENT4
    assert beside.pod.log() == ""


@pytest.fixture(params=["outbound", "tproxy"])
def unknown(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Beside]:
    """A mesh whose user nobody has told."""
    yield from run(replace(PLANS[request.param], mesh=False), MESHES["istio"], tmp_path / "log")


@pytest.mark.parametrize("last", ["mesh", "srcip"])
def test_beside_a_mesh_of_unknown_user_a_request_is_refused(unknown: Beside, last: str) -> None:
    """By a RST: without it the two would lead one connection to each other for ever. Nothing leaves without its
    headers, and nothing else suffers."""
    if last == "srcip":
        unknown.pod.load_srcip_again()
    unknown.pod.forget()
    for to in (OTHER4, OTHER6):
        with unknown.out.connect(HTTP, to) as client, pytest.raises(ConnectionError):
            client.sock.settimeout(30)
            client.send(get())
            assert client.sock.recv(1) != b"", "the connection has ended by a FIN"
    assert unknown.pod.log() == ""
    assert unknown.out.ask(get(), UNLISTED).status == 200
