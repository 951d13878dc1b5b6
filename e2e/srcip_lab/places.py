"""Where the lab keeps what it makes, and the variable that names an image made elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

ROOTFS = "SRCIP_PROXY_ROOTFS"
"""Of a root file system that takes the place of the one that the lab builds."""


def cache() -> Path:
    """The directory; created where it is not there yet."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    directory = Path(home) / "srcip"
    directory.mkdir(parents=True, exist_ok=True)
    return directory
