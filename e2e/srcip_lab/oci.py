"""A container of a Pod as the OCI configuration that runc runs. Pure.

It follows what kubelet and containerd write for the same container: the same capabilities, user, masked paths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srcip_lab import seccomp
from srcip_lab.environment import expand
from srcip_lab.errors import LabError

# fmt: off
DEFAULT_CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP",
    "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
)
"""What containerd gives a container that says nothing."""
ALL_CAPABILITIES = (
    *DEFAULT_CAPABILITIES,
    "DAC_READ_SEARCH", "LINUX_IMMUTABLE", "NET_BROADCAST", "NET_ADMIN", "IPC_LOCK", "IPC_OWNER", "SYS_MODULE",
    "SYS_RAWIO", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME",
    "SYS_TTY_CONFIG", "LEASE", "AUDIT_CONTROL", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM",
    "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
)
# fmt: on
MASKED = tuple(
    f"/proc/{name}"
    for name in ("acpi", "asound", "kcore", "keys", "latency_stats", "timer_list", "timer_stats", "sched_debug", "scsi")
)
READ_ONLY = tuple(f"/proc/{name}" for name in ("bus", "fs", "irq", "sys", "sysrq-trigger"))


@dataclass(frozen=True)
class Place:
    """Where a container runs: what runc needs besides the container's own words."""

    rootfs: Path
    netns: Path
    hostname: str
    environment: Mapping[str, str]
    mounts: tuple[tuple[Path, str, bool], ...] = ()
    """Source on this machine, path in the container, read-only."""
    cgroup: str | None = None
    """Its path in each hierarchy; None: one that runc chooses."""


def security(pod: Mapping[str, Any], container: Mapping[str, Any]) -> dict[str, Any]:
    """The container's security context over the Pod's."""
    inherited = (pod.get("spec") or {}).get("securityContext") or {}
    own = {key: value for key, value in (container.get("securityContext") or {}).items() if value is not None}
    return {**inherited, **own}


def capabilities(context: Mapping[str, Any]) -> list[str]:
    """The capabilities (CAP_...) that `context` leaves and adds, sorted."""
    if context.get("privileged"):
        return sorted(f"CAP_{name}" for name in ALL_CAPABILITIES)
    asked = context.get("capabilities") or {}
    add, drop = ([str(name).upper() for name in asked.get(key) or []] for key in ("add", "drop"))
    names = set(ALL_CAPABILITIES if "ALL" in add else DEFAULT_CAPABILITIES)
    names = (set() if "ALL" in drop else names - set(drop)) | (set(add) - {"ALL"})
    return sorted(f"CAP_{name.removeprefix('CAP_')}" for name in names)


def user(name: str, context: Mapping[str, Any]) -> dict[str, Any]:
    """User and groups. Raises LabError where kubelet would refuse to start the container."""
    uid = context.get("runAsUser", 0)
    if context.get("runAsNonRoot") and uid == 0:
        raise LabError(f"container {name}: runAsNonRoot is set, and it would run as root: set runAsUser")
    groups = list(context.get("supplementalGroups") or [])
    groups += [context["fsGroup"]] if "fsGroup" in context else []
    return {"uid": uid, "gid": context.get("runAsGroup", 0), "additionalGids": groups}


def command_line(container: Mapping[str, Any], variables: Mapping[str, str]) -> list[str]:
    """command and args with $(NAME) replaced. Raises LabError without a command: the lab has no image to ask."""
    if not container.get("command"):
        raise LabError(
            f"container {container['name']}: no command. The lab pulls no image ({container.get('image', 'none')}): "
            "it runs `command` and `args` with the programs of this machine, so the manifest has to name them"
        )
    return [expand(str(word), variables) for word in (*container["command"], *(container.get("args") or []))]


def config(container: Mapping[str, Any], pod: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """The whole OCI configuration of `container`."""
    context = security(pod, container)
    names = capabilities(context)
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": user(container["name"], context),
            "args": command_line(container, place.environment),
            "env": [f"{name}={value}" for name, value in place.environment.items()],
            "cwd": container.get("workingDir") or "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), names),
            "noNewPrivileges": context.get("allowPrivilegeEscalation") is False,
        },
        "root": {"path": str(place.rootfs), "readonly": bool(context.get("readOnlyRootFilesystem"))},
        "hostname": place.hostname,
        "mounts": [*_system_mounts(), *_volume_mounts(place.mounts)],
        "linux": _linux(context, names, place),
    }


def _linux(context: Mapping[str, Any], names: Sequence[str], place: Place) -> dict[str, Any]:
    namespaces = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]
    linux: dict[str, Any] = {"namespaces": [*namespaces, {"type": "network", "path": str(place.netns)}]}
    linux |= {"cgroupsPath": place.cgroup} if place.cgroup else {}
    if context.get("privileged"):
        return linux
    linux |= {"maskedPaths": [*MASKED, "/sys/firmware"], "readonlyPaths": list(READ_ONLY)}
    profile = seccomp.runtime_default(names) if wants_seccomp(context) else None
    return linux | ({"seccomp": profile} if profile else {})


def wants_seccomp(context: Mapping[str, Any]) -> bool:
    """Whether the container asks for the RuntimeDefault profile."""
    return (context.get("seccompProfile") or {}).get("type") == "RuntimeDefault"


def _system_mounts() -> list[dict[str, Any]]:
    quiet = ["nosuid", "noexec", "nodev"]
    return [
        _mount("/proc", "proc", quiet),
        _mount("/dev", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount("/dev/pts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
        _mount("/dev/shm", "tmpfs", [*quiet, "mode=1777", "size=65536k"]),  # noqa: S108 (the container's own)
        _mount("/dev/mqueue", "mqueue", quiet),
        _mount("/sys", "sysfs", [*quiet, "ro"]),
    ]


def _mount(destination: str, kind: str, options: list[str]) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": kind, "options": options}


def _volume_mounts(mounts: Sequence[tuple[Path, str, bool]]) -> list[dict[str, Any]]:
    return [
        {
            "destination": path,
            "type": "bind",
            "source": str(source),
            "options": ["rbind", "rprivate", "ro" if read_only else "rw"],
        }
        for source, path, read_only in mounts
    ]
