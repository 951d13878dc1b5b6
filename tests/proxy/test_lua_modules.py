"""What each mode loads of Lua: a sidecar has no code that it cannot come to."""

import re
from pathlib import Path

import srcip_proxy.haproxy

FOLDER = Path(srcip_proxy.haproxy.__file__).with_name("lua")
OF_A_MODE = {"redirect", "transparent"}
"""One of both is loaded, by the mode."""


def loaded(*names: str) -> set[str]:
    """These modules, and all that they require."""
    found, waiting = set[str](), list(names)
    while waiting:
        name = waiting.pop()
        found.add(name)
        required = set(re.findall(r'require\("(\w+)"\)', (FOLDER / f"{name}.lua").read_text()))
        waiting += required - found
    return found


def test_only_tproxy_mode_has_a_second_way() -> None:
    assert "fallback" in loaded("srcip", "transparent")
    assert "fallback" not in loaded("srcip", "redirect")
    assert not OF_A_MODE & loaded("srcip")
