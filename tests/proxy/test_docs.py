"""The reference of the data plane names what the code has."""

import re
from pathlib import Path

from srcip_proxy.haproxy.config import LUA

DOCS = Path(__file__).parents[2] / "docs" / "dataplane.md"


def test_every_reason_of_a_refusal_is_documented() -> None:
    source = (LUA / "counters.lua").read_text()
    refused = source[source.index("refused = {") : source.index("fallback = {")]
    reasons = set(re.findall(r'"([a-z_]+)"', refused[refused.index("values") :]))
    documented = set(re.findall(r"^\| `([a-z_]+)` \|", DOCS.read_text().partition("## Refusals")[2], re.MULTILINE))
    assert reasons == documented


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
