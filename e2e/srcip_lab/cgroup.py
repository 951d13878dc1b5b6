"""The Pod's own cgroup, named as kubelet names it: srcip-lab-NAME/kubepods/burstable/podUID/CONTAINER, in cgroup v2.

It is below a directory of the lab's own, as with kubelet's `cgroupRoot`: a kubelet of this machine ends whatever it
finds below its own `kubepods` and does not know. Only root can make it; a lab without root goes without.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from srcip_lab import rootless
from srcip_lab.errors import LabError
from srcip_lab.state import wait_until
from srcip_proxy.ebpf import cgroups

MOUNT = Path("/sys/fs/cgroup")
"""Where every Linux has its cgroups, and the patched Pod's hostPath."""
PODS = "kubepods/burstable"
END_S = 2.0
"""How long a killed process may stay in its cgroup."""
_UID = re.compile(r"[0-9A-Za-z-]{1,63}", re.ASCII)
_JOIN = 'echo 0 >"$0/cgroup.procs" && exec "$@"'


def create(lab: str, uid: str) -> bool:
    """Make the cgroup of the Pod with this UID; False where this machine allows none. Raises LabError for a bad UID."""
    if not _UID.fullmatch(uid):
        raise LabError(f"metadata.uid {uid!r}: allowed are letters, digits and -, at most 63")
    if not (mount := _version_2()):
        return False
    try:
        (mount / _name(lab) / PODS / f"pod{uid}").mkdir(parents=True, exist_ok=True)
    except OSError:  # read-only, or not ours
        return False
    return True


def of_pod(lab: str) -> Path | None:
    """The directory of the lab's Pod, if it has one."""
    mount = _version_2()
    return next((mount / _name(lab) / PODS).glob("pod*"), None) if mount else None


def of_container(lab: str, container: str) -> str | None:
    """Where runc is to put the container, for its cgroupsPath, the same in each hierarchy; None: where it likes."""
    pod = of_pod(lab)
    return f"/{_name(lab)}/{PODS}/{pod.name}/{container}" if pod else None


@contextmanager
def visiting(lab: str) -> Iterator[list[str]]:
    """What starts the command after it in the Pod's cgroup, as long as the block lasts; nothing if it has none."""
    pod = of_pod(lab)
    if not pod:
        yield []
        return
    with _lasting(pod / f"visitor-{os.getpid()}") as group:  # processes are in leaves alone (cgroups(7))
        yield ["sh", "-c", _JOIN, str(group)]


@contextmanager
def balancer(lab: str) -> Iterator[Path]:
    """A cgroup of the lab outside of its Pod, as long as the block lasts. Raises LabError where there can be none."""
    pod = of_pod(lab)
    if not pod:
        raise LabError("--toa needs a cgroup of its own, which only root can make, where cgroup v2 is mounted")
    with _lasting(pod.parents[2] / f"balancer-{os.getpid()}") as group:
        yield group


@contextmanager
def _lasting(group: Path) -> Iterator[Path]:
    """A new cgroup that goes with the block."""
    group.mkdir()
    try:
        yield group
    finally:
        _remove(group)


@contextmanager
def inside(group: Path) -> Iterator[None]:
    """This process is in `group` meanwhile."""
    mount = _version_2()
    own = next(row for row in Path("/proc/self/cgroup").read_text().splitlines() if row.startswith("0::"))
    home = mount / own[3:].lstrip("/") if mount else group
    (group / "cgroup.procs").write_text("0")
    try:
        yield
    finally:
        (home / "cgroup.procs").write_text("0")


def remove(lab: str) -> None:
    """Remove what `create` and runc made, in each hierarchy; nothing if there is nothing. Raises LabError if in use."""
    if rootless.is_inside():
        return
    for hierarchy in (MOUNT, *MOUNT.glob("*")):
        if not hierarchy.is_symlink():
            _remove(hierarchy / _name(lab))


def _remove(top: Path) -> None:
    for name, _, _ in os.walk(top, topdown=False):
        path = Path(name)
        if not wait_until(lambda path=path: _removed(path), END_S):
            inside = " ".join((path / "cgroup.procs").read_text().split())
            raise LabError(f"{path}: made by the lab and in use, it stays: processes {inside or 'unknown'}")


def _removed(path: Path) -> bool:
    """Whether it is gone; a process that has just ended keeps it for a moment."""
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _version_2() -> Path | None:
    """Where it is mounted. Not for a lab without root: it can make nothing there, and another's may have its name."""
    return None if rootless.is_inside() else cgroups.version_2(MOUNT)


def _name(lab: str) -> str:
    return f"srcip-lab-{lab}"
