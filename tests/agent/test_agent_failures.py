"""What goes wrong with a Pod or with the agent, in network namespaces: in the end the programs are there once."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from srcip_agent.__main__ import NEEDED
from srcip_lab import network
from support.agent_rig import GATE_USER, Site, gate, pod_object, until
from support.ebpf_rig import ALL_PORTS, Pod, objects, remove
from support.exporter_rig import only
from support.rig import APP, CLIENT4, v2

pytestmark = pytest.mark.dataplane
SET_UP = """
import functools, os, signal, sys
from pathlib import Path
from srcip_agent import sandbox, setup
from srcip_proxy.plan import Plan

STEPS = ("load", "put", "attach_tcx", "attach_clsact", "attach_cgroup", "detach", "close")
STEPS += ("set_up", "_join_cgroup", "_enter")
last, cgroup, *objects = sys.argv[1:]
steps = 0

def count(frame, event, argument):
    global steps
    code = frame.f_code
    ours = "/srcip_agent/" in code.co_filename or "/ebpf/" in code.co_filename
    if event == "call" and code.co_name in STEPS and ours:
        steps += 1
        if steps == int(last):
            os.kill(os.getpid(), signal.SIGKILL)

node = setup.Node(Path("/proc/self/ns"), (), tuple(map(Path, objects)))
place = sandbox.find(Path(cgroup), node.network)
if "CLSACT" in os.environ:  # as on a kernel without tcx
    setup.attach.Place = functools.partial(setup.attach.Place, tcx=False)
sys.setprofile(count)
setup.set_up(Plan.from_env(os.environ["SRCIP_PLAN"]), place, node)
"""
"""What the agent does for one Pod, killed at the step of this number."""
DETACH = """
import os, socket, sys
from srcip_agent.leftovers import _TCX
from srcip_proxy.ebpf.exporter.kernel import Kernel
from srcip_proxy.ebpf.libbpf import GETPEERNAME4, GETPEERNAME6
kernel, cgroup = Kernel(), sys.argv[1]
index, directory = socket.if_nametoindex("eth0"), os.open(cgroup, os.O_RDONLY)
for kind in _TCX:
    for number in kernel.on_interface(index, kind): kernel.detach(number, index, kind)
for kind in (GETPEERNAME4, GETPEERNAME6):
    for number in kernel.attached(cgroup, kind): kernel.detach(number, directory, kind)
"""


def set_up(pod: Pod, last: int) -> int:
    """Set the Pod up until this step; the exit code."""
    words = [*only(*NEEDED), sys.executable, "-c", SET_UP, str(last), str(pod.cgroup), *map(str, objects())]
    return subprocess.run(words, env={"SRCIP_PLAN": pod.wanted.to_env(), "PATH": "/usr/bin"}, check=False).returncode


def test_killed_at_each_step_the_next_run_completes(here: Site) -> None:
    """Wherever the process that sets a Pod up is killed, the next one attaches everything, and leaves nothing twice."""
    pod = here.pod(1)
    waiting = pod.inside(["sleep", "1000"])
    pod.processes.append(waiting)
    step = 0
    while (ended := set_up(pod, step + 1)) == -signal.SIGKILL:
        step += 1
        assert set_up(pod, 0) == 0
        assert len(pod.programs()) == 4, f"after the end at step {step}"
        words = [sys.executable, "-c", DETACH, str(pod.cgroup)]
        assert pod.net.pod.run(words).returncode == 0
        assert pod.programs() == []
    assert ended == 0
    assert step > 10
    pod.log = pod.start([sys.executable, str(APP), *ALL_PORTS])
    assert pod.seen(v2() + b"x").peer == CLIENT4


def test_a_new_sandbox_is_set_up_anew(here: Site) -> None:
    """The Pod keeps its UID and its cgroup, and gets another network: the programs of the first one do not count."""
    agent, first, other = here.agent(), here.pod(1), here.pod(2)
    agent.tell(pod_object(1, first.wanted))
    assert gate(first).wait(timeout=60) == 0
    second = Pod(other.net, first.cgroup, first.wanted)
    waiting = gate(second)
    assert waiting.wait(timeout=60) == 0
    second.log = second.start([sys.executable, str(APP), *ALL_PORTS])
    try:
        assert second.seen(v2() + b"x").peer == CLIENT4
        assert [each["reason"] for each in agent.said("attached", 1)][:2] == ["new", "new"]
    finally:
        second.stop()


def test_a_pod_that_sets_itself_up_is_left_alone(here: Site) -> None:
    """By its own init container, whatever label it has: the agent says nothing and attaches nothing."""
    agent, own, other = here.agent(), here.pod(1), here.pod(2)
    assert own.attach().returncode == 0
    own.start([sys.executable, str(APP), *ALL_PORTS])
    made = pod_object(1, own.wanted)
    made["spec"]["initContainers"][0]["command"] = ["srcip-proxy", "init"]
    before = own.programs()
    agent.tell(made)
    agent.tell(pod_object(2, other.wanted))
    assert gate(other).wait(timeout=60) == 0
    assert own.programs() == before
    assert agent.said("attached", 1) + agent.said("refused", 1) == []


def test_another_configuration_is_refused_on_both_sides(here: Site) -> None:
    """A Pod keeps its first one: neither the agent nor the gate goes on, and both say why."""
    agent, pod = here.agent(), here.pod(1)
    assert pod.attach().returncode == 0
    wanted = replace(pod.wanted, header_timeout_ms=777)
    waiting = gate(Pod(pod.net, pod.cgroup, wanted))
    _, err = waiting.communicate(timeout=60)
    assert waiting.returncode == 1
    assert "another configuration is attached" in err
    pod.processes.append(pod.inside(["sleep", "1000"]))
    agent.tell(pod_object(1, wanted))
    assert agent.once("refused", 1)["reason"] == "other_configuration"
    until(lambda: 'srcip_agent_refusals_total{reason="other_configuration"} 1' in agent.page())
    assert len(pod.programs()) == 4


def test_the_gate_says_why_the_agent_does_not_attach(here: Site, tmp_path: Path) -> None:
    """What the kernel has against the programs stands in the Pod's own log. It waits on, as the next try may work."""
    broken = tmp_path / "broken.bpf.o"
    broken.write_bytes(b"no program at all")
    agent, pod = here.agent("--object", str(broken), own_objects=False), here.pod(1)
    waiting = gate(pod)
    agent.tell(pod_object(1, pod.wanted))
    assert waiting.stderr
    lines = iter(waiting.stderr.readline, "")
    said = next(line for line in lines if "does not attach" in line)
    assert said.startswith("srcip-proxy gate: the agent of this node does not attach the programs: ")
    assert str(broken) in said
    assert agent.once("refused", 1)["reason"] == "kernel"
    assert waiting.poll() is None
    agent.kill()
    here.agent().tell(pod_object(1, pod.wanted))
    assert waiting.wait(timeout=60) == 0


def test_the_nodes_own_network_is_never_touched(here: Site) -> None:
    """A Pod whose processes are all in it waits, and nothing is attached to it."""
    agent, pod = here.agent(), here.pod(1)
    command = ["sh", "-c", f"echo $$ > {pod.cgroup}/cgroup.procs && exec sleep 1000"]
    pod.processes.append(subprocess.Popen(command, text=True))
    until((pod.cgroup / "cgroup.procs").read_text)
    agent.tell(pod_object(1, pod.wanted))
    until(lambda: 'srcip_agent_pods{state="waiting"} 1' in agent.page())
    other = here.pod(2)
    agent.tell(pod_object(2, other.wanted))
    assert gate(other).wait(timeout=60) == 0
    assert agent.said("attached", 1) == []
    assert subprocess.run(["bpftool", "cgroup", "show", str(pod.cgroup)], capture_output=True, check=True).stdout == b""


def test_nothing_is_left_of_a_pod_that_has_gone(here: Site) -> None:
    """Its programs go with its network and its cgroup while the agent runs on: it holds none of them."""
    agent, pod = here.agent(), here.pod(1)
    agent.tell(pod_object(1, pod.wanted))
    assert gate(pod).wait(timeout=60) == 0
    agent.once("attached", 1)
    own = set(pod.programs())
    assert len(own) == 4
    pod.stop()
    network.delete(network.existing(pod.net))
    remove(pod.cgroup)
    until(lambda: not own & loaded())
    agent.tell(pod_object(1, pod.wanted), "DELETED")
    until(lambda: 'srcip_agent_pods{state="waiting"} 0' in agent.page())
    assert agent.process.poll() is None


def loaded() -> set[str]:
    """The numbers of all programs in the kernel."""
    said = subprocess.run(["bpftool", "--json", "prog", "show"], capture_output=True, text=True, check=True).stdout
    return {str(each["id"]) for each in json.loads(said)}


@pytest.mark.parametrize("lost", NEEDED)
def test_each_capability_is_needed(here: Site, lost: str) -> None:
    """Without it the agent does not start, and says which one it lacks."""
    agent = here.agent(have=tuple(name for name in NEEDED if name != lost))
    assert agent.process.wait(timeout=60) == 1
    assert f"CAP_{lost} is missing" in agent.log.read_text()


@pytest.mark.parametrize("lost", ["SYS_ADMIN", "SYS_PTRACE", "NET_ADMIN"])
def test_nothing_can_be_attached_without_it(here: Site, lost: str) -> None:
    """The kernel itself wants each of them; NET_ADMIN, where SYS_ADMIN does for tcx, for the hooks of older kernels."""
    pod = here.pod(1)
    waiting = pod.inside([*GATE_USER, "sleep", "1000"])
    pod.processes.append(waiting)
    until(lambda: Path(f"/proc/{waiting.pid}/comm").read_text() == "sleep\n")
    have = only(*(name for name in NEEDED if name != lost))
    words = [*have, sys.executable, "-c", SET_UP, "0", str(pod.cgroup), *map(str, objects())]
    env = {"SRCIP_PLAN": pod.wanted.to_env(), "PATH": "/usr/bin", "CLSACT": "yes"}
    done = subprocess.run(words, env=env, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "ermi" in done.stderr, done.stderr
    assert pod.programs() == []
