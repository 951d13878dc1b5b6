"""A Pod's cgroup is found by its UID under the names of both of kubelet's drivers."""

from pathlib import Path

import pytest

from srcip_proxy.ebpf import cgroups

UID = "0b6b0ae3-6cd9-4c5c-9a0a-5b9d1b5f7a10"
SYSTEMD = UID.replace("-", "_")
OTHER = "ffffffff-6cd9-4c5c-9a0a-5b9d1b5f7a10"


@pytest.mark.parametrize(
    "path",
    [
        f"kubepods/pod{UID}",
        f"kubepods/burstable/pod{UID}",
        f"kubepods.slice/kubepods-pod{SYSTEMD}.slice",
        f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SYSTEMD}.slice",
        f"kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{SYSTEMD}.slice",
        f"docker/4f2a/kubelet/kubepods/besteffort/pod{UID}",
    ],
)
def test_a_pod_is_found_wherever_kubelet_puts_it(tmp_path: Path, path: str) -> None:
    """Every QoS class, both drivers, and nodes that are containers themselves; other Pods don't matter."""
    (tmp_path / path / "cri-containerd-1.scope").mkdir(parents=True)
    (tmp_path / path.replace(UID, OTHER).replace(SYSTEMD, OTHER.replace("-", "_"))).mkdir(parents=True)
    (tmp_path / "system.slice/containerd.service").mkdir(parents=True)
    assert cgroups.of_pod(tmp_path, UID) == tmp_path / path


@pytest.mark.parametrize("uid", ["", "..", "a/b", f"{UID}/..", ".*", UID[:-1], "x" * 64])
def test_what_is_no_pods_uid_finds_nothing(tmp_path: Path, uid: str) -> None:
    """The UID is compared as a whole, never as a pattern or a path."""
    (tmp_path / f"kubepods/pod{UID}").mkdir(parents=True)
    assert cgroups.of_pod(tmp_path, uid) is None


def test_a_pod_of_a_pod_is_not_found(tmp_path: Path) -> None:
    """What a Pod names the groups below its own is its own affair: nobody can draw another's programs to itself."""
    (tmp_path / f"kubepods/pod{OTHER}/pod{UID}").mkdir(parents=True)
    assert cgroups.of_pod(tmp_path, UID) is None


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / f"elsewhere{OTHER}").mkdir()
    (tmp_path / f"pod{UID}").symlink_to(tmp_path / f"elsewhere{OTHER}")
    assert cgroups.of_pod(tmp_path, UID) is None


def test_version_2_is_told_from_version_1(tmp_path: Path) -> None:
    """Also where systemd keeps it beside the controllers of version 1."""
    (tmp_path / "memory").mkdir()
    assert cgroups.version_2(tmp_path) is None
    (tmp_path / "unified").mkdir()
    (tmp_path / "unified/cgroup.controllers").write_text("")
    assert cgroups.version_2(tmp_path) == tmp_path / "unified"
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    assert cgroups.version_2(tmp_path) == tmp_path
