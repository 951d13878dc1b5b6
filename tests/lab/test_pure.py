"""The rules of kubelet and containerd that the lab follows."""

import json
from dataclasses import replace

import pytest
from tests.lab.conftest import container, pod

from srcip_lab import manifest, oci, plan_pod, probes, rootless, seccomp, volumes
from srcip_lab.environment import PodStatus, environment, expand
from srcip_lab.errors import LabError
from srcip_lab.oci import Place
from srcip_proxy.plan import Plan
from srcip_webhook.mutate import consider
from srcip_webhook.settings import Settings

STATUS = PodStatus(("10.77.3.2", "fd77::2"), ("10.77.0.1",), "node")


@pytest.mark.parametrize(
    ("text", "expanded"),
    [("$(A)-$(A)", "1-1"), ("$$(A)", "$(A)"), ("$(B)", "$(B)"), ("$A", "$A"), ("$$", "$"), ("$", "$"), ("$(A", "$(A")],
)
def test_references_expand_as_in_kubernetes(text, expanded):
    assert expand(text, {"A": "1"}) == expanded


def test_env_is_expanded_with_the_variables_before_it():
    entries = [{"name": "A", "value": "$(B)"}, {"name": "B", "value": "x"}, {"name": "C", "value": "$(B)$(A)"}]
    assert environment(container(env=entries), pod(), STATUS) == {"A": "$(B)", "B": "x", "C": "x$(B)"}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("status.podIP", "10.77.3.2"),
        ("status.podIPs", "10.77.3.2,fd77::2"),
        ("status.hostIP", "10.77.0.1"),
        ("metadata.name", "web"),
        ("metadata.namespace", "shop"),
        ("metadata.uid", "u-1"),
        ("metadata.labels['app']", "web"),
        ("metadata.annotations['none']", ""),
        ("spec.nodeName", "node"),
    ],
)
def test_the_downward_api_answers(path, value):
    entry = {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": path}}}
    assert environment(container(env=[entry]), pod(), STATUS) == {"A": value}


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.phase"}}}]}, "status.phase"),
        ({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}, "secretKeyRef"),
        ({"envFrom": [{"configMapRef": {"name": "c"}}]}, "envFrom"),
    ],
)
def test_a_source_that_only_a_cluster_has_is_named(fields, word):
    with pytest.raises(LabError, match=word):
        environment(container(**fields), pod(), STATUS)


def test_an_optional_reference_is_left_out():
    entry = {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k", "optional": True}}}
    assert environment(container(env=[entry]), pod(), STATUS) == {}


@pytest.mark.parametrize(
    ("asked", "left"),
    [
        ({"drop": ["ALL"], "add": ["NET_RAW"]}, ["CAP_NET_RAW"]),
        ({"drop": ["all"]}, []),
        ({"drop": ["ALL"], "add": ["CAP_NET_ADMIN"]}, ["CAP_NET_ADMIN"]),
    ],
)
def test_capabilities_are_dropped_first_then_added(asked, left):
    assert oci.capabilities({"capabilities": asked}) == left


def test_without_a_word_a_container_has_the_fourteen_of_containerd():
    assert len(oci.capabilities({})) == 14
    assert "CAP_NET_ADMIN" not in oci.capabilities({})
    assert len(oci.capabilities({"privileged": True})) == 41


def test_the_container_decides_over_the_pod():
    inherited = pod(securityContext={"runAsUser": 1, "runAsNonRoot": True, "fsGroup": 7})
    context = oci.security(inherited, container(securityContext={"runAsUser": 7363, "runAsGroup": 7363}))
    assert oci.user("app", context) == {"uid": 7363, "gid": 7363, "additionalGids": [7]}


def test_run_as_non_root_refuses_root():
    with pytest.raises(LabError, match="runAsNonRoot"):
        oci.user("app", {"runAsNonRoot": True})


def test_a_container_without_command_is_refused_by_name():
    with pytest.raises(LabError, match=r"container app: no command.*nginx"):
        oci.command_line({"name": "app", "image": "nginx"}, {})


def test_the_configuration_holds_what_the_pod_says(tmp_path):
    sidecar = container(
        args=["$(A)"],
        workingDir="/srv",
        securityContext={
            "runAsUser": 7363,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"], "add": ["NET_RAW"]},
        },
    )
    place = Place(tmp_path, tmp_path / "net", "web", {"A": "x"}, ((tmp_path, "/data", True),))
    made = oci.config(sidecar, pod(), place)
    process = made["process"]
    assert process["capabilities"] == {key: ["CAP_NET_RAW"] for key in ("bounding", "effective", "permitted")}
    assert (process["args"][-1], process["cwd"], process["env"], process["noNewPrivileges"]) == (
        "x",
        "/srv",
        ["A=x"],
        True,
    )
    assert made["root"] == {"path": str(tmp_path), "readonly": True}
    assert {"type": "network", "path": str(tmp_path / "net")} in made["linux"]["namespaces"]
    assert made["mounts"][-1] == {
        "destination": "/data",
        "type": "bind",
        "source": str(tmp_path),
        "options": ["rbind", "rprivate", "ro"],
    }
    assert "/proc/sys" in made["linux"]["readonlyPaths"]
    assert "seccomp" not in made["linux"] and "cgroupsPath" not in made["linux"]
    in_pod = oci.config(sidecar, pod(), replace(place, cgroup="/kubepods/podu-1/app"))
    assert in_pod["linux"]["cgroupsPath"] == "/kubepods/podu-1/app"


RULES = [
    {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": None},
    {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_BPF"]}},
    {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "excludes": {"caps": ["CAP_BPF"]}},
    {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}},
    {"names": ["old"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["amd64"]}},
]
PROFILE = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 38,
    "archMap": [
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
    ],
    "syscalls": RULES,
}


@pytest.mark.parametrize(
    ("capabilities", "architecture", "kept"),
    [
        ([], "amd64", [("read", "ALLOW"), ("bpf", "ERRNO"), ("arch_prctl", "ALLOW")]),
        (["CAP_BPF"], "amd64", [("read", "ALLOW"), ("bpf", "ALLOW"), ("arch_prctl", "ALLOW")]),
        ([], "arm64", [("read", "ALLOW"), ("bpf", "ERRNO"), ("old", "ALLOW")]),
    ],
)
def test_seccomp_keeps_the_rules_that_hold(capabilities, architecture, kept):
    made = seccomp.convert(PROFILE, capabilities, architecture)
    assert [(rule["names"][0], rule["action"].removeprefix("SCMP_ACT_")) for rule in made["syscalls"]] == kept


@pytest.mark.parametrize(("capabilities", "action"), [(["CAP_BPF"], "ALLOW"), ([], "ERRNO")])
def test_seccomp_gives_cap_bpf_its_system_call_as_containerd_does(capabilities, action):
    """Also where the profile gives it to SYS_ADMIN alone; what stands beside it stays refused."""
    both = {"names": ["bpf", "setns"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_SYS_ADMIN"]}}
    made = seccomp.convert({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [both]}, capabilities, "amd64")
    decided = {name: rule["action"] for rule in made["syscalls"] for name in rule["names"]}
    assert decided == {"setns": "SCMP_ACT_ERRNO", "bpf": f"SCMP_ACT_{action}"}
    assert sum("bpf" in rule["names"] for rule in made["syscalls"]) == 1


def test_seccomp_keeps_defaults_errors_and_architectures():
    made = seccomp.convert(PROFILE, [], "amd64")
    assert (made["defaultAction"], made["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 38)
    assert made["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
    assert made["syscalls"][1] == {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "args": [], "errnoRet": 1}


def test_a_machine_without_the_profile_has_none(tmp_path):
    assert seccomp.runtime_default([], tmp_path / "none.json") is None


@pytest.mark.parametrize(("quantity", "size"), [("4Mi", 4 << 20), ("1k", 1000), ("12", 12), ("2Gi", 2 << 30)])
def test_a_size_limit_is_read(quantity, size):
    assert volumes.size(quantity) == size


def test_a_size_limit_of_another_form_is_refused():
    with pytest.raises(LabError, match=r"sizeLimit '1\.5Mi'"):
        volumes.size("1.5Mi")


def test_a_mount_of_an_unknown_volume_is_refused():
    with pytest.raises(LabError, match="volume 'x'"):
        volumes.mounts(container(volumeMounts=[{"name": "x", "mountPath": "/x"}]), {})


def test_a_probe_finds_a_port_by_name_and_by_number():
    named = container(ports=[{"name": "web", "containerPort": 80}])
    assert [probes.port(named, each) for each in ("web", 81, "82")] == [80, 81, 82]
    with pytest.raises(LabError, match="'none'"):
        probes.port(named, "none")


def test_only_declared_tcp_ports_are_waited_for():
    ports = [{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 80}]
    assert probes.tcp_ports(container(ports=ports)) == {80}


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet"])
def test_the_pod_of_a_workload_is_taken(kind):
    template = {
        "metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [{"name": "app", "ports": [{"containerPort": 80}]}]},
    }
    workload = {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "web"}, "spec": {"template": template}}
    made = manifest.pod(workload)
    assert (made["kind"], made["metadata"]["name"], made["metadata"]["labels"]) == ("Pod", "web", {"a": "b"})
    assert made["spec"]["containers"][0]["ports"] == [{"containerPort": 80, "protocol": "TCP"}]
    assert made["spec"]["restartPolicy"] == "Always"
    assert "protocol" not in json.dumps(workload)


def test_a_pod_has_a_uid_of_its_own_whatever_the_manifest_says():
    """As from the API server: the UID names the Pod's cgroup, and of a copied one there would be two."""
    uids = {manifest.pod(pod())["metadata"]["uid"] for _ in range(2)}
    assert len(uids | {pod()["metadata"]["uid"]}) == 3


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "holds 0"),
        ("kind: Service\napiVersion: v1", "holds 0"),
        ("{", "not YAML"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {}", "spec.containers"),
    ],
)
def test_a_manifest_without_one_pod_is_refused(tmp_path, text, word):
    path = tmp_path / "pod.yaml"
    path.write_text(text)
    with pytest.raises(LabError, match=word):
        manifest.load(str(path))


def test_two_pods_in_one_file_are_named(tmp_path):
    path = tmp_path / "pods.yaml"
    path.write_text("\n---\n".join(json.dumps({**pod(), "metadata": {"name": name}}) for name in ("a", "b")))
    with pytest.raises(LabError, match="holds 2: Pod/a, Pod/b"):
        manifest.load(str(path))


def test_a_pod_made_from_a_plan_is_the_one_that_the_webhook_makes():
    settings = Settings(proxy_image=plan_pod.IMAGE, trusted_cidrs=("10.77.1.0/24",))
    asking = pod()
    asking["metadata"]["annotations"] = {"srcip.io/mode": "tproxy"}
    theirs = consider(asking, settings).after["spec"]
    plan = Plan.from_env(theirs["initContainers"][0]["env"][0]["value"])
    ours = plan_pod.pod(plan, ["app"])["spec"]
    assert ours["volumes"] == theirs["volumes"]
    for mine, other in zip(ours["initContainers"], theirs["initContainers"], strict=True):
        assert {key for key in mine if key != "volumeMounts" and mine[key] != other[key]} == set()


def test_without_root_what_is_missing_is_named(monkeypatch):
    monkeypatch.setenv("LOGNAME", "nobody-here")
    with pytest.raises(LabError) as caught:
        rootless.run_inside(["true"])
    assert "a range for nobody-here in /etc/subuid" in str(caught.value)
