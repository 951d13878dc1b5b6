"""Requests that Pods send out of a real cluster: a server outside reads whose they are, and nothing else changes."""

import json
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from srcip_e2e.cluster import clients
from srcip_e2e.cluster.clients import CURL
from srcip_e2e.cluster.edge import Balancer, Service
from srcip_e2e.cluster.kube import Kube, Object, Said, eventually, ip
from srcip_e2e.cluster.node_network import BALANCER
from srcip_e2e.cluster.pki import Authority
from srcip_e2e.cluster.site import Edge
from srcip_e2e.cluster.workloads import WEB_PORTS, App, alone, outbound, pod, redirect, service, tproxy, web

pytestmark = pytest.mark.cluster
GREETER = 8025
SERVICES = (
    Service("tls", 8443, "", http=True, bind="ssl crt /mnt/edge.pem"),
    Service("plain", 8001, "", http=True),
    Service("in", 8000),
)
"""Of the balancer: the server outside by TLS, and by a port that is not asked for; and what comes in."""
HEADERS = "X-Team: shop\nX-Format: %[src] \"a\" 'b' $c {d} #e"
ASKED = outbound(f"8080-8083, {SERVICES[0].port}, {GREETER}", HEADERS)
PODS = ("alone", "headers", "peers")


@pytest.fixture(scope="module")
def pods(shared_kube: Kube, edge: Edge) -> dict[str, Object]:
    """Three Pods of one application: outgoing requests alone, beside redirect mode, and beside tproxy mode."""
    trusted = alone(*edge.host.ips)
    apps = (
        web("alone", redirect(inbound_ports="none") | ASKED),
        web("headers", redirect(trusted_cidrs=trusted) | ASKED),
        web("peers", tproxy(trusted_cidrs=trusted) | ASKED),
    )
    shared_kube.apply(*(pod(app) for app in apps))
    shared_kube.wait("condition=Ready", *(f"pod/{app.name}" for app in apps))
    return {app.name: shared_kube.get("pod", app.name) for app in apps}


def written(of: Object) -> dict[str, str]:
    """What ASKED writes for this Pod; its address is the first one, as in POD_IP."""
    own = {"X-Forwarded-For": ip(of), "X-Client-Hostname": of["metadata"]["name"]}
    return own | dict(line.split(": ", 1) for line in HEADERS.splitlines())


@pytest.mark.parametrize("name", PODS)
def test_nginx_outside_reads_whose_request_it_is(
    pods: dict[str, Object], outside: tuple[str, ...], shared_kube: Kube, name: str
) -> None:
    """curl in the Pod, both versions of IP and of HTTP: the Pod's address and name, and a header of the Pod's own. The
    connection still comes from the Pod itself."""
    for host in outside:
        for how, protocol in (("--http1.1", "HTTP/1.1"), ("--http2-prior-knowledge", "HTTP/2.0")):
            forged = ["--header", "X-Forwarded-For: 1.1.1.1", "--header", "X-Team: other"]
            answer = clients.inside(shared_kube, name, *CURL, how, *forged, clients.url(host, WEB_PORTS["http"]))
            own = ip(pods[name], 6 if ":" in host else 4)
            expected = {"client": own, "peer": own, "protocol": protocol}
            assert clients.fields(answer) == expected | written(pods[name])


KEEPS = """
import http.client, json, sys
client = http.client.HTTPConnection(sys.argv[1], 8081)
forged = {"X-Forwarded-For": "1.1.1.1", "x-team": "other", "X-Client-Hostname": "other", "X-Own": "kept"}
for body in (b"", b"x" * 100_000):
    client.request("POST", "/", body, forged)
    answer = client.getresponse()
    print(json.dumps([json.loads(answer.read()), answer.getheaders(), client.sock.getsockname()[1]]))
"""


@pytest.mark.parametrize("name", PODS)
def test_python_keeps_its_connection_and_its_own_headers(
    pods: dict[str, Object], outside: tuple[str, ...], shared_kube: Kube, name: str
) -> None:
    """Exactly: the application's lines but for those of our names, ours once each, and responses as the server wrote
    them, on one connection."""
    lines = clients.inside(shared_kube, name, "python3", "-c", KEEPS, outside[0]).splitlines()
    ports = set()
    for line, length in zip(lines, (0, 100_000), strict=True):
        seen, answered, port = json.loads(line)
        ports.add(port)
        own = {
            "host": f"{outside[0]}:8081",
            "accept-encoding": "identity",
            "content-length": str(length),
            "x-own": "kept",
        }
        ours = {each.lower(): value for each, value in written(pods[name]).items()}
        assert sorted((each.lower(), value) for each, value in seen["headers"]) == sorted((own | ours).items())
        assert seen["peer"] == ip(pods[name])
        assert sorted(each.lower() for each, _ in answered) == ["content-length", "date", "server"]
    assert len(ports) == 1


@pytest.mark.parametrize("name", PODS)
def test_websockets_and_grpc_go_out_with_headers(
    pods: dict[str, Object], outside: tuple[str, ...], shared_kube: Kube, name: str
) -> None:
    """Real libraries on both sides: the opening request and the metadata have the headers, and all else works."""
    ends = {"websocket": "1000", "grpc": "OK {'x-end': 'reached'}"}
    for kind, port in (("websocket", "8082"), ("grpc", "8083")):
        for host in outside:
            told = clients.inside(shared_kube, name, "python3", "/app/dial.py", kind, host, port, "one", "x" * 70_000)
            first, *rest = told.splitlines()
            headers = [(each.lower(), value) for each, value in json.loads(first)["headers"]]
            for each, value in written(pods[name]).items():
                assert [found for key, found in headers if key == each.lower()] == [value]
            assert rest == ["one", "x" * 70_000, ends[kind]]


@pytest.fixture(scope="module")
def balancer(edge: Edge, outside: tuple[str, ...]) -> Iterator[Balancer]:
    """A balancer of the edge, which ends TLS for the server outside."""
    pair = Authority.create("e2e").issue("edge", hosts=[BALANCER[0]])
    with Balancer(edge.host, *SERVICES, files={"edge.pem": pair.certificate + pair.key}) as running:
        for each in ("tls", "plain"):
            running.serve(each, [(outside[0], WEB_PORTS["http-api"])])
        yield running


@pytest.mark.parametrize(("scheme", "port"), [("https", 8443), ("http", 8001)])
def test_tls_and_other_ports_pass_as_they_are(
    pods: dict[str, Object], balancer: Balancer, shared_kube: Kube, scheme: str, port: int
) -> None:
    """No header in a TLS connection to a port that is asked for, nor in HTTP to one that is not."""
    to = clients.url(BALANCER[0], port, scheme)
    seen = json.loads(clients.inside(shared_kube, "alone", *CURL, "--insecure", "--header", "X-Team: mine", to))
    assert sorted(name.lower() for name, _ in seen["headers"]) == ["accept", "host", "user-agent", "x-team"]
    assert ["x-team", "mine"] in [[name.lower(), value] for name, value in seen["headers"]]


WAITS = """
import socket, sys
with socket.create_connection((sys.argv[1], 8025), 60) as server:
    print(server.makefile().readline().strip())
    server.sendall(b"EHLO me\\r\\n")
    print(server.makefile().readline().strip())
"""


def test_a_server_that_speaks_first_is_heard(pods: dict[str, Object], edge: Edge, shared_kube: Kube) -> None:
    """After the stated quarter of a second, and then every byte passes."""

    def greet() -> None:
        for _ in edge.host.ips:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"220 greeting\r\n")
                connection.sendall(connection.recv(100))

    with closing(edge.host.listen(GREETER, "::")) as listener:
        thread = threading.Thread(target=greet, daemon=True)
        thread.start()
        for host in edge.host.ips:
            greeting, echo = clients.inside(shared_kube, "alone", "python3", "-c", WAITS, host).splitlines()
            assert (greeting, echo) == ("220 greeting", "EHLO me")


@pytest.mark.parametrize("name", PODS)
def test_what_stays_in_the_pod_is_left_alone(pods: dict[str, Object], shared_kube: Kube, name: str) -> None:
    """Over loopback, and to the Pod's own addresses."""
    for host in ("127.0.0.1", "::1", ip(pods[name], 4), ip(pods[name], 6)):
        answer = clients.inside(shared_kube, name, *CURL, clients.url(host, WEB_PORTS["http"]))
        assert clients.fields(answer) == {"client": host, "peer": host, "protocol": "HTTP/1.1"}


def test_a_service_of_the_cluster_gets_the_headers(pods: dict[str, Object], shared_kube: Kube) -> None:
    """The address of a Service is kept as the destination, so kube-proxy leads the request to a Pod as ever."""
    shared_kube.apply(service(App("alone", port=WEB_PORTS["http"]), named="http"))
    for address in shared_kube.get("service", "alone")["spec"]["clusterIPs"]:

        def asked(to: str = clients.url(address, WEB_PORTS["http"])) -> Said:
            return shared_kube.exec("headers", *CURL, to)

        answer = eventually(lambda: said.out if not (said := asked()).code else None, "kube-proxy's rules")
        seen = clients.fields(answer)
        assert seen["peer"] == ip(pods["headers"], 6 if ":" in address else 4)
        assert seen | written(pods["headers"]) == seen


@pytest.mark.parametrize("name", ["headers", "peers"])
def test_both_ways_at_once_with_one_haproxy(
    pods: dict[str, Object], balancer: Balancer, outside: tuple[str, ...], shared_kube: Kube, name: str
) -> None:
    """A port may be among both: what comes in states the client, what goes out states the Pod, and one process does
    it all."""
    balancer.serve("in", [(ip(pods[name]), WEB_PORTS["http-api"])])
    seen = json.loads(clients.ask(balancer.connect("in", client=("203.0.113.99", 12345))))
    assert seen["peer"] == ("169.254.77.1" if name == "headers" else "203.0.113.99")
    assert "x-client-hostname" not in str(seen).lower()
    stated = [value for key, value in seen["headers"] if key.lower() == "x-forwarded-for"]
    assert stated == (["203.0.113.99"] if name == "headers" else [])
    seen = json.loads(clients.inside(shared_kube, name, *CURL, clients.url(outside[0], WEB_PORTS["http-api"])))
    assert dict(seen["headers"])["x-forwarded-for"] == ip(pods[name])
    count = "import glob; print([open(f).read() for f in glob.glob('/proc/[0-9]*/comm')].count('haproxy\\n'))"
    assert shared_kube.exec(name, "python3", "-c", count, container="srcip-proxy").out == "1\n"


CAPABILITIES = {"alone": 0, "headers": 0, "peers": 1 << 13}
"""NET_RAW (linux/capability.h) is for tproxy mode."""


@pytest.mark.parametrize("name", PODS)
def test_the_sidecar_has_what_it_needs_and_works(pods: dict[str, Object], shared_kube: Kube, name: str) -> None:
    """Its capabilities as the kernel has them, and its self check."""
    said = shared_kube.exec(name, "python3", "-c", "print(open('/proc/1/status').read())", container="srcip-proxy")
    status = dict(line.split(":\t", 1) for line in said.out.splitlines() if ":\t" in line)
    assert (status["Name"], int(status["CapEff"], 16)) == ("haproxy", CAPABILITIES[name])
    assert int(status["CapBnd"], 16) == CAPABILITIES[name]
    checked = shared_kube.exec(name, "srcip-proxy", "check", container="srcip-proxy")
    assert checked.code == 0, checked.out + checked.err
