"""What the init container does in ebpf mode: find the Pod's cgroup and interface, attach the programs, and be gone."""

from __future__ import annotations

import errno
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from srcip_proxy import capset
from srcip_proxy import pod as pods
from srcip_proxy.ebpf import attach, cgroups, preflight
from srcip_proxy.ebpf.libbpf import BpfError, HookError, LoadError
from srcip_proxy.errors import NotPossibleError
from srcip_proxy.plan import CGROUP_MOUNT, Plan
from srcip_proxy.pod import Pod

UID = "POD_UID"
_LINKS = "CONFIG_NET_CLS_ACT, CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF (modules sch_ingress, cls_bpf)"


def set_up(
    plan: Plan,
    pod: Pod,
    environment: Mapping[str, str],
    root: Path = Path(CGROUP_MOUNT),
    objects: Sequence[Path] = attach.OBJECTS,
) -> str:
    """Attach everything and say what was done. Raises NotPossibleError."""
    reasons = preflight.obstacles(platform.release())
    try:
        cgroup = own_cgroup(root, environment.get(UID, ""))
    except NotPossibleError as error:
        reasons += error.reasons
    if reasons:
        raise NotPossibleError(reasons)
    try:
        capset.use_all()
        links = tuple(dict.fromkeys([interface(pod, pods.run_ip), *preflight.ethernets()]))
        if reasons := preflight.places(links, cgroup, objects):
            raise NotPossibleError(reasons)
        return attach.attach(plan, pod, objects, attach.Place(links, cgroup))
    except (BpfError, OSError) as error:
        raise NotPossibleError([*explained(error), str(error)], is_untouched(error)) from error


def is_untouched(error: Exception) -> bool:
    """Whether no packet is touched after this error: programs do nothing until all are there (attach.attach)."""
    return not isinstance(error, attach.AlreadyAttachedError)


def own_cgroup(root: Path, uid: str) -> Path:
    """The directory of this Pod, whose UID is `uid`. Raises NotPossibleError."""
    if not root.is_dir():
        raise NotPossibleError([f"{root} is missing: it is the node's /sys/fs/cgroup, a hostPath volume"])
    top = cgroups.version_2(root)
    if not top:
        text = f"{root}, the node's /sys/fs/cgroup, is not cgroup v2: boot the node with"
        raise NotPossibleError([f"{text} systemd.unified_cgroup_hierarchy=1, choose another node, or mode tproxy"])
    cgroup = cgroups.of_pod(top, uid)
    if not cgroup:
        text = f"no directory of Pod {uid!r} ({UID}, metadata.uid) is below {top}"
        raise NotPossibleError([f"{text}: the hostPath must be the node's own /sys/fs/cgroup"])
    if not cgroups.holds(cgroup, os.getpid()):
        raise NotPossibleError([f"{cgroup} does not hold this container: {UID} must be its own Pod's metadata.uid"])
    return cgroup


def explained(error: Exception) -> list[str]:
    """What to do about an error of the kernel."""
    if isinstance(error, HookError):
        return [f"the node's kernel may lack {_LINKS}: load them on the node, choose another node, or mode tproxy"]
    if isinstance(error, LoadError) and error.errno == errno.EPERM:
        return [
            "the kernel allows no bpf(2) here though CAP_BPF is there: the node's container runtime may have a seccomp "
            "profile from before Linux 5.8 (update it), or the kernel may be locked down (lockdown=confidentiality)"
        ]
    if isinstance(error, LoadError):
        return [f"the verifier of Linux {platform.release()} refuses the programs: choose another node, or mode tproxy"]
    return []


def interface(pod: Pod, ip: Callable[..., str]) -> str:
    """The interface that has the Pod's first address, which must be there. Raises NotPossibleError."""
    wanted = str(pod.addresses[0]) if pod.addresses else ""
    for link in json.loads(ip("-j", "addr", "show")):
        if any(row.get("local") == wanted for row in link["addr_info"]):
            return str(link["ifname"])
    raise NotPossibleError([f"no interface has the Pod's address {wanted or '(none known)'}"])
