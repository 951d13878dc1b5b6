"""Annotations about outgoing requests, from the webhook to the wire: what another host gets from a Pod of the lab."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.lab.conftest import APP, container, peer, pod

from srcip_lab import header
from srcip_lab.lab import Lab

pytestmark = pytest.mark.dataplane
PORT = 8080
"""Of the server outside, and of the application: a port may be both."""
SIGNS = "%[src] \"a\" 'b' \\ $(POD_IP) ${HOME} # {} ; :"
ASKS = """
import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=60)
connection.request("GET", "/", headers={"X-Forwarded-For": "192.0.2.66", "X-Own": "stays"})
print(connection.getresponse().read().decode())
"""
OUTBOUND = {
    "srcip.io/outbound-ports": str(PORT),
    "srcip.io/outbound-headers": f"X-Team: blue\nX-Signs: {SIGNS}\n",
    "srcip.io/set-forwarded-for": "default",
    "srcip.io/set-client-hostname": "default",
}
ALONE = {**OUTBOUND, "srcip.io/inbound-ports": "none"}


class Echo(BaseHTTPRequestHandler):
    """Answers with the headers of the request, and who sent it."""

    def do_GET(self) -> None:
        told = {"peer": self.client_address[0], "headers": self.headers.items()}
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def annotated(annotations: dict[str, str]) -> dict[str, Any]:
    """A Pod that listens, and can be asked to send."""
    made = pod(container("app", APP))
    made["metadata"]["annotations"] = annotations
    return made


def serve(lab: Lab) -> ThreadingHTTPServer:
    """A server of the other host."""
    server = ThreadingHTTPServer((lab.other.ipv4, PORT), Echo, bind_and_activate=False)
    server.socket.close()
    server.socket = lab.other.listen(PORT)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


def asked(lab: Lab) -> dict[str, Any]:
    """What the server outside got from the application of the Pod."""
    done = lab.exec("app", ["python3", "-c", ASKS, lab.other.ipv4, str(PORT)], capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return {"peer": told["peer"], **{name.lower(): value for name, value in told["headers"]}}


@pytest.fixture(
    scope="module",
    params=[
        {"srcip.io/mode": "tproxy", **ALONE},
        {"srcip.io/mode": "redirect", **ALONE},
        {"srcip.io/mode": "tproxy", **OUTBOUND},
        {"srcip.io/mode": "redirect", "srcip.io/http-ports": "8080", "srcip.io/http-other": "pass", **OUTBOUND},
    ],
    ids=["tproxy-alone", "redirect-alone", "tproxy-both", "redirect-both"],
)
def sending(request: pytest.FixtureRequest) -> Iterator[tuple[Lab, dict[str, str]]]:
    """A Pod that was patched by the webhook, a server outside, and the annotations."""
    with Lab.up(annotated(request.param)) as lab:
        server = serve(lab)
        yield lab, request.param
        server.shutdown()
        server.server_close()


def test_a_request_goes_out_with_the_headers_that_the_annotations_say(sending: tuple[Lab, dict[str, str]]) -> None:
    lab, _ = sending
    got = asked(lab)
    assert got["peer"] == lab.pod.ipv4
    assert (got["x-forwarded-for"], got["x-client-hostname"]) == (lab.pod.ipv4, "web")
    assert (got["x-team"], got["x-signs"], got["x-own"]) == ("blue", SIGNS, "stays")


def test_the_sidecar_has_what_inbound_in_tproxy_mode_needs_or_nothing(sending: tuple[Lab, dict[str, str]]) -> None:
    lab, said = sending
    process = lab.container("srcip-proxy").process
    assert process is not None
    status = Path("/proc", str(process.pid), "status").read_text()
    bounding = next(line.split()[1] for line in status.splitlines() if line.startswith("CapBnd"))
    needs = said["srcip.io/mode"] == "tproxy" and "srcip.io/inbound-ports" not in said
    assert int(bounding, 16) == (1 << 13 if needs else 0)


def test_what_comes_in_is_as_the_mode_says(sending: tuple[Lab, dict[str, str]]) -> None:
    lab, said = sending
    server = header.endpoint(lab.pod.ipv4, PORT)
    line = header.v1(header.endpoint("203.0.113.7:54321", 0), server)
    if "srcip.io/inbound-ports" in said:
        assert peer(lab, lab.pod.ipv4).split()[0] == lab.lb.ipv4
    elif said["srcip.io/mode"] == "tproxy":
        assert peer(lab, lab.pod.ipv4, header=line) == "203.0.113.7 54321"
    else:
        assert peer(lab, lab.pod.ipv4, header=line + b"SSH-2.0-any\r\n").split()[0] == "169.254.77.1"
    assert peer(lab, lab.pod.ipv4, sender="other").split()[0] == lab.other.ipv4


def test_without_the_sidecar_nothing_goes_out_without_its_headers(sending: tuple[Lab, dict[str, str]]) -> None:
    lab, _ = sending
    lab.kill_sidecar(hold=True)
    done = lab.exec("app", ["python3", "-c", ASKS, lab.other.ipv4, str(PORT)], capture_output=True, timeout=120)
    lab.release()
    assert "ConnectionRefusedError" in done.stderr
    assert asked(lab)["x-team"] == "blue"
