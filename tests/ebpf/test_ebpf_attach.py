"""Attaching: what it needs, that it may be done again, that others may be there, and what it shows to applications."""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from srcip_lab import bpf
from srcip_lab.tools import run
from srcip_proxy.ebpf import preflight as ebpf_preflight
from support.ebpf_rig import ALL_PORTS, ONLY_BPF_AND_NET_ADMIN, Pod, Pods, object_options, objects, running
from support.rig import APP, CLIENT4, CLIENT6, POD4, POD6, v1, v2

pytestmark = pytest.mark.dataplane

HERE = Path(__file__).parent
NOBODY = ("setpriv", "--reuid=7363", "--regid=7363", "--clear-groups", "--no-new-privs", "--bounding-set=-all")
AS_1337 = (
    *("setpriv", "--reuid=7363", "--regid=7363", "--clear-groups", "--inh-caps=-all,+bpf,+net_admin"),
    *("--ambient-caps=+bpf,+net_admin", "--bounding-set=-all,+bpf,+net_admin", "--no-new-privs"),
)


@pytest.mark.parametrize("prefix", [ONLY_BPF_AND_NET_ADMIN, AS_1337], ids=["uid 0", "uid 7363"])
def test_bpf_and_net_admin_are_enough(pods: Pods, readable: Path, prefix: tuple[str, ...]) -> None:
    """All other capabilities are dropped, PERFMON and SYS_ADMIN among them; the user needs not be root."""
    with running(attached=False) as pod:
        said = attach(pod, readable, prefix)
        assert said.returncode == 0, said.stderr
        assert pod.seen(v1()).peer == CLIENT4


@pytest.mark.parametrize("missing", ["bpf", "net_admin"])
def test_a_missing_capability_is_named(pods: Pods, readable: Path, missing: str) -> None:
    """Nothing is left attached, so that the next try begins anew."""
    has = "net_admin" if missing == "bpf" else "bpf"
    with running(attached=False) as pod:
        said = attach(pod, readable, ("setpriv", f"--inh-caps=-all,+{has}", f"--bounding-set=-all,+{has}"))
        assert said.returncode == 1
        assert f"CAP_{missing.upper()} is missing" in said.stderr
        assert pod.programs() == []
        assert pod.attach().returncode == 0


def attach(pod: Pod, readable: Path, prefix: tuple[str, ...]) -> "subprocess.CompletedProcess[str]":
    """With the machine's Python and a copy of the sources, which any user may read."""
    script = f"import sys; sys.path.insert(0, {str(readable)!r}); from srcip_proxy.__main__ import main; main()"
    words = ["ebpf", "attach", "--cgroup", str(pod.cgroup), *object_options(sorted(readable.glob("*.o")))]
    return pod.run([*prefix, "/usr/bin/python3", "-Ic", script, *words], SRCIP_PLAN=pod.wanted.to_env())


def attached(cgroup: Path) -> str:
    """What attach says when it is done."""
    hook = "tcx" if tuple(map(int, platform.release().split(".")[:2])) >= (6, 6) else "clsact"
    return f"srcip-proxy ebpf: attached to eth0 ({hook}) and {cgroup}\n"


@pytest.fixture
def readable() -> Iterator[Path]:
    """The package and the object where every user can read them."""
    root = Path(f"/usr/local/lib/srcip-test-{os.getpid()}")
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(bpf.SOURCES.parent / "srcip_proxy", root / "srcip_proxy")
    for number, compiled in enumerate(objects()):
        shutil.copy(compiled, root / f"{number}.o")
    run("chmod", "-R", "a+rX", str(root))
    yield root
    shutil.rmtree(root)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--interface", "lo"], "interface lo is not Ethernet"),
        (["--interface", "eth7"], "interface eth7: No such device"),
        (["--cgroup", "/proc"], "/proc is not a directory of cgroup v2"),
        (["--object", "/nothing"], "/nothing is missing"),
    ],
)
def test_what_is_missing_is_named(pod: Pod, wrong: list[str], said: str) -> None:
    answer = pod.proxy("ebpf", "attach", "--cgroup", str(pod.cgroup), *object_options(objects()), *wrong)
    assert answer.returncode == 1
    assert said in answer.stderr


@pytest.mark.parametrize(
    ("release", "fits"), [("5.16.9", False), ("5.17.0-1-generic", True), ("6.1", True), ("4.19", False)]
)
def test_the_oldest_kernel(release: str, fits: bool) -> None:
    assert (ebpf_preflight.kernel(release) == []) == fits


def test_kernels_that_refuse_the_first_object_take_the_second() -> None:
    """It has the same programs, which copy each packet's headers rather than look into it."""
    with running(attached=False) as pod:
        refused, copies = bpf.compiled(HERE / "unverifiable.bpf.c"), bpf.compiled(bpf.BOTH[1])
        words = ["ebpf", "attach", "--cgroup", str(pod.cgroup)]
        said = pod.proxy(*words, "--object", str(refused), prefix=ONLY_BPF_AND_NET_ADMIN)
        assert (said.returncode, "load: Permission denied" in said.stderr, pod.programs()) == (1, True, [])
        said = pod.proxy(*words, *object_options([refused, copies]), prefix=ONLY_BPF_AND_NET_ADMIN)
        assert said.returncode == 0, said.stderr
        text = b"x" * 100_000
        for to, header, client in ((POD4, v1(), CLIENT4), (POD6, v2(CLIENT6), CLIENT6)):
            for number in range(3):
                with pod.connect(to=to) as sender:
                    sender.send(header[: 7 * number] if number else header)
                    sender.send(header[7 * number :] + text if number else text)
                    seen = sender.seen(rest=len(text), quiet=0.02)
                    assert (seen.peer, seen.rest) == (client, text)


def test_attaching_again_changes_nothing(pod: Pod) -> None:
    """A container that starts again finds its programs in place; live connections go on."""
    with pod.connect() as client:
        client.send(v1())
        assert client.seen(quiet=0.02).peer == CLIENT4
        said = pod.attach()
        assert (said.returncode, said.stdout) == (0, "srcip-proxy ebpf: already attached\n")
        client.got = b"\n"
        client.send(b"again")
        assert client.seen(rest=5, quiet=0.02).rest == b"again"


def test_another_configuration_is_refused(pods: Pods) -> None:
    """A Pod keeps its first one: the old programs could not be taken away without SYS_ADMIN."""
    pod = pods()
    other = Pod(pod.net, pod.cgroup, pods(proxy_protocol="optional").wanted)
    said = other.attach()
    assert said.returncode == 1
    assert "with another configuration are attached" in said.stderr
    assert pod.seen(b"no header").refused


def test_a_new_network_of_the_same_pod_is_set_up_anew(pods: Pods) -> None:
    """kubelet gives a Pod whose sandbox died another network, and the Pod keeps its cgroup: the programs of the first
    say nothing of the second, whatever they know of the same addresses and ports."""
    with running() as first, running(attached=False) as second:
        assert first.seen(v1()).peer == CLIENT4
        again = Pod(second.net, first.cgroup, first.wanted)
        assert again.proxy("ebpf", "stats").returncode == 1
        said = again.attach()
        assert (said.returncode, said.stdout) == (0, attached(first.cgroup))
        second.processes[0].kill()
        second.processes[0].wait()
        again.processes = [*first.processes]  # for names of logs that are not in use
        again.log = again.start([sys.executable, str(APP), *ALL_PORTS])
        assert again.seen(v1(("203.0.113.8", 8))).peer == ("203.0.113.8", 8)
        assert again.stats() == {"accepted proxy": 1}
        assert first.seen(v1()).peer == CLIENT4
        assert first.stats() == {"accepted proxy": 2}
        first.processes = again.processes


def test_stats_need_no_capability(pod: Pod, readable: Path) -> None:
    """Any process of the Pod may ask, and one outside learns that there is nothing."""
    script = f"import sys; sys.path.insert(0, {str(readable)!r}); from srcip_proxy.__main__ import main; main()"
    pod.seen(v1())
    inside = pod.run([*NOBODY, "/usr/bin/python3", "-Ic", script, "ebpf", "stats"])
    assert 'srcip_accepted_connections_total{header="proxy"} ' in inside.stdout
    assert pod.stats()["accepted proxy"] > 0
    words = ["/usr/bin/python3", "-Ic", script, "ebpf", "stats"]
    outside = pod.net.pod.run(words, capture_output=True)
    assert (outside.returncode, outside.stdout) == (1, "")


@pytest.mark.parametrize("is_first", [True, False], ids=["before", "behind"])
@pytest.mark.parametrize("hook", ["auto", "clsact"])
@pytest.mark.parametrize("others", ["tcx", "clsact"])
def test_others_on_the_same_hooks_go_on(others: str, hook: str, is_first: bool) -> None:
    """A CNI plugin's programs and ours each see what they need, whoever came first, by whichever hook."""
    with running(attached=False) as pod:
        if not is_first:
            assert pod.attach("--hook", hook).returncode == 0
        before = len(pod.programs())
        words = [
            sys.executable,
            "-c",
            ATTACH_CNI_PLUGIN,
            str(bpf.compiled(HERE / "cni_plugin.bpf.c")),
            str(pod.cgroup),
            others,
        ]
        said = pod.run(words)
        if "no tcx" in said.stderr:
            pytest.skip(f"Linux {platform.release()} has no tcx")
        assert (said.returncode, len(pod.programs())) == (0, before + 2), said.stderr
        if is_first:
            assert pod.attach("--hook", hook).returncode == 0
        assert len(pod.programs()) == 6
        assert pod.seen(v1()).peer == CLIENT4
        assert pod.stats()["accepted proxy"] == 1
        packets, calls = counts_of_cni_plugin(pod)
        assert packets >= 4
        assert calls >= 1


ATTACH_CNI_PLUGIN = """
import subprocess, sys
from pathlib import Path
from srcip_proxy.ebpf.libbpf import GETPEERNAME4, TC_INGRESS, Object
program, cgroup, hook = sys.argv[1:]
other = Object(Path(program))
other.load()
if hook == "clsact":
    other.attach_clsact("cni_ingress", "eth0", TC_INGRESS, 9000)
elif not other.attach_tcx("cni_ingress", "eth0", TC_INGRESS):
    sys.exit("no tcx")
other.attach_cgroup("cni_getpeername4", Path(cgroup), GETPEERNAME4)
"""


def counts_of_cni_plugin(pod: Pod) -> list[int]:
    """What the CNI plugin's programs have counted: packets, and calls of getpeername()."""
    shown = [json.loads(pod.sh("pod", f"bpftool -j prog show id {number}")) for number in pod.programs()]
    (number,) = {n for program in shown if program["name"].startswith("cni_") for n in program["map_ids"]}
    return [entry["formatted"]["value"] for entry in json.loads(pod.sh("pod", f"bpftool -j map dump id {number}"))]


@pytest.mark.parametrize(
    "case",
    [
        ("4", POD4, v1(), "203.0.113.7 54321"),
        ("4", POD4, v2(), "203.0.113.7 54321"),
        ("6", POD4, v1(), "::ffff:203.0.113.7 54321"),
        ("6", POD6, v1(), "::ffff:203.0.113.7 54321"),
        ("6", POD4, v2(CLIENT6), "2001:db8::7 54321"),
        ("6", POD6, v2(CLIENT6), "2001:db8::7 54321"),
        ("6", POD6, v1(CLIENT6), "2001:db8::7 54321"),
    ],
)
def test_accept_and_getpeername_in_c(pod: Pod, peers: dict[str, int], case: tuple[str, str, bytes, str]) -> None:
    """Both say the client, in sockets of both families, behind connections of both."""
    family, to, header, shown = case
    with pod.connect(peers[family], to=to) as client:
        client.send(header)
        client.seen(quiet=0.02)
        assert client.got.decode().split() == (f"{shown} " * 2).split()


@pytest.fixture(scope="module")
def peers(pods: Pods, tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """The C application listens, by the family of its sockets."""
    program = tmp_path_factory.mktemp("getpeername") / "getpeername"
    run("cc", "-O1", "-o", str(program), str(HERE / "getpeername.c"))
    ports = {"4": 7021, "6": 7022}
    for family, port in ports.items():
        pods().start([str(program), family, str(port)])
    return ports
