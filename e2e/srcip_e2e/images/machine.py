"""How this machine reaches packages (proxies, indexes, certificates), handed to the steps of a build and nothing else.

The settings are mounted while a step runs. They reach no image: the final stage copies one folder that no mount is in.
Proxy variables (http_proxy and so on) are passed on by buildah itself.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from srcip_lab.tools import run

PIP_OPTIONS = frozenset(
    {"index-url", "extra-index-url", "no-index", "find-links", "trusted-host", "proxy", "cert", "client-cert"}
    | {"timeout", "default-timeout", "retries"}
)
APT_OPTIONS = ("Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Retries", "Acquire::ForceIPv")
CERTIFICATE_VARIABLES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
PLACE = "/machine"
"""Where the files that the settings name are mounted."""
PIP_FILE, APT_FILE = "/etc/pip.conf", "/etc/apt/apt.conf.d/99machine"
_PATH = re.compile(r"(?<![\w/:.-])((?:file://)?)(/[^\s\"';,]+)")


@dataclass(frozen=True)
class Settings:
    """Configuration files for a build, by their place in the container, and what they name on this machine."""

    texts: Mapping[str, str]
    mounts: Mapping[str, str] = field(default_factory=dict)

    def volumes(self, directory: Path) -> list[str]:
        """Write the texts into `directory`; the words that make buildah mount everything, read-only."""
        mounts = dict(self.mounts)
        for place, text in self.texts.items():
            file = directory / Path(place).name
            file.write_text(text)
            mounts[str(file)] = place
        return [f"--volume={source}:{place}:ro" for source, place in sorted(mounts.items())]


def settings() -> Settings:
    """What this machine's pip and apt are set to, for now."""
    pip = pip_options(run(sys.executable, "-m", "pip", "config", "list"))
    for variable in CERTIFICATE_VARIABLES:
        if path := os.environ.get(variable):
            pip.setdefault("cert", path)
    return moved({PIP_FILE: pip_text(pip), APT_FILE: apt_text(run("apt-config", "dump"))})


def pip_options(listing: str) -> dict[str, str]:
    """The options in `pip config list` that say where packages come from; the environment's win, as in pip."""
    found = {}
    lines = [line.partition("=") for line in listing.splitlines() if "=" in line]
    for name, _, value in sorted(lines, key=lambda parts: parts[0].startswith(":env:")):
        option = name.rpartition(".")[2]
        if option in PIP_OPTIONS:
            found[option] = str(ast.literal_eval(value))
    return found


def pip_text(options: Mapping[str, str]) -> str:
    """A pip.conf."""
    lines = [f"{name} = {value.strip().replace(chr(10), chr(10) + '  ')}" for name, value in sorted(options.items())]
    return "\n".join(["[global]", *lines, ""])


def apt_text(dump: str) -> str:
    """The lines of `apt-config dump` that say how to fetch."""
    return "".join(f"{line}\n" for line in dump.splitlines() if line.startswith(APT_OPTIONS))


def moved(texts: Mapping[str, str]) -> Settings:
    """The same settings where every file they name lies under PLACE."""
    mounts = {path: PLACE + path for text in texts.values() for path in existing_paths(text)}

    def move(match: re.Match[str]) -> str:
        return match[1] + mounts.get(match[2], match[2])

    return Settings({place: _PATH.sub(move, text) for place, text in texts.items()}, mounts)


def existing_paths(text: str) -> Iterable[str]:
    """The absolute paths in `text` that are there on this machine."""
    return [match[2] for match in _PATH.finditer(text) if Path(match[2]).exists()]
