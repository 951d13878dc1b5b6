"""The agent and the gate, in network namespaces: the Pod has no privilege, and its application sees the client."""

import re
import sys

import pytest

from support.agent_rig import Site, gate, pod_object, until
from support.ebpf_rig import ALL_PORTS
from support.rig import APP, CLIENT4, v2

pytestmark = pytest.mark.dataplane


def test_a_pod_without_privilege_sees_the_client(here: Site) -> None:
    """The gate, uid 7363 without any capability, ends when the agent has attached the programs from outside."""
    agent = here.agent()
    pod = here.pod(1)
    agent.tell(pod_object(1, pod.wanted))
    waiting = gate(pod)
    out, err = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, err
    assert out.startswith("srcip-proxy gate: ports 7000-7099 from 10.77.1.0/24")
    assert re.search(r"; programs are attached by this node's agent, after \d+\.\d\d s\n$", out)
    pod.log = pod.start([sys.executable, str(APP), *ALL_PORTS])
    assert pod.seen(v2() + b"x").peer == CLIENT4
    assert agent.once("attached", 1)["pod"] == "shop/web-1"


def test_without_an_agent_the_gate_waits_and_says_what_for(here: Site) -> None:
    """It fails closed: no application starts. With an agent it goes on."""
    pod = here.pod(1)
    waiting = gate(pod)
    assert waiting.stderr
    assert waiting.stderr.readline().startswith("srcip-proxy gate: waits for srcip's agent of this node")
    assert waiting.poll() is None
    here.agent().tell(pod_object(1, pod.wanted))
    assert waiting.wait(timeout=60) == 0
    assert waiting.stderr.read() == ""


def test_a_second_agent_attaches_nothing_more(here: Site) -> None:
    """Two at once, as in a rolling update, and a third one that is started later: the programs are there once."""
    agents = [here.agent(), here.agent()]
    pods = [here.pod(number) for number in range(4)]
    for number, pod in enumerate(pods):
        for agent in agents:
            agent.tell(pod_object(number, pod.wanted))
    gates = [gate(pod) for pod in pods]
    assert [each.wait(timeout=60) for each in gates] == [0] * 4
    runs = [pod.start([sys.executable, str(APP), *ALL_PORTS]) for pod in pods]
    assert runs
    late = here.agent()
    for number, pod in enumerate(pods):
        late.tell(pod_object(number, pod.wanted))
        assert late.once("attached", number)["reason"] == "found"
        assert len(pod.programs()) == 4
    assert 'srcip_agent_pods{state="attached"} 4' in late.page()
    assert "srcip_agent_attach_seconds_count 0" in late.page()


def test_a_killed_agent_leaves_running_pods_alone(here: Site) -> None:
    """Killed and started again: no connection ends, and every client is shown."""
    agent = here.agent()
    pod = here.pod(1)
    agent.tell(pod_object(1, pod.wanted))
    assert gate(pod).wait(timeout=60) == 0
    pod.log = pod.start([sys.executable, str(APP), *ALL_PORTS])
    with pod.connect() as lasting:
        lasting.send(v2())
        assert lasting.seen().peer == CLIENT4
        before = pod.programs()
        for _ in range(3):
            agent.kill()
            assert pod.seen(v2() + b"x").peer == CLIENT4
            agent = here.agent()
            agent.tell(pod_object(1, pod.wanted))
            agent.once("attached", 1)
            assert pod.programs() == before
        lasting.send(b"still")
        assert until(lambda: lasting.seen(rest=5).rest) == b"still"
