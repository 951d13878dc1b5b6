"""Outgoing requests as Pods come and go: Jobs, a sidecar that dies, and Pods that no webhook sees."""

import json
import re
from functools import partial
from pathlib import Path

import pytest
import yaml

from srcip_e2e.cluster import clients, sidecar
from srcip_e2e.cluster.apps import APPS_IMAGE
from srcip_e2e.cluster.clients import CURL
from srcip_e2e.cluster.kube import Kube, Object, eventually, ip
from srcip_e2e.cluster.site import Edge, Site
from srcip_e2e.cluster.workloads import WEB_PORTS, App, alone, job, outbound, pod, tproxy
from srcip_e2e.images.recipe import reference

pytestmark = pytest.mark.cluster
DOCS = Path(__file__).parents[2] / "docs" / "outbound-command.md"
PORT = WEB_PORTS["http-api"]
ONCE = {"ports": [], "readinessProbe": None}
"""A container that serves nobody."""
ASKED = {"mode": "redirect", **outbound(str(PORT), "X-Team: shop")}


def manifest(number: int, name: str) -> Object:
    """A Pod of docs/outbound-command.md; the webhook leaves it alone, as it has no annotation."""
    blocks = re.findall(r"^```yaml\n(.*?)^```$", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    spec = yaml.safe_load(blocks[number])["spec"]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {**spec, "restartPolicy": "Never"}}


COMMAND = ["srcip-proxy", "outbound", "-P", "80", "-P", str(PORT), "-H", "X-Team:shop", "-N", "8.8.8.8"]
COMMAND += ["--Set-Forwarded-For", "default", "--Set-Client-Hostname", "default"]
REQUEST = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 5) as server:
    server.sendall(b"GET / HTTP/1.1\\r\\nHost: e2e\\r\\nX-Team: other\\r\\nConnection: close\\r\\n\\r\\n")
    print(b"".join(iter(lambda: server.recv(65536), b"")).decode())
sys.exit(3)
"""


LATE = """
import signal, sys, time, urllib.request

def leave(*_):
    time.sleep(1)
    print(urllib.request.urlopen(sys.argv[1], timeout=60).read().decode(), flush=True)
    time.sleep(3)
    sys.exit()

signal.signal(signal.SIGTERM, leave)
print("begun", flush=True)
signal.pause()
"""


@pytest.fixture(scope="module")
def begun(shared_kube: Kube, outside: tuple[str, ...]) -> Kube:
    """A Job and both Pods of docs/outbound-command.md, each of which sends its requests and ends; and one that does not
    end by itself."""
    curl = (*CURL, *(clients.url(host, PORT) for host in outside))
    once = App("once", curl, annotations=ASKED, container=ONCE)
    beside, within = manifest(0, "beside"), manifest(1, "within")
    beside["spec"]["initContainers"][0] |= {"image": reference("proxy"), "command": COMMAND}
    beside["spec"]["containers"][0] |= pod(App("app", curl, container=ONCE))["spec"]["containers"][0]
    runs = [*COMMAND, "--", "python3", "-I", "-c", REQUEST, outside[0], str(PORT)]
    within["spec"]["containers"][0] |= {"image": reference("proxy"), "command": runs}
    first = {"name": "first", "image": APPS_IMAGE, "command": list(curl)}
    command = ("python3", "-c", LATE, clients.url(outside[0], PORT))
    late = App("late", command, annotations=ASKED, container=ONCE, pod={"initContainers": [first]})
    shared_kube.apply(job(once), beside, within, pod(late))
    return shared_kube


def test_a_job_without_ports_sends_its_first_request_with_headers(begun: Kube, outside: tuple[str, ...]) -> None:
    """It declares no port and trusts nobody; it completes, and its sidecar, which has no capability, with it."""
    begun.wait("condition=Complete", "job/once")
    (found,) = begun.pods("app=once", ready=False)
    proxy = found["spec"]["initContainers"][1]
    assert (proxy["name"], proxy["securityContext"]["capabilities"]) == ("srcip-proxy", {"drop": ["ALL"]})
    assert found["status"]["phase"] == "Succeeded"
    assert_told(begun.logs(found["metadata"]["name"]), found, len(outside))


def test_the_command_as_a_sidecar(begun: Kube, outside: tuple[str, ...]) -> None:
    """The page's manifest but for images and words: the application's first request has its headers already."""
    begun.wait("jsonpath={.status.phase}=Succeeded", "pod/beside")
    assert_told(begun.logs("beside"), begun.get("pod", "beside"), len(outside))


def test_the_command_in_one_container(begun: Kube) -> None:
    """The command runs the application, whose requests have the headers and whose exit code is the container's."""
    begun.wait("jsonpath={.status.phase}=Failed", "pod/within")
    found = begun.get("pod", "within")
    assert found["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 3
    assert_told(begun.logs("within"), found, 1)


def assert_told(log: str, of: Object, times: int) -> None:
    """The server outside was told whose requests these are, and the Pod printed its answers."""
    answers = [json.loads(line)["headers"] for line in log.splitlines() if line.startswith("{")]
    own = {"x-forwarded-for": ip(of), "x-client-hostname": of["metadata"]["name"], "x-team": "shop"}
    for told in answers:
        assert sorted((name, value) for name, value in told if name.lower() in own) == sorted(own.items())
    assert len(answers) == times


def test_the_first_and_the_last_request_of_a_pod_have_headers(begun: Kube, outside: tuple[str, ...]) -> None:
    """An init container of the user's comes after the sidecar, and an application that takes its leave before."""
    eventually(partial(printed, begun, "late", "begun"), "the application")
    of = begun.get("pod", "late")
    assert_told(begun.logs("late", "first"), of, len(outside))
    begun("delete", "pod", "late", "--wait=false")
    assert_told(eventually(partial(printed, begun, "late", "{"), "its last request", every_s=0.1), of, 1)


LOOP = """
import http.client, json, sys, time
counts = dict.fromkeys(("good", "wrong", "refused", "lost", "after"), 0)
while counts["after"] < 20:
    client = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=60)
    try:
        client.request("GET", "/")
        seen = json.loads(client.getresponse().read())
        good = ["x-team", "shop"] in seen["headers"]
        counts["wrong" if not good else "after" if counts["refused"] else "good"] += 1
    except ConnectionRefusedError:
        counts["refused"] += 1
    except (OSError, http.client.HTTPException):
        counts["lost"] += 1
    client.close()
    if sum(counts.values()) == 50:
        print("begun", flush=True)
    time.sleep(0.01)
print(json.dumps(counts), flush=True)
time.sleep(60)
"""


def test_while_the_sidecar_is_down_no_request_leaves_without_headers(
    cluster: Site, shared_kube: Kube, edge: Edge, outside: tuple[str, ...]
) -> None:
    """It is killed under requests: connections are refused until it is back, and none arrives without its headers."""
    command = ("python3", "-c", LOOP, outside[0], str(PORT))
    both = ASKED | tproxy(trusted_cidrs=alone(*edge.host.ips))
    loops = (
        App("alone", command, annotations=ASKED, container=ONCE),
        App("both", command, annotations=both, container={"readinessProbe": None}),
    )
    shared_kube.apply(*(pod(each) for each in loops))
    for name in ("alone", "both"):
        eventually(partial(printed, shared_kube, name, "begun"), "requests")
        sidecar.kill(cluster, shared_kube, name)
    for name in ("alone", "both"):
        counts = json.loads(eventually(partial(printed, shared_kube, name, "{"), "requests after that"))
        assert (counts["wrong"], counts["refused"] > 0) == (0, True)
        assert sidecar.restarts(shared_kube, name) == 1


def printed(kube: Kube, name: str, word: str) -> str:
    """The line of the application's log that begins so; empty if there is none yet."""
    lines = kube.try_("logs", name, "--container=app").out.splitlines()
    return next((line for line in lines if line.startswith(word)), "")
