"""Nobody can forge an address: who is believed, and what even the believed may not claim."""

import pytest

from srcip_proxy.plan import ProbeAlias
from support.rig import (
    CLIENT4,
    LB4,
    NODE4,
    OTHER4,
    OTHER6,
    POD4,
    POD6,
    PORT,
    SHORT,
    Rig,
    RigFactory,
    Seen,
    plan,
    v1,
    v2,
)

pytestmark = pytest.mark.dataplane

REFUSED_CLAIMS = [
    "127.0.0.1",
    "127.255.255.254",
    "::1",
    "0.0.0.0",
    "0.1.2.3",
    "::",
    "224.0.0.1",
    "239.255.255.255",
    "ff02::1",
    "255.255.255.255",
    "169.254.1.1",
    "169.254.77.1",  # srcip's own
    "fe80::1",
    "febf::1",
    "fd73:7263:6970::1",
    "::ffff:127.0.0.1",
    "::ffff:224.0.0.1",
]


@pytest.mark.parametrize("header", [v1, v2])
@pytest.mark.parametrize("claim", REFUSED_CLAIMS)
def test_an_address_that_no_client_can_have_is_refused(rig: Rig, claim: str, header) -> None:
    before = rig.accepted(), rig.metric('srcip_refused_connections_total{reason="unusable_address"}')
    assert rig.seen(header((claim, 54321)) + b"x").refused
    after = rig.accepted(), rig.metric('srcip_refused_connections_total{reason="unusable_address"}')
    assert after == (before[0], before[1] + 1)


# the ends of the Pod's network: the kernel would put another address in their place
OF_THE_POD = [POD4, POD6, f"::ffff:{POD4}", "10.77.3.0", "10.77.3.255"]


@pytest.mark.parametrize("header", [v1, v2])
@pytest.mark.parametrize("claim", OF_THE_POD)
def test_a_pod_that_is_its_own_client_sees_the_balancer(rig: Rig, claim: str, header) -> None:
    """As wp-cron, or one of the replicas of a Service that call it by its load balancer."""
    before = rig.metric('srcip_fallback_connections_total{reason="own_address"}')
    seen = rig.seen(header((claim, 54321)) + b"x")
    assert (seen.peer[0], seen.rest) == (LB4, b"x")
    assert rig.metric('srcip_fallback_connections_total{reason="own_address"}') == before + 1


def test_a_line_names_a_pod_that_is_its_own_client(rigs: RigFactory) -> None:
    rig = rigs(plan(max_connections=96))
    rig.seen(v2((POD4, 54321)) + b"x")
    rig.waited(f"instead of client {POD4}; reason=own_address; what to do: connect from the Pod to itself without")


@pytest.mark.parametrize("policy", ["ip", "exact"])
def test_a_pod_that_is_its_own_client_is_refused(rigs: RigFactory, policy: str) -> None:
    """Where the balancer may not take its place."""
    rig = rigs(plan(client_address=policy))
    before = rig.accepted(), rig.metric('srcip_refused_connections_total{reason="own_address"}')
    for claim in OF_THE_POD:
        assert rig.seen(v2((claim, 54321)) + b"x").refused
    after = rig.accepted(), rig.metric('srcip_refused_connections_total{reason="own_address"}')
    assert after == (before[0], before[1] + len(OF_THE_POD))


@pytest.mark.parametrize("claim", ["10.77.3.9", "10.77.1.255", "100.64.0.1", "203.0.113.255", "240.0.0.1", "fc00::1"])
def test_an_unusual_address_is_shown_as_it_is(rig: Rig, claim: str) -> None:
    assert rig.seen(v2((claim, 54321)) + b"x") == Seen((claim, 54321), b"x", "open")


@pytest.mark.parametrize("header", [v1, v2])
@pytest.mark.parametrize("source", ["other4", "other6"])
def test_an_untrusted_host_stays_native(rig: Rig, header, source: str) -> None:
    """Its header is bytes like any others; the application sees the host itself."""
    address, to = (OTHER4, POD4) if source == "other4" else (OTHER6, POD6)
    with rig.connect(host=rig.lab.other, to=to) as client:
        client.send(header())
        assert client.seen(rest=len(header())) == Seen((address, client.sock.getsockname()[1]), header(), "open")


def test_the_destination_in_a_header_leads_nowhere_else(rig: Rig) -> None:
    """No open relay: the connection goes to the port it came to, in this Pod."""
    with rig.lab.other.listen(8888) as elsewhere:
        elsewhere.settimeout(0.3)
        header = f"PROXY TCP4 203.0.113.7 {OTHER4} 54321 8888\r\n".encode()
        assert rig.seen(header + b"x") == Seen(CLIENT4, b"x", "open")
        with pytest.raises(TimeoutError):
            elsewhere.accept()


def test_the_proxy_port_itself_is_no_way_in(rig: Rig) -> None:
    """It listens on loopback only, for the kernel's redirection."""
    for host in (rig.lab.lb, rig.lab.other):
        with pytest.raises(ConnectionRefusedError):
            rig.connect(15301, host=host)


@pytest.mark.parametrize("target", ["127.0.0.1", "169.254.77.1", POD4])
def test_a_process_in_the_pod_cannot_forge_to_its_neighbour(rig: Rig, target: str) -> None:
    """From inside the Pod no connection to an application meets the proxy."""
    with rig.connect(host=rig.lab.pod, to=target) as client:
        client.send(v2())
        seen = client.seen(rest=len(v2()))
        assert seen.rest == v2()
        assert seen.peer[0] in ("127.0.0.1", "169.254.77.1", POD4)


@pytest.mark.parametrize(
    ("policy", "data", "expected"),
    [
        ("required", b"hello", None),
        ("optional", b"hello", b"hello"),
        ("off", b"hello", b"hello"),
        ("off", v2() + b"x", v2() + b"x"),
    ],
)
def test_policy_decides_what_a_balancer_must_send(
    rigs: RigFactory, policy: str, data: bytes, expected: bytes | None
) -> None:
    rig = rigs(plan(proxy_protocol=policy))
    with rig.connect() as client:
        client.send(data)
        seen = client.seen(rest=len(data))
        if expected is None:
            assert seen.refused
        else:
            assert (seen.peer, seen.rest) == (client.sock.getsockname(), expected)


@pytest.mark.parametrize("header", [v1, v2])
def test_optional_takes_a_header_where_there_is_one(rigs: RigFactory, header) -> None:
    assert rigs(plan(proxy_protocol="optional")).seen(header() + b"x") == Seen(CLIENT4, b"x", "open")


def test_optional_lets_a_silent_client_through_when_the_time_is_over(rigs: RigFactory) -> None:
    """The application may be the one who speaks first."""
    rig = rigs(plan(proxy_protocol="optional", **SHORT))
    with rig.connect() as client:
        assert client.seen().peer == client.sock.getsockname()


@pytest.mark.parametrize(
    ("policy", "data", "shown"),
    [
        ("off", b"plain", "native"),
        ("off", v2() + b"x", "native"),
        ("optional", b"plain", "own"),
        ("optional", v2() + b"x", "client"),
        ("required", b"plain", "refused"),
        ("required", v2() + b"x", "client"),
    ],
)
def test_the_node_has_a_policy_of_its_own(rigs: RigFactory, policy: str, data: bytes, shown: str) -> None:
    """All of 10.77.0.0/16 is trusted and must send a header; the node is as its setting says."""
    rig = rigs(plan(trusted_cidrs=("10.77.0.0/16",), node_proxy_protocol=policy))
    assert rig.seen(b"plain").refused  # from the balancer
    with rig.connect(host=rig.lab.node) as client:
        client.send(data)
        seen = client.seen(rest=1 if shown == "client" else len(data))
    own = (NODE4, client_port(seen))
    expected = {
        "native": Seen(own, data, "open"),
        "own": Seen(own, data, "open"),
        "client": Seen(CLIENT4, b"x", "open"),
        "refused": Seen(None, b"", "reset"),
    }
    assert seen == expected[shown]


def client_port(seen: Seen) -> int:
    return seen.peer[1] if seen.peer else 0


def test_the_node_alone_can_be_asked_for_headers(rigs: RigFactory) -> None:
    """As behind a NodePort with SNAT: proxy-protocol off, node-proxy-protocol required."""
    rig = rigs(plan(trusted_cidrs=("10.77.0.0/16",), proxy_protocol="off", node_proxy_protocol="required"))
    assert rig.seen(v2() + b"x", host=rig.lab.node) == Seen(CLIENT4, b"x", "open")
    with rig.connect() as client:
        client.send(b"plain")
        assert client.seen(rest=5).peer[0] == LB4


ALIASES = (ProbeAlias(15100, PORT), ProbeAlias(15101, 7098))


def test_a_probe_on_its_alias_port_tells_the_truth(rigs: RigFactory) -> None:
    """The kernel leads it to the application: no header, no process in between, refused where nobody listens."""
    rig = rigs(plan(trusted_cidrs=("10.77.0.0/16",), node_proxy_protocol="required", probe_aliases=ALIASES))
    for _ in range(3):
        with rig.connect(15100, host=rig.lab.node) as client:
            client.send(b"GET")
            assert client.seen(rest=3) == Seen((NODE4, client.sock.getsockname()[1]), b"GET", "open")
    with pytest.raises(ConnectionRefusedError):
        rig.connect(15101, host=rig.lab.node)


def test_traffic_beside_the_probes_is_as_without_them(rigs: RigFactory) -> None:
    rig = rigs(plan(trusted_cidrs=("10.77.0.0/16",), node_proxy_protocol="required", probe_aliases=ALIASES))
    with rig.connect(15100, host=rig.lab.node) as probe:
        assert rig.seen(v2() + b"x") == Seen(CLIENT4, b"x", "open")
        assert rig.seen(v2() + b"x", host=rig.lab.node) == Seen(CLIENT4, b"x", "open")
        assert rig.seen(b"plain", host=rig.lab.node).refused
        probe.send(b"GET")
        assert probe.seen(rest=3).rest == b"GET"
