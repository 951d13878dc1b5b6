"""Ring 2 of the exporter: real programs on real cgroups, read by a process with its capabilities alone, over HTTP."""

import itertools
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from srcip_lab import bpf
from srcip_proxy.ebpf import libbpf
from srcip_proxy.ebpf.counters import COUNTERS
from srcip_proxy.ebpf.exporter.kernel import Kernel
from srcip_proxy.ebpf.exporter.pods import read
from srcip_proxy.ebpf.exporter.run import NEEDED
from srcip_proxy.ebpf.libbpf import GETPEERNAME4
from support.ebpf_rig import needs_root, remove
from support.exporter_rig import CGROUPFS, Exporter, Node, command, free_port, only, uid
from support.rig import v2

pytestmark = pytest.mark.dataplane
HERE = Path(__file__).parent
GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


def test_each_pod_has_its_own_counters_under_its_name(here: Node, served: Exporter) -> None:
    """Two Pods, one below each of kubelet's drivers, come while the exporter runs; what one has counted is not seen
    with the other, and `ebpf stats` in a Pod says the same."""
    assert served.states() == {}
    web = here.pod(1, "web")
    web.seen(v2() + b"x")
    assert served.counters() == {("shop", "web", "accepted proxy"): 1}
    mail = here.pod(2, "mail", CGROUPFS)
    mail.seen(v2() + b"x")
    mail.seen(v2() + b"x")
    mail.seen(b"GET / HTTP/1.1\r\n\r\n")
    assert served.counters() == {
        ("shop", "web", "accepted proxy"): 1,
        ("shop", "mail", "accepted proxy"): 2,
        ("shop", "mail", "refused no_header"): 1,
    }
    assert served.states() == {"shown": 2}
    assert mail.stats() == {"accepted proxy": 2, "refused no_header": 1}


def test_a_pod_that_goes_is_gone_from_the_page(here: Node, served: Exporter) -> None:
    """Its directory of logs stays a while; no program is kept by the exporter."""
    web = here.pod(1, "web")
    web.seen(v2() + b"x")
    assert served.counters()
    web.stop()
    web.processes.clear()
    remove(web.cgroup)
    assert served.counters() == {}
    assert served.states() == {}


def test_a_second_sandbox_of_a_pod_goes_on_counting(here: Node, served: Exporter) -> None:
    """The programs of the first network stay on the cgroup, and what they have counted stays in the sum."""
    first = here.pod(1, "web")
    first.seen(v2() + b"x")
    first.stop()
    first.processes.clear()
    second = here.pod(1)
    second.seen(v2() + b"x")
    second.seen(b"nonsense, and no header of the PROXY protocol")
    assert served.counters() == {("shop", "web", "accepted proxy"): 2, ("shop", "web", "refused no_header"): 1}
    assert second.stats() == {"accepted proxy": 1, "refused no_header": 1}


def test_a_pod_without_a_name_is_counted_and_left_out(here: Node, served: Exporter, loaded: libbpf.Object) -> None:
    """Its counters come once kubelet's directory of its logs is there."""
    loaded.attach_cgroup("srcip_peer4", here.cgroup(1), GETPEERNAME4)
    assert served.states() == {"unnamed": 1}
    assert 'pod="' not in served.fresh()
    here.name(1, "shop", "web")
    assert served.states() == {"shown": 1}


def test_programs_of_others_are_not_counted(here: Node, served: Exporter) -> None:
    """A Pod with somebody else's program on the same hook is none of ours."""
    other = libbpf.Object(bpf.compiled(HERE / "cni_plugin.bpf.c"))
    other.load()
    other.attach_cgroup("cni_getpeername4", here.cgroup(1), GETPEERNAME4)
    assert served.states() == {}


def test_a_program_of_our_name_with_another_map_is_told(here: Node, served: Exporter, loaded: libbpf.Object) -> None:
    """Nothing is read into numbers that mean something else; other Pods are shown as ever."""
    other = libbpf.Object(bpf.compiled(HERE / "counters_of_32_bits.bpf.c"))
    other.load()
    for number, programs in ((1, other), (2, loaded)):
        programs.attach_cgroup("srcip_peer4", here.cgroup(number), GETPEERNAME4)
        here.name(number, "shop", f"web-{number}")
    assert served.states() == {"shown": 1, "unreadable": 1}


def test_the_programs_of_an_older_version_are_read_as_far_as_they_go(
    here: Node, served: Exporter, loaded: libbpf.Object
) -> None:
    """A Pod keeps the programs of its first day. Counters are only ever added behind those that there are."""
    older = libbpf.Object(bpf.compiled(HERE / "fewer_counters.bpf.c"))
    older.load()
    loaded.put("counters", struct.pack("=I", 0), struct.pack("=Q", 5))
    for index, value in enumerate((1, 2**40, 2**63)):
        older.put("counters", struct.pack("=I", index), struct.pack("=Q", value))
    for programs, numbers in ((older, (1, 2)), (loaded, (2,))):
        for number in numbers:
            programs.attach_cgroup("srcip_peer4", here.cgroup(number), GETPEERNAME4)
    here.name(1, "shop", "old")
    here.name(2, "shop", "both")
    values = {"accepted local": 2**40, "accepted none": 2**63}
    wanted = {"old": {"accepted proxy": 1, **values}, "both": {"accepted proxy": 6, **values}}
    assert served.counters() == {("shop", pod, name): n for pod, its in wanted.items() for name, n in its.items()}


def test_pods_that_come_and_go_all_the_time_break_no_page(here: Node, loaded: libbpf.Object) -> None:
    """Cgroups, programs and maps vanish at any moment between two questions to the kernel; who stays is there."""
    stayer = here.cgroup(1000)
    loaded.attach_cgroup("srcip_peer4", stayer, GETPEERNAME4)
    here.name(1000, "shop", "stayer")
    is_over, seen = threading.Event(), Counter[bool]()

    def come_and_go() -> None:
        for number in itertools.cycle(range(50)):
            cgroup = stayer.with_name(stayer.name.replace(uid(1000)[:8], uid(number)[:8]))
            programs = libbpf.Object(bpf.compiled(HERE / "fewer_counters.bpf.c"))
            programs.load()
            cgroup.mkdir()
            programs.attach_cgroup("srcip_peer4", cgroup, GETPEERNAME4)
            programs.close()
            remove(cgroup)
            if is_over.is_set():
                return

    churn = threading.Thread(target=come_and_go)
    churn.start()
    try:
        deadline = time.monotonic() + 300
        while min(seen[True], seen[False]) < 20:
            assert time.monotonic() < deadline, seen
            text = read(Kernel(), here.root, here.logs)
            assert 'namespace="shop",pod="stayer",header="proxy"} 0\n' in text
            seen['{state="unnamed"} 1' in text] += 1
    finally:
        is_over.set()
        churn.join()


def test_a_page_of_a_hundred_pods_costs_little(here: Node, loaded: libbpf.Object) -> None:
    """What the kernel and Python need for one page, the best of ten."""
    for number in range(100):
        loaded.attach_cgroup("srcip_peer4", here.cgroup(number), GETPEERNAME4)
        here.name(number, "shop", f"web-{number}")
    kernel, best = Kernel(), 1e9
    for _ in range(10):
        start = time.perf_counter()
        text = read(kernel, here.root, here.logs)
        best = min(best, (time.perf_counter() - start) * 1e3)
    assert text.count('namespace="shop",pod="web-') == 100 * len(COUNTERS)
    print(f"{best:.1f} ms for 100 Pods, {len(text)} bytes")


@pytest.mark.parametrize(
    ("names", "said"),
    [(("SYS_ADMIN",), "No such file or directory"), (("BPF", "PERFMON", "NET_ADMIN"), "Operation not permitted")],
)
def test_the_kernel_opens_programs_and_maps_for_sys_admin_alone(names: tuple[str, ...], said: str) -> None:
    """No smaller right of BPF will do; there is no program and no map of number 0."""
    needs_root()
    code = "from srcip_proxy.ebpf.exporter.kernel import Kernel\nkernel = Kernel()\n"
    for asked in ("kernel.program(0)", "kernel.counters(0, 'counters', 1)"):
        words = [*only(*names), sys.executable, "-c", code + asked]
        assert said in subprocess.run(words, capture_output=True, text=True, check=False).stderr


@pytest.mark.parametrize("lost", NEEDED)
def test_a_missing_capability_is_named(here: Node, lost: str) -> None:
    """With what to do; the exporter does not start."""
    prefix = only(*(name for name in NEEDED if name != lost))
    done = subprocess.run(
        command(here.root, here.logs, free_port(), *prefix), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"srcip-proxy ebpf exporter: CAP_{lost} is missing: run it as user 0, and add {lost}")
    assert done.stderr.count("\n") == 1


def test_all_that_is_missing_is_told_at_once(here: Node, tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    words = command(tmp_path / "v1", tmp_path / "none", free_port(), *only())
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    said = done.stderr.splitlines()
    assert done.returncode == 1
    assert [line.split()[3] for line in said] == [*(f"CAP_{name}" for name in NEEDED), "--cgroups", "--pods"]
    assert "is not cgroup v2" in said[-2]
    assert "a hostPath volume" in said[-1]


def test_capabilities_of_a_user_namespace_are_not_enough(here: Node) -> None:
    """It has all of them, over nothing that the kernel would open a program for."""
    words = command(here.root, here.logs, free_port(), "unshare", "--user", "--map-root-user")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "lets this process read no programs" in done.stderr
    assert "hostUsers" in done.stderr


def test_a_port_that_is_taken_is_named(here: Node) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = command(here.root, here.logs, port)
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    said = f"srcip-proxy ebpf exporter: --listen 127.0.0.1:{port}: Address already in use\n"
    assert (done.returncode, done.stderr) == (1, said)
