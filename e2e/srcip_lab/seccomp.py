"""The RuntimeDefault seccomp profile for runc, from the profile that Debian's containers-common ships.

That file is written for many machines at once: each rule says for which capabilities and architectures it holds. runc
takes only rules that hold. It is Podman's, and the lab stands for a node with containerd: where they differ in what
srcip needs, containerd's word counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

PROFILE = Path("/usr/share/containers/seccomp.json")
PACKAGE = "golang-github-containers-common"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "s390x": "s390x", "ppc64le": "ppc64le"}
"""The profile's name of each machine that `uname -m` names."""
ALLOW = "SCMP_ACT_ALLOW"
OF_CONTAINERD = {"CAP_BPF": "bpf"}
"""System calls that containerd allows with these capabilities; older versions of this profile want SYS_ADMIN."""


def runtime_default(capabilities: Collection[str], path: Path = PROFILE) -> dict[str, Any] | None:
    """The profile for a container with `capabilities` (CAP_...), in OCI form; None if this machine has no such file."""
    if not path.exists():
        return None
    return convert(json.loads(path.read_text()), capabilities, ARCHITECTURES.get(os.uname().machine, ""))


def convert(profile: dict[str, Any], capabilities: Collection[str], architecture: str) -> dict[str, Any]:
    """`profile` with only the rules that hold for `capabilities` and `architecture` (amd64, arm64, ...)."""
    held = [rule for rule in profile["syscalls"] if _holds(rule, capabilities, architecture)]
    more = [name for key, name in OF_CONTAINERD.items() if key in capabilities and not _allows(held, name)]
    rules = [_rule(rule, more) for rule in held if set(rule["names"]) - set(more)]
    rules += [{"names": [name], "action": ALLOW, "args": []} for name in more]
    converted: dict[str, Any] = {"defaultAction": profile["defaultAction"], "syscalls": rules}
    if "defaultErrnoRet" in profile:
        converted["defaultErrnoRet"] = profile["defaultErrnoRet"]
    if names := _architectures(profile, architecture):
        converted["architectures"] = names
    return converted


def _holds(rule: dict[str, Any], capabilities: Collection[str], architecture: str) -> bool:
    include, exclude = rule.get("includes") or {}, rule.get("excludes") or {}
    needed_arches, needed_caps = include.get("arches") or [], include.get("caps") or []
    return (
        (not needed_arches or architecture in needed_arches)
        and all(name in capabilities for name in needed_caps)
        and architecture not in (exclude.get("arches") or [])
        and not any(name in capabilities for name in exclude.get("caps") or [])
    )


def _allows(rules: Iterable[dict[str, Any]], name: str) -> bool:
    return any(rule["action"] == ALLOW and name in rule["names"] for rule in rules)


def _rule(rule: dict[str, Any], but: Collection[str]) -> dict[str, Any]:
    names = [name for name in rule["names"] if name not in but]
    converted = {"names": names, "action": rule["action"], "args": rule.get("args") or []}
    return converted | ({"errnoRet": rule["errnoRet"]} if "errnoRet" in rule else {})


def _architectures(profile: dict[str, Any], architecture: str) -> list[str]:
    native = {"amd64": "SCMP_ARCH_X86_64", "arm64": "SCMP_ARCH_AARCH64", "s390x": "SCMP_ARCH_S390X"}.get(architecture)
    entries = (entry for entry in profile.get("archMap") or [] if entry["architecture"] == native)
    return [name for entry in entries for name in (entry["architecture"], *(entry.get("subArchitectures") or []))]
