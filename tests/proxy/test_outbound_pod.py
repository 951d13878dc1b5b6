"""Outgoing headers in the Pod: who is exempt, who gets in, and what happens when something is missing."""

import ipaddress
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from test_render import POD

from srcip_proxy.haproxy import config
from srcip_proxy.netfilter import ruleset
from srcip_proxy.network import PORTS6
from srcip_proxy.plan import ENV, OUTBOUND_PORT
from support.outbound_servers import HTTP, UNLISTED, Leave, Outward, outbound, servers
from support.rig import HTTP_APP, OTHER4, OTHER6, POD4, POD6, Rig, in_image, start
from support.waiting import DEADLINE_S, until
from support.web import get, read

pytestmark = pytest.mark.dataplane
NATIVE = ["Host: app.example", "X-Forwarded-For: 1.1.1.1"]
"""What the server sees of `ASK` where nobody has looked at it."""
ASK = get("/", "X-Forwarded-For: 1.1.1.1")
OWN6 = f"{PORTS6}{HTTP:x}"


def broken(*, ipv6: bool = True, **changes: object) -> Iterator[Outward]:
    """A Pod that a test may break."""
    rig = Rig(start(outbound(**changes), ("::", str(HTTP)), ipv6=ipv6, program=HTTP_APP))
    outside = servers(rig)
    yield Outward(rig, tuple(outside))
    rig.lab.down()
    for server in outside:
        server.stop()


@pytest.fixture
def own() -> Iterator[Outward]:
    yield from broken()


@pytest.mark.parametrize("mode", ["redirect", "tproxy"])
def test_outgoing_requests_alone_need_no_capability(leave: Leave, mode: str) -> None:
    """Whatever the mode would need for what comes in."""
    out = leave()
    pid = out.rig.lab.container("srcip-proxy").process.pid
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert {status[f"Cap{name}"] for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert (status["Uid"].split(), status["NoNewPrivs"]) == (["7363"] * 4, "1")
    texts = [config.render(outbound(mode=name), POD).splitlines() for name in (mode, "redirect")]
    assert [line for line in texts[0] if "lua-load" not in line] == [
        line for line in texts[1] if "lua-load" not in line
    ]


def test_the_sidecar_itself_is_exempt(leave: Leave) -> None:
    """A process with its user goes out natively, or the sidecar would meet itself for ever."""
    lab = leave().rig.lab
    curl = [
        "curl",
        "-gsS",
        "--max-time",
        "60",
        "-H",
        NATIVE[1],
        f"http://{OTHER4}:{HTTP}/",
        f"http://[{OTHER6}]:{HTTP}/",
    ]
    done = lab.pod.run(["setpriv", "--reuid=7363", "--regid=7363", "--clear-groups", *curl], capture_output=True)
    assert (done.stdout.count(NATIVE[1]), done.stdout.count("x-forwarded-for")) == (2, 0), done
    others = lab.pod.run(["setpriv", "--reuid=1338", "--regid=7363", "--clear-groups", *curl], capture_output=True)
    assert (others.stdout.count(NATIVE[1]), others.stdout.count(f"x-forwarded-for: {POD4}")) == (0, 2), others


@pytest.mark.parametrize("to", [POD4, POD6])
def test_no_other_host_can_use_the_sidecar(leave: Leave, to: str) -> None:
    lab = leave().rig.lab
    for host in (lab.other, lab.lb, lab.node):
        with pytest.raises(ConnectionRefusedError):
            host.connect(to, OUTBOUND_PORT, timeout_s=DEADLINE_S)


def test_not_even_by_the_addresses_that_stand_for_ports(own: Outward) -> None:
    """The node may lead them to the Pod."""
    lab = own.rig.lab
    lab.node.run(["ip", "-6", "route", "add", f"{PORTS6}/112", "via", POD6], check=True)
    with pytest.raises(ConnectionRefusedError):
        lab.node.connect(OWN6, OUTBOUND_PORT, timeout_s=DEADLINE_S)


@pytest.mark.parametrize("to", ["127.0.0.1", "::1", POD4, POD6, "169.254.77.1", OWN6])
def test_no_process_of_the_pod_enters_but_by_redirection(leave: Leave, to: str) -> None:
    """Or it would be led to itself."""
    with pytest.raises(ConnectionRefusedError):
        leave().connect(OUTBOUND_PORT, to)


def test_haproxy_alone_would_not_let_them_in_either(own: Outward) -> None:
    """Without the rules that keep them out, what nobody has redirected is closed, and makes no circle."""
    for chain in ("outbound_in", "outbound_out"):
        assert in_image(own.rig.lab, f"nft flush chain inet srcip {chain}", {}).returncode == 0
    for host, to in ((own.rig.lab.pod, "127.0.0.1"), (own.rig.lab.pod, "::1"), (own.rig.lab.other, POD6)):
        with suppress(ConnectionResetError), own.rig.connect(OUTBOUND_PORT, host=host, to=to) as client:
            seen = client.end()
            assert (seen.end in ("end", "reset"), client.got) == (True, b"")


@pytest.mark.parametrize("to", [OTHER4, OTHER6])
def test_while_the_sidecar_is_down_nothing_leaves_without_headers(own: Outward, to: str) -> None:
    """Fail closed: refused at once on these ports, native on the others; a new sidecar takes over."""
    with own.connect(to=to) as client:
        client.send(get())
        assert read(client).status == 200
        own.rig.lab.kill_sidecar(hold=True)
        assert client.seen().end in ("end", "reset")
    before = [server.log() for server in own.servers]
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            own.connect(to=to)
    assert [server.log() for server in own.servers] == before
    assert own.ask(ASK, UNLISTED, to).facts["head"][1:] == NATIVE
    own.rig.lab.release()
    assert own.ask(ASK, to=to).all("x-forwarded-for") == [POD4]


def test_init_may_run_again_while_requests_flow(own: Outward) -> None:
    """kubelet does that after a restart of the node's runtime; the rules are the same, once."""
    rules = in_image(own.rig.lab, "nft list ruleset", {}).stdout
    assert rules.count("chain outbound {") == 1
    with own.connect() as client, own.connect(to=OTHER6) as client6:
        for _ in range(2):
            for each in (client, client6):
                each.send(ASK)
                assert read(each).all("x-forwarded-for") == [POD4]
            env = {ENV: outbound().to_env(), "POD_IP": POD4, "POD_IPS": f"{POD4},{POD6}"}
            done = in_image(own.rig.lab, "srcip-proxy init", env)
            assert done.returncode == 0, done.stderr
        for each in (client, client6):
            each.send(ASK)
            assert read(each).facts["request"] == 3
    assert own.ask(ASK).all("x-forwarded-for") == [POD4]
    assert in_image(own.rig.lab, "nft list ruleset", {}).stdout == rules
    said = "requests to ports 80, 8000-8010 get X-Forwarded-For; IPv4 and IPv6"
    assert done.stdout == f"srcip-proxy init: {said}\n"


def test_a_pod_without_ipv6(leave: Leave) -> None:
    assert leave(ipv6=False).ask(ASK).all("x-forwarded-for") == [POD4]


def test_where_the_node_has_no_ipv6_for_it_nothing_leaves_that_way(own: Outward) -> None:
    """init goes on without IPv6 there: the application may take IPv4, but no request leaves without its headers."""
    rules = ruleset.render(outbound(), replace(POD, ipv6=False))
    done = in_image(own.rig.lab, "nft -f /run/srcip/input", {}, rules)
    assert done.returncode == 0, done.stderr
    with pytest.raises(ConnectionRefusedError):
        own.connect(to=OTHER6)
    assert own.ask(ASK, UNLISTED, OTHER6).facts["head"][1:] == NATIVE
    assert own.ask(ASK).all("x-forwarded-for") == [POD4]


def test_link_local_servers_are_exempt(own: Outward) -> None:
    """Their address means nothing without the interface; so are the metadata services of clouds."""
    lab = own.rig.lab
    lab.node.run(["ip", "addr", "add", "169.254.169.254/32", "dev", "lo"], check=True)
    links = json.loads(lab.node.run(["ip", "-6", "-j", "addr", "show", "dev", "pod"], capture_output=True).stdout)
    local = next(a["local"] for a in links[0]["addr_info"] if ipaddress.ip_address(a["local"]).is_link_local)
    index = lab.pod.call(lambda: socket.if_nametoindex("eth0"))
    listeners = [lab.node.listen(HTTP, "0.0.0.0"), lab.node.call(lambda: _listen6(local, links[0]["ifindex"]))]
    heard: list[bytes] = []
    for listener in listeners:
        threading.Thread(target=lambda one=listener: heard.append(one.accept()[0].recv(1000)), daemon=True).start()
    addresses = {socket.AF_INET: ("169.254.169.254", HTTP), socket.AF_INET6: (local, HTTP, 0, index)}
    for number, (family, address) in enumerate(addresses.items()):
        with lab.pod.open_socket(family) as sock:
            sock.settimeout(DEADLINE_S)
            sock.connect(address)
            sock.sendall(ASK)
            until(lambda number=number: len(heard) > number)
    assert heard == [ASK, ASK]


def _listen6(address: str, index: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, HTTP, 0, index))
    listener.listen()
    return listener


def test_health_and_the_self_check_answer_without_anything_inbound(leave: Leave) -> None:
    rig = leave().rig
    assert (rig.get("/healthz"), rig.get("/readyz")) == ((200, "ok"), (200, "ready"))
    assert "haproxy_process_uptime_seconds" in rig.get("/metrics")[1]
    done = rig.lab.exec("srcip-proxy", ["srcip-proxy", "check"], capture_output=True)
    assert (done.returncode, done.stdout.count("ok  ")) == (0, 1), done
