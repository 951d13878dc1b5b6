"""In and out of one Pod, by one sidecar, on the same port: both work, and the kernel tracks what must be tracked."""

import pytest
from test_outbound_raw import echo, serve_once

from srcip_proxy.plan import PortRange, ProbeAlias
from support.outbound_servers import ANY, GREETS, HTTP, Leave, Outward
from support.rig import CLIENT4, CLIENT6, LB4, LB6, LB_NETWORKS, NODE4, OTHER4, OTHER6, POD4, POD6, v1, v2
from support.waiting import DEADLINE_S
from support.web import ask, get, read

pytestmark = pytest.mark.dataplane
PORTS = (PortRange(HTTP, HTTP + 2),)
"""These come in and go out."""
PROBED = {"probe_aliases": (ProbeAlias(15100, HTTP),), "trusted_cidrs": (*LB_NETWORKS, f"{NODE4}/32")}
WAYS: dict[str, dict[str, object]] = {
    "tproxy": {"mode": "tproxy"},
    "tproxy to the Pod": {"mode": "tproxy", "deliver_to": "pod"},
    "tproxy with probes": {"mode": "tproxy", **PROBED},
    "redirect": {"http_ports": PORTS},
    "redirect with probes": {"http_ports": PORTS, **PROBED},
}
ASK = get("/", "X-Forwarded-For: 1.1.1.1")


def both(leave: Leave, way: str) -> Outward:
    return leave(**{"inbound_ports": PORTS, "trusted_cidrs": LB_NETWORKS, **WAYS[way]})


def goes_out(out: Outward, to: str) -> None:
    saw = out.ask(ASK, to=to)
    assert saw.all("x-forwarded-for") == [POD4]
    assert saw.facts["peer"][0] == (POD4 if to in (OTHER4, LB4) else POD6)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("client", "to", "out_to"), [(CLIENT4, POD4, OTHER4), (CLIENT6, POD6, OTHER6), (CLIENT6, POD4, LB6)]
)
def test_one_port_comes_in_and_goes_out(leave: Leave, way: str, client, to: str, out_to: str) -> None:
    """The balancer's clients are seen, the Pod's own requests have its address; each way has its own headers."""
    out = both(leave, way)
    for header in (v1, v2):
        saw = ask(out.rig, get(), header(client), port=HTTP, to=to)
        if way.startswith("tproxy"):
            assert tuple(saw.facts["peer"]) == client
            assert saw.all("x-forwarded-for") == []
        else:
            assert saw.all("x-forwarded-for") == [client[0]]
        goes_out(out, out_to)


@pytest.mark.parametrize("way", WAYS)
def test_both_ways_at_once_on_open_connections(leave: Leave, way: str) -> None:
    out = both(leave, way)
    with out.rig.connect(HTTP) as inward, out.connect(to=LB4) as outward:
        inward.send(v2(("203.0.113.40", 40404)))
        for number in range(20):
            inward.send(get(f"/in/{number}"))
            outward.send(get(f"/out/{number}"))
            assert read(inward).facts["head"][0] == f"GET /in/{number} HTTP/1.1"
            assert read(outward).facts["head"][0] == f"GET /out/{number} HTTP/1.1"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("to", "source"), [(POD4, OTHER4), (POD6, OTHER6)])
def test_an_untrusted_host_still_reaches_the_application_itself(leave: Leave, way: str, to: str, source: str) -> None:
    """From any port, and be it one that goes out."""
    out = both(leave, way)
    for port in (0, 8009):
        with out.rig.lab.other.connect(to, HTTP, source=(source, port)) as sock:
            sock.sendall(get("/close", "X-Forwarded-For: 1.1.1.1"))
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
        assert f'"peer": ["{source}", {port or ""}'.encode() in answer
        assert b'"X-Forwarded-For: 1.1.1.1"' in answer


@pytest.mark.parametrize("way", WAYS)
def test_what_comes_in_is_tracked_no_more_than_without(leave: Leave, way: str) -> None:
    """In tproxy mode not at all, in redirect mode what is redirected; what goes out is tracked."""
    out = both(leave, way)
    out.rig.lab.pod.run(["conntrack", "-F"], check=True, capture_output=True)
    for to in (POD4, POD6):
        assert ask(out.rig, get(), b"", port=HTTP, host=out.rig.lab.other, to=to).status == 200
        assert ask(out.rig, get(), v2(), port=HTTP, to=to).status == 200
    assert out.tracked() == [] if way.startswith("tproxy") else {origin(line) for line in out.tracked()} == {LB4, LB6}
    out.rig.lab.pod.run(["conntrack", "-F"], check=True, capture_output=True)
    for to in (OTHER4, OTHER6):
        goes_out(out, to)
    found = out.tracked()
    assert {(origin(line), f"dport={HTTP}" in line) for line in found} == {(POD4, True), (POD6, True)}
    assert sum(f"sport={15306}" in line for line in found) == 2
    assert len(found) == 4, "one connection of the application, one of the sidecar, for each family"


def origin(line: str) -> str:
    """Who has opened a connection of conntrack's list."""
    return next(word.removeprefix("src=") for word in line.split() if word.startswith("src="))


@pytest.mark.parametrize("way", [way for way in WAYS if "probes" in way])
def test_a_probe_on_its_alias_port_tells_the_truth(leave: Leave, way: str) -> None:
    out = both(leave, way)
    saw = ask(out.rig, get(), b"", port=15100, host=out.rig.lab.node)
    assert (saw.facts["peer"][0], saw.all("x-forwarded-for")) == (NODE4, [])


@pytest.mark.parametrize("way", WAYS)
def test_an_intercepted_port_is_no_source_of_requests_without_headers(leave: Leave, way: str) -> None:
    """What leaves from there cannot be told from an answer, so it is refused."""
    out = both(leave, way)
    for to, source in ((OTHER4, POD4), (OTHER6, POD6)):
        with pytest.raises(ConnectionRefusedError):
            out.rig.lab.pod.connect(to, HTTP, source=(source, HTTP + 2), timeout_s=DEADLINE_S)


@pytest.mark.parametrize("way", ["tproxy", "redirect"])
def test_the_self_check_proves_a_running_pod(leave: Leave, way: str) -> None:
    done = both(leave, way).rig.lab.exec("srcip-proxy", ["srcip-proxy", "check"], capture_output=True)
    assert (done.returncode, done.stdout.count("ok ")) == (0, 3), done.stdout + done.stderr


@pytest.mark.parametrize("way", ["tproxy", "redirect"])
def test_what_is_no_http_goes_out_beside_it(leave: Leave, way: str) -> None:
    out = leave(**{"inbound_ports": PORTS, "trusted_cidrs": LB_NETWORKS, **WAYS[way]}, own_times=True)
    serve_once(out, echo)
    with out.connect(ANY) as client:
        client.send(b"\0bytes")
        assert client.sock.recv(100) == b"\0bytes"
    with out.connect(GREETS, OTHER6) as client:
        assert client.seen().peer[0] == POD6


def test_while_the_sidecar_is_down_neither_way_is_open(leave: Leave) -> None:
    """Fail closed both ways."""
    for way in ("tproxy", "redirect"):
        out = both(leave, way)
        out.rig.lab.kill_sidecar(hold=True)
        for to in (POD4, POD6):
            with pytest.raises(ConnectionRefusedError):
                out.rig.connect(HTTP, to=to)
        for to in (OTHER4, OTHER6):
            with pytest.raises(ConnectionRefusedError):
                out.connect(to=to)
        out.rig.lab.release()
        goes_out(out, OTHER4)
        assert ask(out.rig, get(), v2(), port=HTTP).status == 200
