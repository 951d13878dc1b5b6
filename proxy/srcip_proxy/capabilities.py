"""Which Linux capabilities this process lacks (capabilities(7))."""

from __future__ import annotations

from pathlib import Path

NUMBERS = {
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SETPCAP": 8,
    "NET_ADMIN": 12,
    "SYS_PTRACE": 19,
    "SYS_ADMIN": 21,
    "BPF": 39,
}
"""Those that srcip-proxy looks for, as in linux/capability.h."""
_STATUS = Path("/proc/self/status")


def missing(*names: str, files: str = "python3 and setpriv", status: Path = _STATUS) -> list[str]:
    """A sentence for each that this process lacks; `files` are the programs that should have them."""
    permitted, bounding = held("CapPrm", status), held("CapBnd", status)
    found = []
    for name in names:
        if permitted >> NUMBERS[name] & 1:
            continue
        allowed = bounding >> NUMBERS[name] & 1
        why = (
            f"the file capabilities of {files} are missing in this image"
            if allowed
            else "the container's securityContext does not add it"
        )
        found.append(f"CAP_{name} is missing: {why}")
    return found


def held(name: str, status: Path = _STATUS) -> int:
    """One set of this process, such as CapPrm, as bits."""
    rows = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return int(rows[name], 16)
