"""Who is inside the Pod states no client to its neighbours: only what the kernel intercepts is read as a header."""

import socket
import sys
from contextlib import suppress

import pytest

from srcip_proxy.plan import CHECK_PORT, CHECK_PROXY_PORT, PROXY_PORT, PortRange, ProbeAlias
from support.packets import ACK, FIN, PSH, Forger
from support.rig import CLIENT4, CLIENT6, HTTP_APP, LB4, OTHER4, POD4, POD6, PORT, RigFactory, plan, v1, v2
from support.waiting import DEADLINE_S

pytestmark = pytest.mark.dataplane

ONE_PORT = (PortRange(PORT, PORT),)
PLANS = {
    "one port": {"inbound_ports": ONE_PORT},
    "one port, optional": {"inbound_ports": ONE_PORT, "proxy_protocol": "optional"},
    "one port, to the Pod": {"inbound_ports": ONE_PORT, "deliver_to": "pod"},
    "many ports": {},
    "redirect, one port": {"mode": "redirect", "inbound_ports": ONE_PORT, "emit_proxy_protocol": "v1"},
    "redirect, many ports": {"mode": "redirect", "emit_proxy_protocol": "v1"},
}
TARGETS = {"127.0.0.1": CLIENT4, "169.254.77.1": CLIENT4, POD4: CLIENT4, "::1": CLIENT6, POD6: CLIENT6}
"""Addresses of the Pod, and what a forger would state there."""


@pytest.mark.parametrize("port", [PROXY_PORT, CHECK_PROXY_PORT])
@pytest.mark.parametrize("name", PLANS)
def test_nobody_in_the_pod_gets_to_the_ports_of_the_sidecar(rigs: RigFactory, name: str, port: int) -> None:
    """From no address of the Pod to any, with any beginning."""
    rig = rigs(plan(**PLANS[name]), app=("::", str(PORT)))
    before = rig.accepted()
    for to, client in TARGETS.items():
        for first in (v1(client), v2(client), b"GET / HTTP/1.1\r\n\r\n"):
            with pytest.raises(OSError, match=r"refused|reset"), rig.connect(port, host=rig.lab.pod, to=to) as forger:
                forger.send(first)
                seen = forger.seen(timeout=0.5)
                assert seen.peer is None
                raise ConnectionResetError(f"reset: {seen.end}")
    assert rig.accepted() == before


@pytest.mark.parametrize("own", ["169.254.77.1", "169.254.77.2"])
@pytest.mark.parametrize("name", PLANS)
def test_the_addresses_of_the_sidecar_lend_nobody_its_trust(rigs: RigFactory, name: str, own: str) -> None:
    """The check's own address leads to the check's port alone."""
    rig = rigs(plan(**PLANS[name]), app=("::", str(PORT)))
    before = rig.accepted()
    for to in ("127.0.0.1", POD4):
        for port in (PROXY_PORT, CHECK_PROXY_PORT, CHECK_PORT):
            try:
                with rig.connect(port, host=rig.lab.pod, to=to, source=(own, 0)) as forger:
                    forger.send(v1())
                    assert forger.seen(timeout=0.5).peer is None
            except OSError:
                pass
    assert rig.accepted() == before


def test_an_outsider_cannot_reach_the_sidecar_at_loopback(rigs: RigFactory) -> None:
    """Not even where route_localnet lets packets for 127.0.0.1 in, and another table leads them there."""
    rig = rigs(plan(inbound_ports=ONE_PORT, proxy_protocol="optional", max_connections=77), app=("::", str(PORT)))
    pod = rig.lab.pod
    pod.run(["sh", "-c", "for f in /proc/sys/net/ipv4/conf/*/route_localnet; do echo 1 > $f; done"], check=True)
    rules = f"""table ip other {{
      chain c {{ type nat hook prerouting priority dstnat; tcp dport 7050 dnat to 127.0.0.1:{PROXY_PORT}; }}
    }}"""
    pod.run(["nft", "-f", "-"], input=rules, check=True)
    before = rig.accepted()
    for host in (rig.lab.other, rig.lab.lb):
        with suppress(ConnectionResetError), rig.connect(7050, host=host) as forger:
            forger.send(v1())
            assert forger.seen(timeout=1).peer is None
    assert rig.accepted() == before
    assert rig.seen(v1() + b"x").peer == CLIENT4


OUTGOING = """
import socket, sys
source, first, number, to = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), (sys.argv[4], int(sys.argv[5]))
family = socket.AF_INET6 if ":" in source else socket.AF_INET
failed = 0
for port in range(first, first + number):
    with socket.socket(family) as sock:
        sock.settimeout(60)
        sock.bind((source, port))
        try:
            sock.connect(to)
            sock.sendall(b"x" * 3000)
            assert len(sock.recv(65536)) > 0
            assert sock.recv(65536) == b""
        except OSError as error:
            failed += 1
            print(error, file=sys.stderr)
print(failed)
"""


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
@pytest.mark.parametrize("name", [name for name in PLANS if "many" in name])
def test_the_pods_own_connections_come_from_any_port(rigs: RigFactory, name: str, family: str) -> None:
    """Also to a trusted network, and from a port that is intercepted: who opened a connection decides."""
    rig = rigs(plan(**PLANS[name]), app=("::", str(PORT)))
    source, to = (POD4, LB4) if family == "ipv4" else (POD6, rig.lab.lb.ipv6)
    with rig.lab.lb.listen(address=to) as server:
        words = [sys.executable, "-c", OUTGOING, source, "7010", "40", to, str(server.getsockname()[1])]
        client = rig.lab.pod.popen(words, stdout=-1)
        server.settimeout(DEADLINE_S)
        for _ in range(40):
            try:
                connection, peer = server.accept()
            except TimeoutError:
                break
            with connection:
                connection.settimeout(DEADLINE_S)
                assert peer[1] in range(7010, 7050)
                connection.recv(3000, socket.MSG_WAITALL)
                connection.sendall(b"y" * 3000)
                connection.shutdown(socket.SHUT_WR)
                connection.recv(1)
        assert client.communicate()[0].strip() == "0"


@pytest.mark.parametrize("name", ["many ports", "one port, to the Pod", "redirect, many ports"])
def test_what_is_left_in_the_pod_is_readable_by_older_tools(rigs: RigFactory, name: str) -> None:
    """nft of this machine, which may be older than that of the image, lists the rules and adds its own."""
    rig = rigs(plan(**PLANS[name]), app=("::", str(PORT)))
    listed = rig.lab.pod.run(["nft", "list", "ruleset"], stdout=-1, check=True).stdout
    assert "table inet srcip" in listed
    added = "add table inet fail2ban; add set inet fail2ban banned { type ipv4_addr; };"
    rig.lab.pod.run(["nft", added], check=True)
    rig.lab.pod.run(["nft", "add", "element", "inet", "fail2ban", "banned", f"{{ {OTHER4} }}"], check=True)
    rig.lab.pod.run(["nft", "add", "rule", "inet", "srcip", "intercept", "counter"], check=True)
    rig.lab.pod.run(["nft", "delete", "table", "inet", "fail2ban"], check=True)


def test_probes_and_outbound_rules_are_readable_by_older_tools(rigs: RigFactory) -> None:
    both = plan(
        probe_aliases=(ProbeAlias(15100, PORT),),
        outbound_ports=(PortRange(8000, 8001),),
        outbound_headers=(("X-A", "1"),),
        max_connections=500,
    )
    rig = rigs(both, app=("::", str(PORT)), program=HTTP_APP)
    listed = rig.lab.pod.run(["nft", "list", "ruleset"], stdout=-1, check=True).stdout
    assert "outbound_ports6" in listed
    assert "aliases" in listed


def last_numbers(forger: Forger) -> tuple[int, int]:
    """Sequence number and acknowledgement of the last segment that came."""
    numbers = None
    with suppress(TimeoutError):
        while True:
            numbers = forger.receive(timeout_s=2)[:2]
    assert numbers
    return numbers


def test_a_segment_far_outside_the_window_harms_no_connection(rigs: RigFactory) -> None:
    """Connection tracking calls it invalid and does not translate it: it must not meet the application's listener."""
    rig = rigs(plan(mode="redirect", emit_proxy_protocol="v1"), app=("::", str(PORT)))
    with rig.connect() as client, Forger(rig.lab.lb, client.sock.getsockname(), (POD4, PORT)) as forger:
        client.send(v1() + b"one")
        assert client.seen(rest=len(v1()) + 3).end == "open"
        client.send(b"two")
        seq, ack = last_numbers(forger)
        for flags in (ACK, ACK | PSH, FIN | ACK):
            for distance in (1 << 20, 1 << 28, 1 << 30, -(1 << 20)):
                for answered in (0, 3):
                    data = b"" if flags == ACK else b"junk"
                    forger.send(flags, data, seq=(ack + distance) % 2**32, ack=(seq + answered) % 2**32)
        client.send(b"end")
        seen = client.seen(rest=len(v1()) + 9)
        assert (seen.end, seen.rest[-9:]) == ("open", b"onetwoend")
