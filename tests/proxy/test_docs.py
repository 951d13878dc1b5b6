"""The reference of the data plane names what the code has."""

import re
from pathlib import Path

from srcip_proxy.ebpf.counters import COUNTERS
from srcip_proxy.haproxy.config import LUA

DOCS = Path(__file__).parents[2] / "docs" / "dataplane.md"


COUNTER = re.compile(r"^  ([a-z_]+) = \{\n.*?values = \{(.*?)\}", re.MULTILINE | re.DOTALL)
"""A row of SERIES in counters.lua."""


def series() -> dict[str, set[str]]:
    """The counters of the sidecar, each with the values of its label."""
    rows = COUNTER.findall((LUA / "counters.lua").read_text())
    return {name: set(re.findall(r'"([a-z_]+)"', values)) for name, values in rows}


def test_every_reason_of_a_refusal_is_documented() -> None:
    documented = set(re.findall(r"^\| `([a-z_]+)` \|", DOCS.read_text().partition("## Refusals")[2], re.MULTILINE))
    assert series()["refused"] == documented


def test_every_counter_is_documented_with_its_values() -> None:
    """Reasons of refusals have a table of their own."""
    row = re.compile(r"^\| `srcip_([a-z]+)_connections_total\{[a-z]+\}` \| (.*) \|$", re.MULTILINE)
    documented = {name: set(re.findall(r"`([a-z_]+)`", text)) for name, text in row.findall(DOCS.read_text())}
    assert documented == {name: set() if name == "refused" else values for name, values in series().items()}


def test_every_counter_of_ebpf_mode_is_documented() -> None:
    """What both modes have is in the sidecar's tables, to which ebpf.md refers."""
    text = DOCS.read_text() + (DOCS.parent / "ebpf.md").read_text()
    assert [label for _, label in COUNTERS if f"`{label}`" not in text] == []


def test_every_reason_has_a_cure_in_its_log_line() -> None:
    source = (LUA / "srcip.lua").read_text()
    used = {
        reason for path in LUA.glob("*.lua") for reason in re.findall(r'refuse\(txn, "([a-z_]+)"', path.read_text())
    }
    used |= set(re.findall(r'refuse\("([a-z_]+)"', (LUA / "proxy_protocol.lua").read_text()))
    for path in LUA.glob("*.lua"):
        used |= set(re.findall(r'log\(.*, "([a-z_]+)"[,)]', path.read_text()))
    used |= set(re.findall(r'return "([a-z_]+)"', (LUA / "transparent.lua").read_text()))
    hints = source[source.index("local HINTS = {") : source.index("local function endpoint")]
    assert used == set(re.findall(r"^  ([a-z_]+) = ", hints, re.MULTILINE))
