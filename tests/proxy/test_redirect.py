"""Redirect mode: the kernel leads trusted connections to a sidecar that has no capability, and nobody else there."""

from pathlib import Path

import pytest

from srcip_proxy.plan import ENV, PortRange, ProbeAlias
from support.rig import (
    APP,
    CLIENT4,
    CLIENT6,
    HTTP_APP,
    LB4,
    LB6,
    LOCAL,
    OTHER4,
    OTHER6,
    POD4,
    POD6,
    SHORT,
    Rig,
    RigFactory,
    in_image,
    start,
    v1,
    v2,
)
from support.web import ask, get, read, redirect, web

pytestmark = pytest.mark.dataplane
OWN4, OWN6 = "169.254.77.1", "fd73:7263:6970::1"


@pytest.mark.parametrize("header", [v1, v2])
@pytest.mark.parametrize("to", [POD4, POD6])
@pytest.mark.parametrize("client", [CLIENT4, CLIENT6])
def test_the_application_reads_the_client_in_its_headers(rigs: RigFactory, client, to: str, header) -> None:
    """Exactly, for all four pairs of IP versions; the TCP peer is the sidecar."""
    saw = ask(web(rigs), get(), header(client), to=to)
    node = client[0] if client == CLIENT4 else f'"[{client[0]}]"'
    assert saw.written() == {
        "X-Forwarded-For": client[0],
        "X-Real-IP": client[0],
        "X-Forwarded-Port": "25",
        "X-Forwarded-Proto": "http",
        "Forwarded": f"for={node};proto=http",
    }
    assert saw.facts["peer"][0] == (OWN4 if to == POD4 else OWN6)


@pytest.mark.parametrize(("to", "source"), [(POD4, LB4), (POD6, LB6)])
def test_the_balancer_is_shown_where_it_states_nobody(rigs: RigFactory, to: str, source: str) -> None:
    """A LOCAL header, and none at all where that is allowed; the port is the one it came to."""
    rig = web(rigs, proxy_protocol="optional")
    for header in (LOCAL, b""):
        written = ask(rig, get(), header, to=to, port=7001).written()
        assert (written["X-Forwarded-For"], written["X-Forwarded-Port"]) == (source, "7001")


def test_the_sidecar_has_no_capability(rigs: RigFactory) -> None:
    rig = web(rigs)
    pid = rig.lab.container("srcip-proxy").process.pid
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert {status[f"Cap{name}"] for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert status["Uid"].split() == ["7363"] * 4
    assert status["NoNewPrivs"] == "1"


@pytest.mark.parametrize(("to", "source"), [(POD4, OTHER4), (POD6, OTHER6)])
def test_an_untrusted_host_reaches_the_application_itself(rigs: RigFactory, to: str, source: str) -> None:
    """Native: what it sends is its own word, and so is its address; the application knows it is not the sidecar's."""
    rig = web(rigs)
    saw = ask(rig, get("/", "X-Forwarded-For: 1.2.3.4"), b"", host=rig.lab.other, to=to)
    assert (saw.facts["peer"][0], saw.written()) == (source, {"X-Forwarded-For": "1.2.3.4"})


@pytest.mark.parametrize("to", [POD4, POD6])
def test_nobody_enters_by_the_proxy_port(rigs: RigFactory, to: str) -> None:
    """Neither a balancer nor another host nor a process of the Pod."""
    rig = web(rigs)
    for host in (rig.lab.lb, rig.lab.other, rig.lab.pod):
        with pytest.raises(ConnectionRefusedError):
            rig.connect(15301, host=host, to=to)


def test_the_addresses_that_stand_for_ports_are_no_way_in(rigs: RigFactory) -> None:
    rig = web(rigs)
    for port in (15301, 7000):
        with pytest.raises(OSError, match="refused"):
            rig.connect(port, host=rig.lab.pod, to="fd73:7263:6970:f::1b58").send(v2())
            raise ConnectionRefusedError("refused: the application itself")


@pytest.mark.parametrize(("own", "to"), [(OWN4, OWN4), (OWN4, POD4), (OWN6, OWN6), (OWN6, POD6)])
def test_a_process_in_the_pod_cannot_come_from_the_address_of_the_sidecar(rigs: RigFactory, own: str, to: str) -> None:
    """An application that believes that address alone believes the sidecar alone."""
    rig = web(rigs)
    program = f"import socket; socket.create_connection(({to!r}, 7000), 60, ({own!r}, 0))"
    done = rig.lab.pod.run(["python3", "-c", program], capture_output=True)
    assert "ConnectionRefusedError" in done.stderr


@pytest.mark.parametrize("to", [POD4, POD6])
def test_a_closed_port_refuses_at_once(rigs: RigFactory, to: str) -> None:
    rig = web(rigs)
    with pytest.raises(ConnectionRefusedError):
        rig.connect(7009, to=to)


@pytest.mark.parametrize("deliver_to", ["auto", "loopback", "pod"])
@pytest.mark.parametrize(("bound", "reached"), [("0.0.0.0", "auto loopback pod"), ("POD", "auto pod")])
def test_where_the_application_is_reached(rigs: RigFactory, bound: str, reached: str, deliver_to: str) -> None:
    rig = rigs(redirect(deliver_to=deliver_to), app=(bound, "7000"), program=HTTP_APP)
    saw = ask(rig, get())
    if deliver_to in reached.split():
        assert saw.written()["X-Forwarded-For"] == CLIENT4[0]
        assert saw.facts["peer"][0] == OWN4, "wherever it is reached"
    else:
        assert saw.status == 503


def test_only_intercepted_connections_are_tracked(rigs: RigFactory) -> None:
    rig = rigs(redirect(drain_timeout_s=7), app=("::", "7000"), program=HTTP_APP)
    assert ask(rig, get(), b"", host=rig.lab.other).status == 200
    assert ask(rig, get()).status == 200
    table = rig.lab.pod.run(["conntrack", "-L", "-p", "tcp"], capture_output=True).stdout.splitlines()
    lines = [line for line in table if "dport=7000" in line]
    assert len(lines) == 1
    assert f"src={LB4} dst={POD4}" in lines[0]


def test_another_port_passes_every_byte(rigs: RigFactory) -> None:
    """Nothing is known of a port that is no HTTP port: only the PROXY header is taken out."""
    rig = rigs(redirect(http_ports=(PortRange(7001, 7001),)))
    seen = rig.seen(v2() + get())
    assert (seen.peer[0], seen.rest) == (OWN4, get())


@pytest.mark.parametrize("claim", [POD4, POD6])
def test_a_pod_that_is_its_own_client_is_named(rigs: RigFactory, claim: str) -> None:
    assert ask(web(rigs), get(), v2((claim, 40000))).written()["X-Forwarded-For"] == claim


@pytest.mark.parametrize("header", [v1, v2])
@pytest.mark.parametrize("claim", ["127.0.0.1", "::1", "169.254.77.1", "0.0.0.0"])
def test_an_address_that_no_client_can_have_is_refused(rigs: RigFactory, claim: str, header) -> None:
    with web(rigs).connect() as client:
        client.send(header((claim, 40000)) + get())
        assert client.seen().refused


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", v2()[:20], b"PROXY TCP4 1.2.3.4\r\n"])
def test_what_is_required_is_required(rigs: RigFactory, data: bytes) -> None:
    with web(rigs, **SHORT).connect() as client:
        client.send(data)
        assert client.seen().refused


def test_while_the_sidecar_is_down_nothing_reaches_the_application() -> None:
    """Fail closed: a trusted connection is refused, not passed with the balancer's header."""
    lab = start(redirect(), ("::", "7000"), program=HTTP_APP)
    try:
        rig = Rig(lab)
        lab.kill_sidecar(hold=True)
        for to in (POD4, POD6):
            with pytest.raises(ConnectionRefusedError):
                rig.connect(to=to)
        assert ask(rig, get(), b"", host=lab.other).status == 200
        lab.release()
        assert ask(rig, get()).status == 200
    finally:
        lab.down()


def test_init_may_run_again_while_requests_flow(rigs: RigFactory) -> None:
    rig = web(rigs)
    with rig.connect() as client:
        client.send(v2() + get())
        assert read(client).status == 200
        env = {ENV: redirect().to_env(), "POD_IP": POD4, "POD_IPS": f"{POD4},{POD6}"}
        done = in_image(rig.lab, "srcip-proxy init", env)
        assert done.returncode == 0, done.stderr
        client.send(get("/again"))
        assert read(client).written()["X-Forwarded-For"] == CLIENT4[0]
    assert ask(rig, get()).status == 200


def test_a_balancer_may_use_its_port_again_at_once(rigs: RigFactory) -> None:
    """The sidecar keeps the last connection in TIME_WAIT, as the application has ended it."""
    rig = web(rigs)
    for number in range(20):
        with rig.lab.lb.connect(POD4, 7000, source=(LB4, 33333)) as sock:
            sock.sendall(v2(("203.0.113.50", 40000 + number)) + get("/close", "Connection: close"))
            assert b"203.0.113.50" in b"".join(iter(lambda: sock.recv(65536), b""))


def test_a_probe_on_its_alias_port_tells_the_truth(rigs: RigFactory) -> None:
    """The kernel leads it past the sidecar."""
    aliases = (ProbeAlias(15100, 7000), ProbeAlias(15101, 7009))
    rig = web(rigs, trusted_cidrs=("10.77.0.0/16",), node_proxy_protocol="required", probe_aliases=aliases)
    saw = ask(rig, get(), b"", port=15100, host=rig.lab.node)
    assert (saw.facts["peer"][0], saw.written()) == ("10.77.0.1", {})
    with pytest.raises(ConnectionRefusedError):
        rig.connect(15101, host=rig.lab.node)
    assert ask(rig, get(), host=rig.lab.node).written()["X-Forwarded-For"] == CLIENT4[0]


@pytest.mark.parametrize(
    "changes", [{}, {"http_ports": (), "emit_proxy_protocol": "v1"}, {"http_ports": (), "emit_proxy_protocol": "v2"}]
)
def test_the_self_check_proves_a_running_pod(rigs: RigFactory, changes: dict[str, object]) -> None:
    rig = rigs(redirect(**changes), app=("::", "7000"), program=HTTP_APP)
    done = rig.lab.exec("srcip-proxy", ["srcip-proxy", "check"], capture_output=True)
    assert (done.returncode, done.stdout.count("ok ")) == (0, 3), done.stdout + done.stderr


def test_a_pod_without_ipv6_works_with_ipv4(rigs: RigFactory) -> None:
    rig = rigs(redirect(), ipv6=False, app=("::", "7000"), program=HTTP_APP)
    assert ask(rig, get()).written()["X-Forwarded-For"] == CLIENT4[0]


def test_a_connection_that_ends_first_on_either_side_is_whole(rigs: RigFactory) -> None:
    rig = rigs(redirect(http_ports=()), app=("::", "7000", "::", "7001", "::", "7002"), program=APP)
    with rig.connect() as client:
        client.send(v2() + b"question")
        client.finish()
        assert client.seen(rest=13).rest == b"question<end>"
    with rig.connect(7001) as client:
        client.send(v2())
        assert client.seen().end == "end"
