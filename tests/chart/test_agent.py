"""The node's agent in the chart: what it may, and that nobody changes it."""

import pytest

from srcip_agent.__main__ import NEEDED
from srcip_agent.options import parse
from support.rendering import CASES, Helm, Json, one


def agent(helm: Helm, case: str = "agent") -> Json:
    """The template of its Pods."""
    found: Json = one(helm.objects(CASES[case]), "DaemonSet", "-agent")["spec"]["template"]
    return found


def test_the_agent_has_what_it_needs_and_no_more(helm: Helm) -> None:
    """Five capabilities, the node's processes and cgroups, and a token that only its own group can read."""
    spec = agent(helm)["spec"]
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": list(NEEDED)},
    }
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["hostPID"] is True
    assert not {"hostNetwork", "hostIPC", "initContainers"} & spec.keys()
    assert not any("hostPort" in port for port in container["ports"])
    assert [each["hostPath"]["path"] for each in spec["volumes"] if "hostPath" in each] == ["/sys/fs/cgroup"]
    assert spec["securityContext"]["fsGroup"] == 7363
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert spec["priorityClassName"] == "system-node-critical"


@pytest.mark.parametrize(("case", "port"), [("agent", 15330), ("everything-on", 9101)])
def test_the_agents_command_line_is_understood(case: str, port: int, helm: Helm) -> None:
    """It listens where the probes look, and reads what is mounted."""
    (container,) = agent(helm, case)["spec"]["containers"]
    assert container["command"] == ["srcip-agent"]
    names = {each["name"] for each in container["env"]}
    options = parse(container["args"], dict.fromkeys(names, "192.0.2.1"))
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts["cgroup"] == str(options.cgroups)
    assert options.port == port
    assert container["ports"] == [{"name": "metrics", "containerPort": port, "protocol": "TCP"}]


def test_no_webhook_of_srcip_looks_at_the_agent(helm: Helm) -> None:
    """Of no release: neither annotations of its Pods nor labels can make one."""
    template = agent(helm, "everything-on")
    assert template["metadata"]["annotations"] == {"srcip.io/mode": "ebpf"}
    assert template["metadata"]["labels"]["srcip.io/inject"] == "false"
