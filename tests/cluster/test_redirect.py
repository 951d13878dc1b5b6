"""Redirect mode on a real cluster: real clients, a real balancer outside, and real servers that read the headers."""

import http.client
import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from srcip_e2e.cluster import clients
from srcip_e2e.cluster.edge import Balancer, Service
from srcip_e2e.cluster.kube import Kube, eventually, ip, is_ready
from srcip_e2e.cluster.node_network import BALANCER, CLIENT
from srcip_e2e.cluster.pki import Authority
from srcip_e2e.cluster.site import Edge
from srcip_e2e.cluster.workloads import PROXIED_PORT, WEB_PORTS, App, alone, pod, redirect, service, tproxy, web
from srcip_lab.errors import LabError

pytestmark = pytest.mark.cluster
OWN = {4: "169.254.77.1", 6: "fd73:7263:6970::1"}
"""Where the sidecar comes from."""
SOURCES = {4: "203.0.113.99", 6: "2001:db8::99"}
"""Clients that choose their own address."""
END_TLS = "ssl crt /mnt/edge.pem ca-file /mnt/ca.pem verify optional alpn h2,http/1.1"
SAY_TLS = "send-proxy-v2 proxy-v2-options ssl,cert-cn,authority"
SERVICES = {
    "http": Service("http", 8000),
    "http6": Service("http6", 8001),
    "tls": Service("tls", 8443, SAY_TLS, bind=END_TLS),
    "http-api": Service("http-api", 8002),
    "ws": Service("ws", 8003),
    "grpc": Service("grpc", 8004),
    "proxied": Service("proxied", 8005, SAY_TLS, bind=END_TLS),
    "proxied6": Service("proxied6", 8006),
    "node": Service("node", 8008),
    "peers": Service("peers", 8007, "", http=True, lines=("option forwardfor", "http-reuse always")),
}
TRUST = Authority.create("e2e")


@pytest.fixture(scope="module")
def pods(shared_kube: Kube, edge: Edge) -> dict[str, dict[int, str]]:
    """Addresses of four Pods of the same servers, each told another way who its clients are."""
    trusted = alone(*edge.host.ips)
    tlvs = "ssl-cn=X-Client-CN,authority=X-SNI"
    emits = redirect(trusted_cidrs=trusted, emit_proxy_protocol="v2", inbound_ports=str(PROXIED_PORT))
    apps = (
        web("headers", redirect(trusted_cidrs=trusted, tlv_headers=tlvs)),
        web("emits", emits, proxied=PROXIED_PORT),
        web("node", redirect(trusted_cidrs=alone(*edge.snat_ips), node_proxy_protocol="required")),
        web("peers", tproxy(trusted_cidrs=trusted, client_from="x-forwarded-for")),
    )
    shared_kube.apply(*(pod(app) for app in apps))
    shared_kube.wait("condition=Ready", *(f"pod/{app.name}" for app in apps))
    found = {app.name: shared_kube.get("pod", app.name) for app in apps}
    return {name: {4: ip(each, 4), 6: ip(each, 6)} for name, each in found.items()}


@pytest.fixture(scope="module")
def balancer(edge: Edge, pods: dict[str, dict[int, str]]) -> Iterator[Balancer]:
    """A balancer in front of all of them."""
    server = TRUST.issue("edge", hosts=["web.example", BALANCER[0], BALANCER[1]])
    files = {"edge.pem": server.certificate + server.key, "ca.pem": TRUST.pair.certificate}
    with Balancer(edge.host, *SERVICES.values(), files=files) as running:
        for name in ("http", "http-api", "ws", "grpc"):
            running.serve(name, [(pods["headers"][4], WEB_PORTS[name])])
        running.serve("http6", [(pods["headers"][6], WEB_PORTS["http"])])
        running.serve("tls", [(pods["headers"][4], WEB_PORTS["http"])])
        running.serve("proxied", [(pods["emits"][4], PROXIED_PORT)])
        running.serve("proxied6", [(pods["emits"][6], PROXIED_PORT)])
        running.serve("peers", [(pods["peers"][4], WEB_PORTS["http-api"])])
        yield running


def url(name: str, version: int = 4, scheme: str = "http") -> str:
    """Where clients find a service of the balancer."""
    return clients.url(BALANCER[version == 6], SERVICES[name].port, scheme)


def written(client: str, port: int, proto: str = "http") -> dict[str, str]:
    """All that srcip writes for this client by default."""
    node = f'"[{client}]"' if ":" in client else client
    return {
        "X-Forwarded-For": client,
        "X-Real-IP": client,
        "X-Forwarded-Port": str(port),
        "X-Forwarded-Proto": proto,
        "Forwarded": f"for={node};proto={proto}",
    }


@pytest.mark.parametrize("protocol", ["HTTP/1.1", "HTTP/2.0"])
@pytest.mark.parametrize(("service", "over"), [("http", 4), ("http6", 6)])
def test_nginx_reads_the_client_in_the_headers(
    balancer: Balancer, shared_kube: Kube, service: str, over: int, protocol: str
) -> None:
    """curl, both versions of IP on both sides, both versions of HTTP: every header exact, and nginx, which is told to
    believe the sidecar alone, logs the client as its own."""
    how = ["--http2-prior-knowledge"] if protocol == "HTTP/2.0" else ["--http1.1"]
    for version, client in SOURCES.items():
        answer = clients.curl(balancer.host, *how, "--interface", client, url(service, version))
        expected = {"client": client, "peer": OWN[over], "protocol": protocol}
        assert clients.fields(answer) == expected | written(client, SERVICES[service].port)
        assert f'{client} {OWN[over]} "GET / {protocol}" 200' in shared_kube.logs("headers")


def test_curl_keeps_its_connection(balancer: Balancer) -> None:
    """Three requests, one connection, and each has its headers."""
    counted = ["--write-out", "connections: %{num_connects}\\n"]
    answer = clients.curl(balancer.host, *counted, *[url("http")] * 3)
    assert [line for line in answer.splitlines() if "connections" in line] == [f"connections: {n}" for n in (1, 0, 0)]
    assert answer.count(f"X-Forwarded-For: {CLIENT[0]}\n") == 3


FORGED = {
    "X-Forwarded-For": "1.1.1.1",
    "x_forwarded_for": "1.1.1.1",
    "X-Real-IP": "1.1.1.1",
    "Forwarded": "for=1.1.1.1",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Port": "1",
    "True-Client-IP": "1.1.1.1",
    "X-Client-CN": "admin",
    "Connection": "X-Forwarded-For, keep-alive",
}


def test_python_is_told_no_forged_address(balancer: Balancer) -> None:
    """Python's own client forges every header, on a connection that it keeps; Python's own server sees the client's
    lines that state nothing, ours, and nothing else."""
    port = SERVICES["http-api"].port
    client = http.client.HTTPConnection("web.example", port)
    client.sock = balancer.connect("http-api", client=(SOURCES[4], 12345))
    for body in (None, b"x" * 100_000):
        client.request("POST", "/", body, FORGED)
        seen = json.loads(client.getresponse().read())
        told = [(name.lower(), value) for name, value in seen["headers"]]
        own = {"host": f"web.example:{port}", "accept-encoding": "identity", "content-length": str(len(body or b""))}
        ours = {name.lower(): value for name, value in written(SOURCES[4], port).items()}
        assert sorted(told) == sorted((own | ours).items())
        assert seen["peer"] == OWN[4]
    client.close()


def test_a_stranger_is_native(balancer: Balancer, edge: Edge, pods: dict[str, dict[int, str]]) -> None:
    """Who is not trusted reaches the server itself: no header of srcip, and nginx does not believe what it says."""
    if not edge.strangers:
        pytest.skip("the host outside this cluster has no second address")
    for version, stranger in zip((4, 6), edge.strangers, strict=True):
        to = clients.url(pods["headers"][version], WEB_PORTS["http"])
        answer = clients.curl(edge.host, "--interface", stranger, "--header", "X-Forwarded-For: 1.1.1.1", to)
        native = {"client": stranger, "peer": stranger, "protocol": "HTTP/1.1", "X-Forwarded-For": "1.1.1.1"}
        assert clients.fields(answer) == native


def test_a_websocket_opens_with_the_headers_and_talks_on(balancer: Balancer) -> None:
    """websockets on both sides; a forged header is replaced in the opening request."""
    said = "x" * 70_000
    first, *rest = clients.dial(balancer.host, "websocket", BALANCER[1], SERVICES["ws"].port, "hello", said)
    headers = {name.lower(): value for name, value in json.loads(first)["headers"]}
    ours = {name.lower(): value for name, value in written(CLIENT[1], SERVICES["ws"].port).items()}
    assert headers | ours == headers
    assert "1.1.1.1" not in first
    assert rest == ["hello", said, "1000"]


def test_a_grpc_stream_has_the_headers_as_metadata(balancer: Balancer) -> None:
    """grpcio on both sides: a stream both ways with its trailers, and no address that the client stated."""
    first, *rest = clients.dial(balancer.host, "grpc", BALANCER[0], SERVICES["grpc"].port, "one", "two", "three")
    metadata = [(name, value) for name, value in json.loads(first)["headers"] if name != "user-agent"]
    ours = {name.lower(): value for name, value in written(CLIENT[0], SERVICES["grpc"].port).items()}
    assert sorted(metadata) == sorted(ours.items())
    assert rest == ["one", "two", "three", "OK {'x-end': 'reached'}"]


def test_tls_that_the_balancer_ends_is_told(balancer: Balancer, tmp_path: Path) -> None:
    """A client with a certificate: the scheme is https, and the certificate's name and the server's are headers, not
    those that the client wrote."""
    port = SERVICES["tls"].port
    context = ssl.create_default_context(cadata=TRUST.pair.certificate.decode())
    TRUST.issue("alice").write(tmp_path, "alice")
    context.load_cert_chain(tmp_path / "alice.crt", tmp_path / "alice.key")
    client = http.client.HTTPConnection("web.example", port)
    plain = balancer.connect("tls", client=(SOURCES[4], 12346))
    client.sock = context.wrap_socket(plain, server_hostname="web.example")
    client.request("GET", "/", headers={"X-Client-CN": "admin", "X-SNI": "admin"})
    seen = clients.fields(client.getresponse().read().decode())
    client.close()
    tlvs = {"X-Client-CN": "alice", "X-SNI": "web.example"}
    expected = {"client": SOURCES[4], "peer": OWN[4], "protocol": "HTTP/1.1"}
    assert seen == expected | written(SOURCES[4], port, "https") | tlvs


def test_http2_that_was_agreed_in_tls_is_http2_behind_it(balancer: Balancer) -> None:
    """curl and the balancer agree on h2; behind the balancer it is HTTP/2 without TLS, and gets its headers."""
    answer = clients.curl(
        balancer.host, "--http2", "--insecure", "--header", "X-Client-CN: admin", url("tls", 4, "https")
    )
    seen = clients.fields(answer)
    assert (seen["protocol"], seen["X-Forwarded-For"], seen["X-Forwarded-Proto"]) == ("HTTP/2.0", CLIENT[0], "https")
    assert "X-Client-CN" not in seen


def test_a_server_of_the_proxy_protocol_gets_a_header_of_its_own(balancer: Balancer) -> None:
    """nginx with `listen ... proxy_protocol`: address and port of the client and what it came to, of both versions of
    IP, and what TLS said."""
    curl = ["--http1.1", "--write-out", "from: %{local_ip} %{local_port}\\n"]
    tls = ["--insecure", "--resolve", f"web.example:8005:{BALANCER[0]}", "https://web.example:8005/"]
    seen = clients.fields(clients.curl(balancer.host, *curl, "--interface", SOURCES[4], *tls))
    assert seen["from"].startswith(f"{SOURCES[4]} ")
    to = {"peer": OWN[4], "came to": f"{BALANCER[0]} 8005", "authority": "web.example"}
    assert seen == {"client": seen["from"], "from": seen["from"], **to}
    seen = clients.fields(clients.curl(balancer.host, *curl, "--interface", SOURCES[6], url("proxied6", 6)))
    assert seen["from"].startswith(f"{SOURCES[6]} ")
    assert seen == {"client": seen["from"], "from": seen["from"], "peer": OWN[6], "came to": f"{BALANCER[1]} 8006"}


def test_behind_a_balancer_that_speaks_http_alone_the_client_is_the_peer(balancer: Balancer) -> None:
    """tproxy mode with `client-from: x-forwarded-for`: clients share the balancer's connections to the Pod, and still
    each request comes from its own client. What a client forges stands left of what the balancer wrote."""
    for client in (SOURCES[4], "203.0.113.98", SOURCES[6], "203.0.113.97"):
        to = url("peers", 6 if ":" in client else 4)
        seen = json.loads(
            clients.curl(balancer.host, "--interface", client, "--header", "X-Forwarded-For: 1.1.1.1", to)
        )
        assert seen["peer"] == client
        told = [value for name, value in seen["headers"] if name.lower() == "x-forwarded-for"]
        assert told == ["1.1.1.1", client], "headers stay as they are"
    stat = [row.split(",") for row in balancer.tell("show stat").splitlines()]
    reused = next(int(row[stat[0].index("reuse")]) for row in stat if row[:2] == ["peers", "BACKEND"])
    assert reused >= 2


def test_the_sidecar_has_no_capability(pods: dict[str, dict[int, str]], shared_kube: Kube) -> None:
    """As kubelet and containerd made it, not only as the Pod asks for it."""
    program = "print(open('/proc/1/status').read())"
    said = shared_kube.exec("headers", "python3", "-c", program, container="srcip-proxy")
    status = dict(line.split(":\t", 1) for line in said.out.splitlines() if ":\t" in line)
    assert status["Name"] == "haproxy"
    assert {status[f"Cap{name}"] for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert (status["Uid"].split(), status["NoNewPrivs"]) == (["7363"] * 4, "1")


@pytest.mark.parametrize("name", ["headers", "emits"])
def test_the_self_check_passes(pods: dict[str, dict[int, str]], shared_kube: Kube, name: str) -> None:
    """`kubectl exec POD -c srcip-proxy -- srcip-proxy check`."""
    said = shared_kube.exec(name, "srcip-proxy", "check", container="srcip-proxy")
    assert (said.code, said.out.count("ok ")) == (0, 3), said.out + said.err


def test_a_node_that_is_trusted_must_send_a_header_and_kubelet_need_not(
    balancer: Balancer, edge: Edge, shared_kube: Kube
) -> None:
    """NodePort with policy Cluster: the node stands in for the balancer. The Pod is Ready, so kubelet's HTTP probe came
    past the sidecar; a client of the balancer is told as ever, and nobody gets in without a header."""
    shared_kube.apply(service(App("node", port=WEB_PORTS["http"]), named="http"))
    port = int(shared_kube.get("service", "node")["spec"]["ports"][0]["nodePort"])
    balancer.serve("node", [(edge.node_ips[0], port)])

    def answer() -> str | None:
        try:
            return clients.ask(balancer.connect("node", client=(SOURCES[4], 12349)))
        except (OSError, LabError):
            return None

    seen = clients.fields(eventually(answer, "the NodePort"))
    assert seen | written(SOURCES[4], SERVICES["node"].port) == seen
    with pytest.raises(OSError, match="reset"):
        clients.ask(edge.host.connect(edge.node_ips[0], port))
    assert is_ready(shared_kube.get("pod", "node"))
