"""The exporter of ebpf mode in the chart: what it may, who finds it, and that nobody changes it."""

import pytest

from srcip_proxy.ebpf.exporter.options import parse
from srcip_proxy.ebpf.exporter.run import NEEDED
from support.rendering import CASES, Helm, Json, containers, one, variables


def exporter(helm: Helm, case: str = "exporter-of-ebpf-mode") -> Json:
    """The template of its Pods."""
    found: Json = one(helm.objects(CASES[case]), "DaemonSet", "-exporter")["spec"]["template"]
    return found


def test_the_exporter_has_what_it_needs_and_no_more(helm: Helm) -> None:
    """Four capabilities, two directories of the node to read, and nothing else of the node's; no token."""
    spec = exporter(helm)["spec"]
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": list(NEEDED)},
    }
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & spec.keys()
    assert not any("hostPort" in port for port in container["ports"])
    assert spec["automountServiceAccountToken"] is False
    paths = {each["name"]: each["hostPath"]["path"] for each in spec["volumes"]}
    assert paths == {"cgroup": "/sys/fs/cgroup", "pods": "/var/log/pods"}
    assert all(mount["readOnly"] for mount in container["volumeMounts"])
    assert container["image"] == variables(containers(helm.objects({}))["webhook"])["SRCIP_PROXY_IMAGE"]


@pytest.mark.parametrize(("case", "port"), [("exporter-of-ebpf-mode", 15320), ("everything-on", 9100)])
def test_the_exporters_command_line_is_understood(case: str, port: int, helm: Helm) -> None:
    """It listens where the probes, the PodMonitor and the NetworkPolicy look, and reads what is mounted."""
    (container,) = exporter(helm, case)["spec"]["containers"]
    assert container["command"] == ["srcip-proxy"]
    assert container["args"][:2] == ["ebpf", "exporter"]
    options = parse(container["args"][2:])
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert {"cgroup": str(options.cgroups), "pods": str(options.pods)} == mounts
    assert (options.address, options.port) == (None, port)
    assert container["ports"] == [{"name": "metrics", "containerPort": port, "protocol": "TCP"}]
    assert {container[probe]["httpGet"]["path"] for probe in ("readinessProbe", "livenessProbe")} == {"/healthz"}


def test_no_webhook_of_srcip_looks_at_the_exporter(helm: Helm) -> None:
    """Of no release: neither annotations of its Pods nor labels can make one, and none can keep it from starting."""
    template = exporter(helm, "everything-on")
    assert template["metadata"]["annotations"] == {"srcip.io/mode": "ebpf"}
    assert template["metadata"]["labels"]["srcip.io/inject"] == "false"
    assert template["metadata"]["labels"]["scrape"] == "yes"


def test_the_exporters_series_keep_the_names_of_their_pods(helm: Helm) -> None:
    """Prometheus takes the page's labels, finds the exporter's Pods, and may reach their only port."""
    objects = helm.objects(CASES["everything-on"])
    labels = exporter(helm, "everything-on")["metadata"]["labels"]
    monitor, policy = one(objects, "PodMonitor", "-exporter"), one(objects, "NetworkPolicy", "-exporter")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert (endpoint["honorLabels"], endpoint["port"], endpoint["path"]) == (True, "metrics", "/metrics")
    for selector in (monitor["spec"]["selector"], policy["spec"]["podSelector"]):
        assert selector["matchLabels"].items() <= labels.items()
    (rule,) = policy["spec"]["ingress"]
    assert [port["port"] for port in rule["ports"]] == ["metrics"]
    assert rule["from"] == CASES["everything-on"]["networkPolicy"]["metricsFrom"]
    assert (policy["spec"]["policyTypes"], policy["spec"]["egress"]) == (["Ingress", "Egress"], [])
