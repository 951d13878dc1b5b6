"""`srcip lab send --http` to a Pod in redirect mode: what its application gets, and what a person reads."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.lab.conftest import container, manifest, srcip

pytestmark = pytest.mark.dataplane
NAME = f"http-{os.getpid()}"
CLIENT = "203.0.113.7:54321"
ECHO = """
import http.server, json, socket, time

class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        if self.path == "/slow":
            time.sleep(1.5)
        told = {"method": self.command, "path": self.path, "body": body, "headers": self.headers.items()}
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        text = json.dumps(told).encode()
        for piece in (text[:9], text[9:], b""):
            self.wfile.write(b"%x\\r\\n%s\\r\\n" % (len(piece), piece))

    do_POST = do_PUT = do_GET

class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6

Server(("::", 8080), Echo).serve_forever()
"""
"""Answers each request with what it was, in two chunks."""


def send(*args: str) -> subprocess.CompletedProcess[str]:
    return srcip("lab", "send", "--name", NAME, "--port", "8080", *args)


def echoed(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What the application got, as its answer tells it; its headers by their names in lower case."""
    assert done.returncode == 0, done.stderr
    told = json.loads(json.loads(done.stdout)["response"]["body"])
    headers: dict[str, list[str]] = {}
    for name, value in told["headers"]:
        headers.setdefault(name.lower(), []).append(value)
    return {**told, "headers": headers}


@pytest.fixture(scope="module")
def redirecting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Pod in redirect mode with an HTTP port."""
    app = container("app", ECHO, ports=[{"name": "http", "containerPort": 8080}])
    path = manifest(tmp_path_factory.mktemp("lab") / "pod.yaml", {"srcip.io/mode": "redirect"}, app)
    done = srcip("lab", "up", "--name", NAME, "-f", path)
    try:
        assert done.returncode == 0, done.stderr
        yield
    finally:
        srcip("lab", "down", "--name", NAME)


@pytest.mark.usefixtures("redirecting")
@pytest.mark.parametrize("over", [[], ["--ipv6"]])
@pytest.mark.parametrize(("client", "address"), [(CLIENT, "203.0.113.7"), ("[2001:db8::7]:54321", "2001:db8::7")])
def test_the_application_gets_the_client_in_a_header(client: str, address: str, over: list[str]) -> None:
    got = echoed(send("--client", client, "--http", "--json", *over))
    assert got["headers"]["x-forwarded-for"] == [address]
    assert (got["method"], got["path"]) == ("GET", "/")


@pytest.mark.usefixtures("redirecting")
def test_headers_path_method_and_body_arrive() -> None:
    options = ["--header", "X-A: 1", "--header", "X-B: b c", "--path", "/a?b", "--method", "PUT", "--data", "x\\ny"]
    got = echoed(send("--client", CLIENT, "--http", "--json", *options))
    assert (got["method"], got["path"], got["body"]) == ("PUT", "/a?b", "x\ny")
    assert (got["headers"]["x-a"], got["headers"]["x-b"]) == (["1"], ["b c"])


@pytest.mark.usefixtures("redirecting")
def test_a_forged_header_can_be_tried_and_is_replaced() -> None:
    got = echoed(send("--client", CLIENT, "--http", "--json", "--header", "X-Forwarded-For: 192.0.2.66"))
    assert got["headers"]["x-forwarded-for"] == ["203.0.113.7"]


@pytest.mark.usefixtures("redirecting")
def test_another_host_reaches_the_application_as_it_is() -> None:
    got = echoed(send("--from", "other", "--no-header", "--http", "--json", "--header", "X-Forwarded-For: 192.0.2.66"))
    assert got["headers"]["x-forwarded-for"] == ["192.0.2.66"]
    assert "x-real-ip" not in got["headers"]


@pytest.mark.usefixtures("redirecting")
def test_an_answer_that_takes_its_time_is_awaited() -> None:
    """Longer than the pause after which other connections get the end of our side."""
    assert echoed(send("--client", CLIENT, "--http", "--json", "--path", "/slow"))["path"] == "/slow"


@pytest.mark.usefixtures("redirecting")
def test_a_person_reads_status_headers_and_body() -> None:
    done = send("--client", CLIENT, "--http")
    lines = done.stdout.splitlines()
    assert (lines[0], lines[-2], done.returncode) == ("HTTP/1.1 200 OK", "", 0)
    assert "transfer-encoding: chunked" in [line.lower() for line in lines]
    assert json.loads(lines[-1])["path"] == "/"
    assert "closed the connection" in done.stderr


@pytest.mark.usefixtures("redirecting")
def test_what_the_sidecar_answers_itself_is_a_response_too() -> None:
    """An ambiguous request never reaches the application."""
    forged = ["--header", "Content-Length: 1", "--header", "Content-Length: 2", "--method", "POST"]
    done = send("--client", CLIENT, "--http", *forged)
    assert done.stdout.splitlines()[0].startswith("HTTP/1.1 400 ")
    assert done.returncode == 0


@pytest.mark.usefixtures("redirecting")
def test_every_wrong_option_is_told_at_once() -> None:
    bad = ["--client", "nobody", "--to", "web", "--data", "\\x1", "--method", "G T", "--path", "x", "--header", "oops"]
    done = send("--http", *bad)
    assert done.returncode == 1
    told = [line.partition(":")[0] for line in done.stderr.splitlines()]
    assert told == ["--to", "--client", "--data", "--method", "--path", "--header"]


@pytest.mark.usefixtures("redirecting")
def test_options_of_http_alone_are_refused_without_it() -> None:
    done = send("--client", CLIENT, "--path", "/", "--method", "GET", "--header", "A: b")
    told = [f"--{name} is for --http alone" for name in ("path", "method", "header")]
    assert (done.returncode, done.stderr.splitlines()) == (1, told)


def test_a_server_that_speaks_no_http_is_told(tmp_path: Path) -> None:
    name = f"{NAME}-plain"
    up = srcip("lab", "up", "--name", name, "-f", manifest(tmp_path / "pod.yaml", {"srcip.io/mode": "tproxy"}))
    try:
        assert up.returncode == 0, up.stderr
        done = srcip("lab", "send", "--name", name, "--port", "8080", "--client", CLIENT, "--http")
        assert (done.returncode, done.stdout) == (1, "203.0.113.7 54321\n")
        assert "no complete HTTP response" in done.stderr
    finally:
        srcip("lab", "down", "--name", name)
