"""`srcip lab` with srcip.io/mode: ebpf: the real init container attaches the programs to the Pod's own cgroup."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.lab.conftest import annotated, brought_up, container, manifest, pod, srcip

from srcip_lab import cgroup, image, places, programs
from srcip_lab.errors import LabError
from srcip_lab.lab import Lab, names
from srcip_lab.plan_pod import IMAGE
from srcip_lab.state import wait_until
from srcip_proxy.plan import CGROUP_MOUNT
from srcip_webhook.names import CGROUP
from support.ebpf_rig import needs_root
from support.waiting import DEADLINE_S

pytestmark = [pytest.mark.dataplane, pytest.mark.usefixtures("possible")]
NAME = f"ebpf-{os.getpid()}"
WEB = """
import http.server, socket, socketserver
class Peer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.client_address[0].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
class Server(socketserver.TCPServer):
    address_family, allow_reuse_address = socket.AF_INET6, True
Server(("::", 8081), Peer).serve_forever()
"""
"""Answers with the client's address."""
LOOK = """
import os
print(os.getuid(), os.statvfs("/host/cgroup").f_flag & os.ST_RDONLY, flush=True)
print(open("/proc/self/status").read())
"""
BPF, NET_ADMIN = 1 << 39, 1 << 12
ACCEPTED = 'srcip_accepted_connections_total{header="proxy"}'
NO_HEADER = 'srcip_refused_connections_total{reason="no_header"}'


@pytest.fixture(scope="module")
def possible() -> None:
    needs_root()


def lab(*args: str, name: str = NAME) -> subprocess.CompletedProcess[str]:
    return srcip("lab", args[0], "--name", name, *args[1:])


def seen(client: str = "203.0.113.7:54321", *options: str, name: str = NAME) -> str:
    """What the application says to one connection of the balancer's."""
    return lab("send", "--client", client, "--port", "8080", *options, name=name).stdout.strip()


def counters(name: str = NAME) -> dict[str, int]:
    told = json.loads(lab("status", "--json", name=name).stdout)["programs"]["counters"]
    return {key: value for key, value in told.items() if value}


@pytest.fixture(scope="module")
def facts(possible: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A lab in ebpf mode that is up, as `up --json` tells it."""
    web = container("web", WEB, ports=[{"containerPort": 8081}])
    path = manifest(tmp_path_factory.mktemp("lab") / "pod.yaml", {"srcip.io/mode": "ebpf"}, container(), web)
    with brought_up(path, NAME) as told:
        yield told


def test_up_tells_that_the_programs_are_attached_and_no_sidecar_runs(facts):
    assert list(facts["containers"]) == ["srcip-init", "app", "web"]
    assert facts["containers"]["srcip-init"]["exit_code"] == 0
    assert (facts["programs"]["attached"], facts["warnings"]) == (True, [])


def test_every_container_runs_in_the_pods_cgroup_and_so_does_what_enters_it(facts):
    """The directory is named as kubelet names it, by the Pod's UID."""
    current = Lab(NAME)
    own = Path(facts["programs"]["cgroup"])
    assert own.match(f"srcip-lab-{NAME}/kubepods/burstable/pod{current.manifest['metadata']['uid']}")
    for name in ("app", "web"):
        inside = (own / name / "cgroup.procs").read_text().split()
        assert str(facts["containers"][name]["pid"]) in inside
    entered = current.exec("app", ["cat", "/proc/self/cgroup"], capture_output=True).stdout.splitlines()[-1]
    assert entered == f"0::/{'/'.join(own.parts[-4:])}/app"


@pytest.mark.parametrize("form", [[], ["--v1"], ["--ipv6"]])
@pytest.mark.parametrize("client", ["203.0.113.7:54321", "[2001:db8::7]:54321"])
def test_the_application_sees_the_client(facts, form, client):
    assert seen(client, *form) == client.strip("[").replace("]:", " ").replace("7:5", "7 5")


def test_an_http_server_sees_the_client(facts):
    done = lab("send", "--client", "203.0.113.7", "--port", "8081", "--http", "--json")
    assert json.loads(done.stdout)["response"]["body"] == "::ffff:203.0.113.7"


def test_a_host_that_is_not_trusted_is_seen_as_itself(facts):
    assert seen("203.0.113.7:54321", "--from", "other").split()[0] == facts["other"]["ips"][0]


def test_a_refused_header_is_reset_and_counted_in_the_status(facts):
    before = counters()
    done = lab("send", "--no-header", "--data", "hello", "--port", "8080")
    assert (done.returncode, done.stdout, "reset" in done.stderr) == (1, "", True)
    assert seen() == "203.0.113.7 54321"
    after = counters()
    assert {key: after[key] - before.get(key, 0) for key in (NO_HEADER, ACCEPTED)} == {NO_HEADER: 1, ACCEPTED: 1}
    assert f"  {NO_HEADER} {after[NO_HEADER]}\n" in lab("status").stdout


def test_the_log_of_the_init_container_says_what_it_did(facts):
    assert re.search(rf"attached to eth0 \((tcx|clsact)\) and {CGROUP_MOUNT}/", lab("logs", "srcip-init").stdout)


def test_a_container_that_starts_again_sees_clients_as_before(facts):
    """Its new processes are in the Pod's cgroup, too, and the init container does not run again."""
    current = Lab(NAME)
    current.kill("app")
    current.wait_started("app")
    assert wait_until(lambda: current.log("app").count("listening") == 2, DEADLINE_S)
    assert seen() == "203.0.113.7 54321"
    assert (current.container("app").restarts, current.container("srcip-init").restarts) == (1, 0)


def test_the_init_container_has_exactly_what_the_pod_says():
    """uid 7363, BPF and NET_ADMIN by the image's file capabilities, seccomp, the node's cgroups read-only."""
    context = {
        "runAsUser": 7363,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"], "add": ["BPF", "NET_ADMIN"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    mounts = [{"name": CGROUP, "mountPath": CGROUP_MOUNT, "readOnly": True}]
    init = container("init", LOOK, image=IMAGE, securityContext=context, volumeMounts=mounts)
    volumes = [{"name": CGROUP, "hostPath": {"path": str(cgroup.MOUNT)}}]
    with Lab.up_pod(pod(initContainers=[init], volumes=volumes)) as current:
        first, *status = current.log("init").splitlines()
    said = dict(line.split(":\t", 1) for line in status if ":\t" in line)
    assert first.split() == ["7363", str(os.ST_RDONLY)]
    held = {key: int(said[key], 16) for key in ("CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb")}
    assert held == {"CapBnd": BPF | NET_ADMIN, "CapPrm": BPF | NET_ADMIN, "CapEff": 0, "CapInh": 0, "CapAmb": 0}
    assert (said["NoNewPrivs"], said["Seccomp"]) == ("1", "2")


def test_labs_of_one_manifest_have_pods_of_their_own():
    """Each Pod has a UID of its own, as from the API server, even where the manifest brings one."""
    with Lab.up(annotated("ebpf")) as one, Lab.up(annotated("ebpf")) as two:
        assert cgroup.of_pod(one.name).name != cgroup.of_pod(two.name).name
        assert seen(name=one.name) == seen(name=two.name) == "203.0.113.7 54321"
        assert [sum(programs.counters(each.name, each.pod).values()) for each in (one, two)] == [1, 1]


def test_the_agents_way_needs_no_privilege_in_the_pod(clean_lab):
    """The lab runs the real agent for a Pod that wants one; it ends with the lab."""
    current = Lab.up(annotated("ebpf", **{"srcip.io/privilege": "agent"}), name=clean_lab)
    assert list(current.containers) == ["srcip-init", "app"]
    (gate,) = current.manifest["spec"]["initContainers"]
    assert gate["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert "programs are attached by this node's agent" in current.log("srcip-init")
    assert '"event":"attached"' in current.directory.log("srcip-agent").read_text()
    assert seen(name=current.name) == "203.0.113.7 54321"


def test_with_tproxy_as_second_choice_the_programs_work_and_the_sidecar_idles():
    with Lab.up(annotated("ebpf,tproxy")) as current:
        assert list(current.containers) == ["srcip-init", "srcip-proxy", "app"]
        assert "the sidecar is inactive" in current.log("srcip-init")
        assert seen(name=current.name) == "203.0.113.7 54321"
        assert counters(current.name) == {ACCEPTED: 1}


@pytest.fixture
def without_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that lacks the programs: what the init container needs is not there, on any machine."""
    monkeypatch.delenv(places.ROOTFS, raising=False)
    monkeypatch.setenv(places.ROOTFS, str(image.proxy_rootfs()))


def test_what_is_missing_is_told_in_the_init_containers_words(without_programs, clean_lab):
    with pytest.raises(LabError) as caught:
        Lab.up(annotated("ebpf"), name=clean_lab)
    first, second, _ = caught.value.errors
    assert first == "init container srcip-init: exit code 1"
    assert "srcip.bpf.o is missing: use the image of srcip-proxy unchanged" in second
    assert clean_lab not in names() and cgroup.of_pod(clean_lab) is None


def test_tproxy_takes_over_where_something_is_missing(without_programs, clean_lab):
    """The log has the reason, the status says that nothing is attached, and the client is seen all the same."""
    current = Lab.up(annotated("ebpf,tproxy"), name=clean_lab)
    assert "this node does not support ebpf mode, using tproxy mode:" in current.log("srcip-init")
    assert current.facts()["programs"]["counters"] is None
    assert (
        "programs: not attached; see the log of the init container: srcip lab "
        "logs" in lab("status", name=clean_lab).stdout
    )
    assert seen(name=clean_lab) == "203.0.113.7 54321"


def test_without_root_up_says_what_to_do(tmp_path, clean_lab):
    """From inside a user namespace, which is where a lab without root is."""
    path = manifest(tmp_path / "pod.yaml", {"srcip.io/mode": "ebpf"})
    command = [sys.executable, "-m", "srcip_webhook.cli", "lab", "up", "--name", clean_lab, "-f", path]
    inside = ["unshare", "--user", "--map-root-user", *command]
    done = subprocess.run(inside, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("srcip.io/mode: ebpf needs root: from a user namespace")
    assert "ebpf,tproxy" in done.stderr and clean_lab not in names()


def test_the_client_of_a_tcp_option_is_seen_and_one_without_is_refused(clean_lab):
    """`send --toa` is the balancer, over both versions of IP; nobody believes it from another host."""
    current = Lab.up(annotated("ebpf", **{"srcip.io/client-from": "toa"}), name=clean_lab)
    assert seen("203.0.113.7:54321", "--toa", name=clean_lab) == "203.0.113.7 54321"
    assert seen("[2001:db8::7]:54321", "--toa", "--ipv6", name=clean_lab) == "2001:db8::7 54321"
    assert seen("203.0.113.7:54321", "--toa", "--from", "other", name=clean_lab).split()[0] == current.other.ipv4
    assert lab("send", "--no-header", "--data", "x", "--port", "8080", name=clean_lab).returncode == 1
    no_option = 'srcip_refused_connections_total{reason="no_option"}'
    assert counters(clean_lab) == {'srcip_accepted_connections_total{header="toa"}': 2, no_option: 1}


def test_a_tcp_option_needs_a_client_too(facts):
    done = lab("send", "--toa", "--port", "8080")
    assert (done.returncode, done.stderr.count("--client is missing")) == (1, 1)
