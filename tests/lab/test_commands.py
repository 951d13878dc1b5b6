"""`srcip lab` and `srcip demo` as a person calls them: with the real webhook and the real data plane."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.lab.conftest import brought_up, container, manifest, pod, srcip

from srcip_lab.lab import names

pytestmark = pytest.mark.dataplane
NAME = f"cli-{os.getpid()}"
READS = """
import socket
server = socket.create_server(("::", 8081), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    connection, peer = server.accept()
    got = b""
    while piece := connection.recv(999):
        got += piece
    connection.sendall(peer[0].encode() + b" " + repr(got).encode())
    connection.close()
"""
"""Answers when the request has ended."""


def lab(*args: str) -> subprocess.CompletedProcess[str]:
    return srcip("lab", args[0], "--name", NAME, *args[1:])


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A lab that is up, as `up --json` tells it."""
    reads = container("reads", READS, ports=[{"containerPort": 8081}])
    path = manifest(tmp_path_factory.mktemp("lab") / "pod.yaml", {"srcip.io/mode": "tproxy"}, container(), reads)
    with brought_up(path, NAME) as told:
        yield told


def test_up_tells_namespaces_addresses_and_containers(facts):
    for part in ("lb", "other", "pod"):
        assert Path("/run/netns", facts[part]["netns"]).exists()
        shown = subprocess.run(["ip", "-n", facts[part]["netns"], "-j", "address"], capture_output=True, check=True)
        found = {each["local"] for link in json.loads(shown.stdout) for each in link["addr_info"]}
        assert set(facts[part]["ips"]) <= found
    assert list(facts["containers"]) == ["srcip-init", "srcip-proxy", "app", "reads"]
    assert Path("/proc", str(facts["containers"]["app"]["pid"])).exists()
    assert "listening" in Path(facts["containers"]["app"]["log"]).read_text()
    assert facts["webhook"] == {"allowed": True, "patched": True, "warnings": facts["webhook"]["warnings"]}


def test_the_sidecar_has_net_raw_and_nothing_else(facts):
    status = Path("/proc", str(facts["containers"]["srcip-proxy"]["pid"]), "status").read_text()
    lines = dict(line.split(":\t", 1) for line in status.splitlines())
    net_raw = f"{1 << 13:016x}"
    assert [lines[key] for key in ("CapBnd", "CapEff", "CapInh", "NoNewPrivs")] == [net_raw, net_raw, "0" * 16, "1"]
    assert lines["Uid"].split() == ["7363"] * 4
    assert lines["Seccomp"] == "2"


@pytest.mark.parametrize("form", [[], ["--v1"], ["--v2"], ["--v2", "--ipv6"]])
@pytest.mark.parametrize("client", ["203.0.113.7:54321", "[2001:db8::7]:54321"])
def test_send_from_the_balancer_arrives_as_the_client(facts, form, client):
    done = lab("send", "--client", client, "--port", "8080", *form)
    assert (done.stdout.strip(), done.returncode) == (client.strip("[").replace("]:", " ").replace("7:5", "7 5"), 0)
    assert "closed the connection" in done.stderr


def test_send_from_another_host_arrives_as_that_host(facts):
    done = lab("send", "--client", "203.0.113.7:54321", "--port", "8080", "--from", "other")
    assert done.stdout.split()[0] == facts["other"]["ips"][0]


def test_send_says_when_it_is_refused(facts):
    done = lab("send", "--no-header", "--data", "hello", "--port", "8080")
    assert (done.returncode, done.stdout) == (1, "")
    assert "reset" in done.stderr or "closed" in done.stderr


def test_send_says_when_nothing_listens(facts):
    done = lab("send", "--no-header", "--port", "9999", "--from", "other")
    assert (done.returncode, done.stdout, done.stderr.strip()) == (1, "", "the connection was refused")


def test_send_passes_bytes_and_data_as_they_are(facts):
    header = b"PROXY TCP4 192.0.2.9 10.77.3.2 1234 8081\r\n"
    done = lab("send", "--hex", header.hex(" "), "--data", r"a\r\n\x00b", "--port", "8081", "--json")
    told = json.loads(done.stdout)
    assert told["answer"].split(maxsplit=1) == ["::ffff:192.0.2.9", r"b'a\r\n\x00b'"]
    assert told["sent"] == (header + b"a\r\n\x00b").hex()
    assert (told["end"], told["from"][0]) == ("closed", facts["lb"]["ips"][0])


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--client", "nobody"], "--client: 'nobody'"),
        ([], "--client is missing"),
        (["--hex", "abc"], "--hex"),
        (["--no-header", "--data", "\\x1"], "--data"),
    ],
)
def test_send_names_the_option_that_is_wrong(facts, options, word):
    done = lab("send", "--port", "8080", *options)
    assert done.returncode == 1
    assert word in done.stderr and "Traceback" not in done.stderr


def test_logs_are_printed_alone_or_with_their_containers_name(facts):
    assert lab("logs", "app").stdout.splitlines()[0] == "listening"
    assert "app: listening" in lab("logs").stdout.splitlines()
    assert "srcip-proxy, app" in lab("logs", "nobody").stderr


def test_status_tells_what_runs(facts):
    told = json.loads(lab("status", "--json").stdout)
    assert told["containers"]["app"]["state"] == "running"
    assert "app: runs, pid" in lab("status").stdout


def test_a_refusal_prints_every_reason(tmp_path):
    annotations = {"srcip.io/mode": "other", "srcip.io/inbound-ports": "80-79", "srcip.io/header-timeout": "soon"}
    done = srcip("lab", "up", "--name", f"{NAME}-no", "-f", manifest(tmp_path / "pod.yaml", annotations))
    assert done.returncode == 1
    assert all(word in done.stderr for word in ("other", "80-79", "soon")) and "Traceback" not in done.stderr
    assert f"{NAME}-no" not in names()


def test_the_pods_own_trust_goes_before_the_labs(tmp_path):
    annotations = {"srcip.io/mode": "tproxy", "srcip.io/trusted-cidrs": "10.77.2.0/24"}
    name = f"{NAME}-own"
    try:
        done = srcip("lab", "up", "--name", name, "-f", manifest(tmp_path / "pod.yaml", annotations))
        assert done.returncode == 0, done.stderr
        send = ["lab", "send", "--name", name, "--client", "203.0.113.7:1", "--port", "8080", "--from"]
        assert srcip(*send, "other").stdout.split()[0] == "203.0.113.7"
        assert srcip(*send, "lb").stdout.split()[0] == "10.77.1.2"
    finally:
        srcip("lab", "down", "--name", name)


def test_a_deployment_from_standard_input_without_ipv6():
    template = {"metadata": {"annotations": {"srcip.io/mode": "tproxy"}}, "spec": pod()["spec"]}
    workload = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "w"},
        "spec": {"template": template},
    }
    name = f"{NAME}-dep"
    app = json.loads(
        json.dumps(workload)
        .replace("::ffff:", "")
        .replace('\\"::\\"', '\\"\\"')
        .replace(", family=socket.AF_INET6, dualstack_ipv6=True", "")
    )
    try:
        done = srcip("lab", "up", "--name", name, "--no-ipv6", "--json", "-f", "-", stdin=json.dumps(app))
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["pod"]["ips"] == ["10.77.3.2"]
        sent = srcip("lab", "send", "--name", name, "--client", "203.0.113.7:54321", "--port", "8080")
        assert sent.stdout.strip() == "203.0.113.7 54321"
    finally:
        srcip("lab", "down", "--name", name)


def test_down_twice_is_no_error():
    assert lab("down", "--name", "never-was").stdout == "lab never-was: does not exist\n"


def test_the_demonstration_keeps_its_promises_and_leaves_nothing():
    before = names()
    done = srcip("demo", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["ok"]) == (0, True), done.stderr
    saw = {step["name"]: step["saw"] for step in told["steps"]}
    assert saw["before"].startswith("10.77.1.2:") and saw["after"] == "203.0.113.7:54321"
    assert saw["forged"].startswith("10.77.2.2:") and saw.get("ipv6", "[2001:db8::7]:54321") == "[2001:db8::7]:54321"
    assert names() == before


def test_the_demonstration_reads_well():
    done = srcip("demo")
    assert done.stdout.count("✓") in (3, 4) and "✗" not in done.stdout
