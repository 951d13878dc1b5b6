"""The Pods of a node in ebpf mode with their names and counters, and the page that Prometheus reads."""

from __future__ import annotations

import errno
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from srcip_proxy.ebpf import cgroups
from srcip_proxy.ebpf import counters as ebpf_counters
from srcip_proxy.ebpf.counters import COUNTERS
from srcip_proxy.ebpf.exporter.kernel import Kernel
from srcip_proxy.ebpf.libbpf import GETPEERNAME4

PROGRAM, MAP = "srcip_peer4", "counters"
"""Of proxy/bpf/getpeername.h and state.h: the program that is looked for on Pods' cgroups, and its map."""
STATES = ("shown", "replaced", "unnamed", "unreadable")
"""Why the counters of a Pod are on the page, or not."""
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_LOGS = re.compile(rf"({_LABEL})_([a-z0-9](?:[a-z0-9.-]{{0,251}}[a-z0-9])?)_([0-9A-Za-z-]{{1,63}})", re.ASCII)
_GONE = (errno.ENOENT, errno.ENODEV)
"""What the kernel says of a directory, a cgroup, a program or a map that has gone since its name was read."""


@dataclass(frozen=True, order=True)
class Name:
    """What Kubernetes calls a Pod."""

    namespace: str
    pod: str


@dataclass(frozen=True)
class Reading:
    """What the programs on one Pod's cgroup have counted."""

    uid: str
    loaded: int
    """When the newest of them was loaded."""
    values: tuple[int, ...] | None
    """In the order of COUNTERS, from the first on; None: they have no such map."""


def names(directories: Iterable[str]) -> dict[str, Name]:
    """Names by UID, from those of the directories in which kubelet keeps the Pods' logs. Pure.

    They are `<namespace>_<pod>_<uid>`, and no name in Kubernetes has a `_`. Whatever else is there is left out.
    """
    found = filter(None, map(_LOGS.fullmatch, directories))
    return {match[3]: Name(match[1], match[2]) for match in found}


def readings(kernel: Kernel, root: Path) -> Iterator[Reading]:
    """Of every Pod below `root` that has programs of ebpf mode, but for one that goes meanwhile. Raises OSError."""
    for cgroup, uid in cgroups.pods(root):
        try:
            found = _reading(kernel, cgroup, uid.replace("_", "-"))
        except OSError as error:
            if error.errno not in _GONE:
                raise
            continue
        if found:
            yield found


def _reading(kernel: Kernel, cgroup: Path, uid: str) -> Reading | None:
    """The sum over all programs of ours: one is left of each earlier sandbox of the Pod, and counts no more. With it,
    the counters of a Pod never go back."""
    programs = map(kernel.program, kernel.attached(cgroup, GETPEERNAME4))
    own = [program for program in programs if program.name == PROGRAM]
    if not own:
        return None
    counted = [_counted(kernel, program.maps) for program in own]
    values = None if None in counted else tuple(map(sum, zip(*_padded(counted), strict=True)))
    return Reading(uid, max(program.loaded for program in own), values)


def _counted(kernel: Kernel, maps: Iterable[int]) -> tuple[int, ...] | None:
    values = (kernel.counters(number, MAP, len(COUNTERS)) for number in maps)
    return next((each for each in values if each is not None), None)


def _padded(counted: list[tuple[int, ...] | None]) -> Iterator[tuple[int, ...]]:
    """An older version may have fewer counters."""
    for each in filter(None, counted):
        yield each + (0,) * (len(COUNTERS) - len(each))


def page(found: Iterable[Reading], known: Mapping[str, Name]) -> str:
    """What Prometheus reads. Pure.

    Of two Pods of one name, which there are for a moment when the first was deleted by force, the newer one is shown.
    """
    shown: dict[Name, tuple[int, ...]] = {}
    states: Counter[str] = Counter()
    for each in sorted(found, key=lambda reading: -reading.loaded):
        name = known.get(each.uid)
        state = _state(each, name, name in shown)
        states[state] += 1
        if state == "shown" and name and each.values is not None:
            shown[name] = each.values
    counters = [(vars(name), dict(zip(COUNTERS, values, strict=True))) for name, values in sorted(shown.items())]
    return ebpf_counters.page(counters) + _pods(states)


def _state(reading: Reading, name: Name | None, is_known: bool) -> str:
    if reading.values is None:
        return "unreadable"
    if name is None:
        return "unnamed"
    return "replaced" if is_known else "shown"


def _pods(states: Counter[str]) -> str:
    lines = [f'srcip_ebpf_pods{{state="{state}"}} {states[state]}' for state in STATES]
    head = ["# HELP srcip_ebpf_pods Pods of this node in ebpf mode, by whether their counters are exported."]
    return "\n".join([*head, "# TYPE srcip_ebpf_pods gauge", *lines]) + "\n"


def read(kernel: Kernel, root: Path, logs: Path) -> str:
    """The page as it is now. Raises OSError.

    The programs come first: a Pod that starts meanwhile has a directory of logs before it has programs.
    """
    found = list(readings(kernel, root))
    return page(found, names(each.name for each in logs.iterdir()))
