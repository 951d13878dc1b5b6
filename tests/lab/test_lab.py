"""Real containers in a real network namespace: what the lab's kubelet does."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.lab.conftest import container, peer, pod

from srcip_lab import image, namespace
from srcip_lab.errors import LabError
from srcip_lab.lab import Lab, down, names
from srcip_lab.plan_pod import IMAGE
from srcip_lab.state import Process, wait_until
from support.waiting import DEADLINE_S

pytestmark = pytest.mark.dataplane
REPORT = """
import json, os
facts = {"uid": os.getuid(), "cwd": os.getcwd(), "host": os.uname().nodename, "pid": os.getpid()}
print(json.dumps({**facts, "env": dict(os.environ), "status": open("/proc/self/status").read()}), flush=True)
"""
STAY = "import time; time.sleep(600)"
RESTRICTED = {
    "runAsUser": 7363,
    "runAsGroup": 7363,
    "runAsNonRoot": True,
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def capability_sets(status: str) -> dict[str, int]:
    """CapBnd and its like of a /proc/PID/status text."""
    return {line[:6]: int(line.split()[1], 16) for line in status.splitlines() if line.startswith("Cap")}


def test_an_application_runs_and_sees_its_peers():
    with Lab.up_pod(pod()) as lab:
        assert lab.container("app").ready
        assert peer(lab, lab.pod.ipv4).split()[0] == lab.lb.ipv4
        assert lab.pod.ipv6 is None or peer(lab, lab.pod.ipv6, sender="other").split()[0] == lab.other.ipv6
    assert lab.name not in names()
    assert not any(host.path.exists() for host in lab.network.hosts())


def test_a_container_gets_its_environment_user_directory_and_namespaces():
    env = [{"name": "IPS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}}]
    app = container(code=f"{REPORT}\n{STAY}", workingDir="/usr", env=env, securityContext={"runAsUser": 65534})
    with Lab.up_pod(pod(app)) as lab:
        assert wait_until(lambda: lab.log("app").endswith("\n"), DEADLINE_S)
        said = json.loads(lab.log("app"))
        assert (said["uid"], said["cwd"], said["host"], said["pid"]) == (65534, "/usr", "web", 1)
        assert said["env"]["IPS"] == ",".join(lab.pod.ips)


def test_a_container_of_the_image_has_exactly_its_capabilities():
    """uid 7363, NET_ADMIN in the bounding set alone, permitted by the file capability, no new privileges, seccomp."""
    init = container("init", REPORT, image=IMAGE, securityContext=RESTRICTED)
    with Lab.up_pod(pod(initContainers=[init])) as lab:
        said = json.loads(lab.log("init"))
        sets, net_admin = capability_sets(said["status"]), 1 << 12
        assert said["uid"] == 7363
        assert sets == {"CapInh": 0, "CapPrm": net_admin, "CapEff": 0, "CapBnd": net_admin, "CapAmb": 0}
        assert "NoNewPrivs:\t1" in said["status"] and "Seccomp:\t2" in said["status"]


def test_the_image_is_read_only_and_holds_the_current_package():
    code = (
        "import os, srcip_proxy.plan as p\n"
        "print(p.__file__, os.access('/usr', os.W_OK), open('/etc/os-release').read())"
    )
    with Lab.up_pod(pod(initContainers=[container("init", code, image=IMAGE)])) as lab:
        path, writable, release = lab.log("init").split(maxsplit=2)
        assert path.startswith("/usr/lib/python3/dist-packages/srcip_proxy/") and writable == "False"
        assert "trixie" in release
    assert image.haproxy_version(image.proxy_rootfs()) >= "3.0"


def test_init_containers_and_sidecars_start_in_order_before_the_applications():
    """The second init container finds what the first wrote, and the sidecar answers already."""
    volume = {"volumeMounts": [{"name": "run", "mountPath": "/run/srcip"}], "image": IMAGE}
    serve = (
        "import socket, time; time.sleep(.3); server = socket.create_server(('', 15320))\n"
        "while True: c, _ = server.accept(); c.recv(999); c.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\n'); c.close()"
    )
    sidecar = container("sidecar", serve, restartPolicy="Always", **volume)
    sidecar["startupProbe"] = {"httpGet": {"path": "/", "port": 15320}}
    check = (
        "import socket, os; socket.create_connection(('127.0.0.1', 15320)); "
        "s = os.statvfs('/run/srcip'); print(open('/run/srcip/x').read(), s.f_blocks * s.f_frsize)"
    )
    inits = [
        container("one", "open('/run/srcip/x', 'w').write('hello')", **volume),
        sidecar,
        container("two", check, **volume),
    ]
    volumes = [{"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "4Mi"}}]
    with Lab.up_pod(pod(initContainers=inits, volumes=volumes)) as lab:
        assert lab.log("two").split() == ["hello", str(4 << 20)]
        assert [status.exit_code for status in lab.containers.values()] == [0, None, 0, None]
        assert "srcip-lab" not in Path("/proc/mounts").read_text()


def test_an_init_container_that_fails_ends_up_with_its_last_words():
    before = own_labs()
    with pytest.raises(LabError, match="init container one: exit code 3") as caught:
        Lab.up_pod(pod(initContainers=[container("one", "print('no module'); raise SystemExit(3)")]))
    assert "  no module" in caught.value.errors
    assert own_labs() == before


def own_labs() -> set[str]:
    """Labs of this process; other tests may keep theirs."""
    return {name for name in names() if name.startswith(f"p{os.getpid()}-")}


def test_a_command_that_is_not_there_is_named():
    with pytest.raises(LabError, match="nosuchprogram"):
        Lab.up_pod(pod(container(command=["nosuchprogram"])))


def test_everything_wrong_with_the_containers_is_told_at_once():
    broken = [{"name": "a", "image": "nginx"}, container("b", securityContext={"runAsNonRoot": True})]
    with pytest.raises(LabError) as caught:
        Lab.up_pod(pod(*broken))
    assert [error.split(":")[0] for error in caught.value.errors] == ["container a", "container b"]


def test_a_killed_sidecar_starts_again_and_a_held_one_waits():
    sidecar = container("sidecar", restartPolicy="Always")
    with Lab.up_pod(pod(container(code=STAY), initContainers=[sidecar])) as lab:
        first = lab.container("sidecar").process
        lab.kill("sidecar")
        lab.wait_started("sidecar")
        assert lab.container("sidecar").process != first
        lab.kill("sidecar", hold=True)
        time.sleep(0.2)
        assert (lab.container("sidecar").state, lab.container("sidecar").exit_code) == ("terminated", 137)
        lab.release("sidecar")
        assert lab.container("sidecar").restarts == 2


def test_an_application_that_ends_is_started_again_as_its_pod_says():
    for policy, state in (("Never", "terminated"), ("Always", "running")):
        with Lab.up_pod(pod(container(code=STAY), restartPolicy=policy)) as lab:
            lab.kill("app")
            assert wait_until(lambda lab=lab, state=state: lab.container("app").state == state, DEADLINE_S)
            assert lab.container("app").restarts == (policy == "Always")


def test_down_gives_containers_their_stop_signal_and_the_image_its_own():
    told = (
        "import signal, time\n"
        "signal.signal(signal.SIG{0}, lambda *_: (print('{0}', flush=True), exit()))\n"
        "print('on', flush=True)\ntime.sleep(60)"
    )
    sidecar = container("sidecar", told.format("USR1"), image=IMAGE, restartPolicy="Always")
    lab = Lab.up_pod(pod(container(code=told.format("TERM")), initContainers=[sidecar]))
    assert wait_until(lambda: lab.log("app") and lab.log("sidecar"), DEADLINE_S)
    paths = [Path(lab.container(name).log) for name in ("app", "sidecar")]
    with paths[0].open() as app, paths[1].open() as proxy:
        lab.down(grace=True)
        assert [log.read().split() for log in (app, proxy)] == [["on", "TERM"], ["on", "USR1"]]


def test_a_volume_of_this_machine_and_a_shared_one_are_mounted(tmp_path):
    (tmp_path / "x").write_text("here")
    (tmp_path / "data").mkdir()
    mounts = [{"name": "here", "mountPath": "/srcip-lab-test/a"}, {"name": "own", "mountPath": "/srcip-lab-test/b"}]
    volumes = [{"name": "here", "hostPath": {"path": str(tmp_path)}}, {"name": "own", "emptyDir": {}}]
    code = "import os; print(open('/srcip-lab-test/a/x').read(), oct(os.stat('/srcip-lab-test/b').st_mode)[-3:])"
    with Lab.up_pod(pod(initContainers=[container("init", code, volumeMounts=mounts)], volumes=volumes)) as lab:
        assert lab.log("init").split() == ["here", "777"]
        assert not list(Path("/srcip-lab-test/a").iterdir())
    assert not Path("/srcip-lab-test").exists()
    assert (tmp_path / "x").read_text() == "here"


def test_a_volume_that_needs_a_cluster_is_a_warning():
    with Lab.up_pod(pod(volumes=[{"name": "c", "configMap": {"name": "c"}}])) as lab:
        assert "volume c: configMap needs a cluster" in lab.status["warnings"][0]


def test_an_application_that_does_not_listen_is_a_warning():
    with Lab.up_pod(
        pod(container(code="raise SystemExit(4)", ports=[{"containerPort": 80}]), restartPolicy="Never")
    ) as lab:
        assert lab.status["warnings"][0] == "container app: not ready: it ended with exit code 4"


def test_several_labs_run_at_once_with_the_same_addresses():
    with Lab.up_pod(pod()) as one, Lab.up_pod(pod()) as two:
        assert one.name != two.name and one.pod.ips == two.pod.ips
        assert peer(one, one.pod.ipv4).split()[0] == peer(two, two.pod.ipv4).split()[0]


def test_a_lab_of_that_name_is_not_started_twice(clean_lab):
    Lab.up_pod(pod(), name=clean_lab)
    with pytest.raises(LabError, match="exists already"):
        Lab.up_pod(pod(), name=clean_lab)
    assert peer(Lab(clean_lab), "10.77.3.2")


@pytest.mark.parametrize("sig", [signal.SIGKILL])
def test_down_cleans_after_the_kubelet_was_killed(clean_lab, sig):
    """Containers that lost their kubelet, namespaces, mounts and files: all go, and a second down finds nothing."""
    sidecar = container("sidecar", STAY, restartPolicy="Always")
    lab = Lab.up_pod(pod(initContainers=[sidecar]), name=clean_lab)
    orphans = [status.process for status in lab.containers.values()]
    kubelet = Process.read(lab.status["kubelet"])
    assert kubelet and kubelet.signal(sig) and kubelet.wait(5)
    assert all(orphan and orphan.alive() for orphan in orphans)
    assert down(clean_lab)
    assert not any(orphan and orphan.alive() for orphan in orphans)
    assert clean_lab not in names() and not any(host.path.exists() for host in lab.network.hosts())
    assert not down(clean_lab)


def test_down_cleans_after_up_was_killed(clean_lab):
    """`up` dies in the middle: an init container that never ends holds it there."""
    script = "import sys, json; from srcip_lab.lab import Lab; Lab.up_pod(json.loads(sys.argv[1]), name=sys.argv[2])"
    stuck = json.dumps(pod(initContainers=[container("stuck", STAY)]))
    with subprocess.Popen([sys.executable, "-c", script, stuck, clean_lab]) as process:
        assert wait_until(lambda: clean_lab in names() and _runs(clean_lab, "stuck"), DEADLINE_S)
        process.kill()
    orphan = Lab(clean_lab).container("stuck").process
    assert down(clean_lab, grace=False)
    assert orphan and not orphan.alive()


def _runs(name: str, one: str) -> bool:
    try:
        return Lab(name).container(one).state == "running"
    except LabError:
        return False


def test_down_leaves_what_it_did_not_make(clean_lab):
    """A namespace of a like name, and a process in the Pod's namespace that somebody else started."""
    lab = Lab.up_pod(pod(), name=clean_lab)
    stranger = f"srcip-{clean_lab}-mine"
    subprocess.run(["ip", "netns", "add", stranger], check=True)
    try:
        with lab.pod.popen(["sleep", "60"]) as process:
            lab.down()
            assert (namespace.RUN_NETNS / stranger).exists()
            assert process.poll() is None
            process.kill()
    finally:
        subprocess.run(["ip", "netns", "delete", stranger], check=True)


def test_two_builders_of_one_image_make_one(tmp_path):
    """Both ask at once for a layer that is not there; the second waits for the first and takes its result."""
    script = (
        "import sys, time, pathlib; from srcip_lab import image\n"
        "def build(aside): aside.mkdir(); (aside / 'built').touch(); time.sleep(.5); "
        "(pathlib.Path(sys.argv[1]) / str(time.time_ns())).touch()\n"
        "layer = image._built('base-x', build); assert (layer / 'built').exists()"
    )
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    counted = tmp_path / "builds"
    counted.mkdir()
    processes = [subprocess.Popen([sys.executable, "-c", script, str(counted)], env=env) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert len(list(counted.iterdir())) == 1


def test_an_unfinished_image_is_never_used(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def broken(aside: Path) -> None:
        aside.mkdir()
        (aside / "half").touch()
        raise LabError("out of space")

    def whole(aside: Path) -> None:
        aside.mkdir()

    with pytest.raises(LabError, match="out of space"):
        image._built("base-x", broken)
    assert list(image._built("base-x", whole).iterdir()) == []
