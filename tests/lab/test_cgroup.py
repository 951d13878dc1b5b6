"""The Pod's own cgroup in the lab: what goes with it, and whose it is."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.lab.conftest import annotated, pod

from srcip_lab import cgroup
from srcip_lab.errors import LabError
from srcip_lab.lab import Lab, down, names
from srcip_lab.state import Process, wait_until
from support.ebpf_rig import needs_root, programs
from support.waiting import DEADLINE_S

pytestmark = pytest.mark.dataplane


@pytest.fixture(autouse=True, scope="module")
def possible() -> None:
    needs_root()


def attached(current: Lab) -> list[str]:
    """The programs of this lab's Pod by their numbers."""
    own = cgroup.of_pod(current.name)
    assert own
    return programs(current.pod, own)


def is_loaded(number: str) -> bool:
    done = subprocess.run(["bpftool", "prog", "show", "id", number], capture_output=True, check=False)
    return done.returncode == 0


def cgroups_of(name: str) -> list[Path]:
    """Directories of the lab in every hierarchy."""
    return [*cgroup.MOUNT.glob(f"srcip-lab-{name}"), *cgroup.MOUNT.glob(f"*/srcip-lab-{name}")]


@pytest.mark.parametrize("is_killed", [False, True])
def test_down_leaves_no_cgroup_and_no_program(clean_lab, is_killed):
    """Also when the lab's kubelet was killed and its containers run on."""
    current = Lab.up(annotated("ebpf"), name=clean_lab)
    numbers = attached(current)
    assert len(numbers) == 4 and all(map(is_loaded, numbers))
    if is_killed:
        kubelet = Process.read(current.status["kubelet"])
        assert kubelet and kubelet.signal(signal.SIGKILL) and kubelet.wait(DEADLINE_S)
    assert cgroups_of(clean_lab) and down(clean_lab)
    assert cgroups_of(clean_lab) == []
    assert wait_until(lambda: not any(map(is_loaded, numbers)), DEADLINE_S)


def test_down_names_a_process_that_somebody_put_into_the_pods_cgroup(clean_lab):
    """It is not the lab's to kill; when it has ended, a second `down` finishes the work."""
    Lab.up_pod(pod(), name=clean_lab)
    own = cgroup.of_pod(clean_lab)
    assert own
    with subprocess.Popen(["sleep", "60"]) as stranger:
        own.joinpath("mine").mkdir()
        (own / "mine" / "cgroup.procs").write_text(str(stranger.pid))
        with pytest.raises(LabError, match=rf"in use, it stays: processes {stranger.pid}$"):
            down(clean_lab)
        assert stranger.poll() is None
        stranger.kill()
    assert down(clean_lab) and cgroups_of(clean_lab) == [] and clean_lab not in names()


def test_a_lab_without_root_never_takes_the_cgroup_of_another_with_its_name(clean_lab):
    with_cgroup = Lab.up_pod(pod(), name=clean_lab)
    code = "from srcip_lab import cgroup; import sys; print(cgroup.of_pod(sys.argv[1])); cgroup.remove(sys.argv[1])"
    inside = ["unshare", "--user", "--map-root-user", sys.executable, "-c", code, clean_lab]
    done = subprocess.run(inside, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "None\n", "")
    assert cgroup.of_pod(with_cgroup.name)


@pytest.mark.parametrize("uid", ["", "../x", "a/b", "x" * 64])
def test_a_uid_that_could_leave_the_directory_is_refused(uid, clean_lab):
    with pytest.raises(LabError, match=r"metadata\.uid"):
        cgroup.create(clean_lab, uid)
