"""The images at work: each program within the strictest limits, and the proxy's whole data plane."""

import json
import os
import signal
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from srcip_lab import bpf
from srcip_lab import image as lab_image
from srcip_proxy.ebpf import cgroups, libbpf
from srcip_proxy.ebpf.exporter.run import NEEDED
from support.keypairs import pair, write
from support.reviews import body, pod
from support.rig import CLIENT4, CLIENT6, POD6, PORT, Rig, Seen, plan, v1, v2
from support.rig import start as start_pod

pytestmark = pytest.mark.images

START_LIMIT_S = 120
LIMITS = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True}
UID = f"{os.getpid():08d}-6cd9-4c5c-9a0a-5b9d1b5f7a10"
EXPORTER_PORT = 15520


def said(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and output of a container that ends by itself."""
    out, _ = process.communicate(timeout=START_LIMIT_S)
    return process.returncode, out


def test_the_proxy_image_starts_its_program_and_haproxy_is_3_0(finished: Callable[[str], Any], start: Any) -> None:
    proxy = finished("proxy")
    code, out = said(start(proxy))
    assert (code, out.partition("\n")[0]) == (0, "usage: srcip-proxy COMMAND")
    code, out = said(start(proxy, words=["haproxy", "-v"]))
    assert code == 0
    assert out.startswith("HAProxy version 3.0.")
    code, out = said(start(proxy, words=["srcip-proxy", "init"]))
    assert (code, "SRCIP_PLAN" in out) == (1, True)


def test_every_program_of_the_proxy_image_finds_its_libraries(finished: Callable[[str], Any], start: Any) -> None:
    """But for setpriv, which starts with NET_ADMIN only: the Pod below needs it."""
    for words in (
        ["nft", "--version"],
        ["ip", "-V"],
        ["python3", "-I", "-c", "import ssl"],
    ):
        code, out = said(start(finished("proxy"), words=words))
        assert code == 0, out


def test_the_programs_of_ebpf_mode_can_be_opened_by_the_loader(finished: Callable[[str], Any], start: Any) -> None:
    """ctypes, libbpf and all that they link to are there, and the object is one of BPF, with its maps."""
    code = (
        "from srcip_proxy.ebpf import attach, libbpf\n"
        "programs = libbpf.Object(attach.OBJECTS[0])\n"
        "programs.resize('conns', 7)\n"
        "programs.close()\n"
        "print('opened')\n"
    )
    assert said(start(finished("proxy"), words=["python3", "-I", "-c", code])) == (0, "opened\n")


def test_the_exporter_runs_in_the_shipped_image(finished: Callable[[str], Any], start: Any, tmp_path: Path) -> None:
    """With the chart's security context and the runtime's seccomp profile, libbpf and Python of the image: the counters
    of a Pod of this node. The image's signal to stop ends it."""
    root = Path("/sys/fs/cgroup")
    needed = {**LIMITS, "capabilities": {"drop": ["ALL"], "add": list(NEEDED)}}
    as_root = {**needed, "runAsNonRoot": False, "runAsUser": 0, "runAsGroup": 0}
    (tmp_path / "pods" / f"shop_web_{UID}").mkdir(parents=True)
    words = ["srcip-proxy", "ebpf", "exporter", f"--listen=127.0.0.1:{EXPORTER_PORT}"]
    words += ["--cgroups=/host/cgroup", "--pods=/host/pods"]
    mounts = [(root, "/host/cgroup", True), (tmp_path / "pods", "/host/pods", True)]
    with pod_with_programs(root):
        process = start(finished("proxy"), words=words, mounts=mounts, security=as_root)
        line = process.stdout.readline()
        assert "listening" in line, line + process.stdout.read()
        text = httpx.get(f"http://127.0.0.1:{EXPORTER_PORT}/metrics", trust_env=False).text
    assert 'srcip_refused_connections_total{namespace="shop",pod="web",reason="no_header"} 0\n' in text
    process.send_signal(signal.SIGUSR1)
    assert process.wait(10) == 0


@contextmanager
def pod_with_programs(root: Path) -> Iterator[None]:
    """A Pod's cgroup with the program that the exporter looks for."""
    top = cgroups.version_2(root)
    assert top, "needs cgroup v2"
    cgroup = top / f"pod{UID}"
    programs = libbpf.Object(bpf.compiled())
    programs.resize("conns", 1)
    programs.load()
    cgroup.mkdir()
    try:
        programs.attach_cgroup("srcip_peer4", cgroup, libbpf.GETPEERNAME4)
        yield
    finally:
        programs.close()
        cgroup.rmdir()


@pytest.mark.parametrize("lost", ["SYS_ADMIN", "SETUID"])
def test_the_exporter_names_what_the_container_lacks(finished: Callable[[str], Any], start: Any, lost: str) -> None:
    added = [name for name in NEEDED if name != lost]
    context = {**LIMITS, "capabilities": {"drop": ["ALL"], "add": added}, "runAsNonRoot": False, "runAsUser": 0}
    words = ["srcip-proxy", "ebpf", "exporter", "--cgroups=/sys", "--pods=/tmp"]
    code, out = said(start(finished("proxy"), words=words, security=context))
    assert code == 1
    assert f"CAP_{lost} is missing" in out
    assert "--cgroups /sys is not cgroup v2" in out


def test_certs_starts_and_names_what_is_missing(finished: Callable[[str], Any], start: Any) -> None:
    code, out = said(start(finished("certs")))
    assert code == 2
    assert "SRCIP_CERTS_NAMESPACE" in out
    assert "Traceback" not in out


def test_every_module_of_certs_can_be_imported(finished: Callable[[str], Any], start: Any) -> None:
    code = (
        "import importlib, pkgutil, srcip_certs\n"
        "names = [m.name for m in pkgutil.iter_modules(srcip_certs.__path__, 'srcip_certs.')]\n"
        "print(len([importlib.import_module(name) for name in names]) > 5)\n"
    )
    assert said(start(finished("certs"), words=["python3", "-I", "-c", code])) == (0, "True\n")


def test_certs_can_reach_for_the_kubernetes_api(finished: Callable[[str], Any], start: Any) -> None:
    """The client is whole without its asynchronous half: a refused connection is all that goes wrong."""
    code = (
        "import kubernetes.client, kubernetes.config, kubernetes.watch, kubernetes.dynamic, cryptography.x509\n"
        "c = kubernetes.client.Configuration(); c.host = 'http://127.0.0.1:9'; c.retries = 0\n"
        "api = kubernetes.client.CoreV1Api(kubernetes.client.ApiClient(c))\n"
        "try: api.read_namespaced_secret('a', 'b', _request_timeout=5)\n"
        "except Exception as e: print(type(e).__module__, type(e).__name__)\n"
    )
    status, out = said(start(finished("certs"), words=["python3", "-I", "-c", code]))
    assert (status, out) == (0, "urllib3.exceptions MaxRetryError\n")


def test_the_webhook_image_answers_reviews_over_tls(finished: Callable[[str], Any], start: Any, tmp_path: Path) -> None:
    """Ready with its certificate; an AdmissionReview gets a patch; SIGTERM ends it."""
    tls = tmp_path / "tls"
    tls.mkdir(mode=0o755)
    certificate, key = pair("webhook")
    write(tls, certificate, key)
    settings = {
        "SRCIP_PROXY_IMAGE": "srcip/proxy:1",
        "SRCIP_LISTEN_ADDRESS": "127.0.0.1",
        "SRCIP_LISTEN_PORT": "0",
    }
    process = start(finished("webhook"), env=settings, mounts=[(tls, "/etc/srcip/tls", True)])
    context = ssl.create_default_context(cadata=certificate.decode())
    with httpx.Client(base_url=f"https://localhost:{port(process)}", verify=context, trust_env=False) as client:
        assert client.get("/readyz").status_code == 200
        answer = client.post("/mutate", content=body(pod()), headers={"content-type": "application/json"}).json()
    assert answer["response"]["allowed"] is True
    assert answer["response"]["patchType"] == "JSONPatch"
    process.terminate()
    assert process.wait(10) in (0, 128 + 15)


def port(process: subprocess.Popen[str]) -> int:
    """The port in the webhook's log line."""
    for line in process.stdout or ():
        if '"listening"' in line:
            return int(json.loads(line)["port"])
    raise AssertionError(f"the webhook ended with {process.wait()}")


@pytest.fixture(scope="module")
def shipped(finished: Callable[[str], Any]) -> Any:
    """A running Pod whose init container and sidecar run in the shipped image's root file system."""
    with pytest.MonkeyPatch.context() as patch:
        rootfs = finished("proxy").rootfs
        patch.setattr(lab_image, "proxy_rootfs", lambda: rootfs)
        lab = start_pod(plan(), ("::", str(PORT)))
        yield Rig(lab)
        lab.down()


@pytest.mark.parametrize("header", [v1, v2])
def test_the_application_sees_the_client_through_the_shipped_proxy(shipped: Rig, header: Any) -> None:
    assert shipped.seen(header() + b"x") == Seen(CLIENT4, b"x", "open")
    assert shipped.seen(header(CLIENT6) + b"x", to=POD6) == Seen(CLIENT6, b"x", "open")


def test_a_forger_gets_nowhere_through_the_shipped_proxy(shipped: Rig) -> None:
    seen = shipped.seen(v2() + b"x", host=shipped.lab.other)
    assert seen.peer is not None
    assert seen.peer[0] == "10.77.2.2"
    assert seen.rest == v2() + b"x"


def test_the_self_check_holds_in_the_shipped_image(shipped: Rig) -> None:
    done = shipped.lab.exec("srcip-proxy", ["srcip-proxy", "check"], capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert shipped.get("/readyz")[0] == 200


def test_the_shipped_sidecar_holds_one_capability(shipped: Rig) -> None:
    """NET_RAW (bit 13), as user 7363, unable to gain more."""
    status = sidecar_status(shipped)
    assert status["Uid"].split() == ["7363"] * 4
    assert int(status["CapPrm"], 16) == int(status["CapBnd"], 16) == 1 << 13


def sidecar_status(shipped: Rig) -> dict[str, str]:
    code = "print(open('/proc/1/status').read())"
    done = shipped.lab.exec("srcip-proxy", ["python3", "-I", "-c", code], capture_output=True)
    return dict(line.split(":", 1) for line in done.stdout.splitlines() if ":" in line)
