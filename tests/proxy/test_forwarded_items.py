"""What stands in a list of addresses costs no more than its length, and one long item hides no client."""

import subprocess
from pathlib import Path

import pytest

LUA = Path(__file__).parents[2] / "proxy/srcip_proxy/haproxy/lua"
WALK = f"""
package.path = "{LUA}/?.lua;" .. package.path
package.loaded["register"] = function() end
local forwarded, protocol = require("forwarded"), require("proxy_protocol")
local item = arg[1]:rep(tonumber(arg[2]))
for _ = 1, 200 do
  local found = forwarded.client(item .. ", 203.0.113.7", function() return false end)
  assert(protocol.text(found) == "203.0.113.7")
  forwarded.client("203.0.113.7," .. item, function() return true end)
end
"""


@pytest.mark.parametrize("text", ["1", "1.", "a", ":", "a:", " ", "\t", "[", '"', ";", "%"])
def test_a_long_item_is_no_work(text: str) -> None:
    """A pattern that tries each beginning again took 2 s for each of these 400 items; now all take milliseconds."""
    script = WALK.replace("arg[1]", repr_lua(text)).replace("tonumber(arg[2])", "15000")
    subprocess.run(["lua5.4", "-"], input=script, text=True, check=True, timeout=60)


FIRST = f"""
package.path = "{LUA}/?.lua;" .. package.path
local first_bytes = require("first_bytes")
for _ = 1, 200 do
  local data = arg[1]:rep(15000) .. arg[2]
  first_bytes.kind(data)
  first_bytes.is_surely_other(data)
end
"""


@pytest.mark.parametrize("end", ["\n", "1\n", "1 x\n", ""])
@pytest.mark.parametrize("text", ["a", "1", " ", "\x01", "/", "a ", "\x16"])
def test_a_long_first_line_is_no_work(text: str, end: str) -> None:
    """Some of these took more than a second each, of the only thread."""
    script = FIRST.replace("arg[1]", repr_lua(text)).replace("arg[2]", repr_lua(end))
    subprocess.run(["lua5.4", "-"], input=script, text=True, check=True, timeout=60)


def repr_lua(text: str) -> str:
    return '("' + "".join(f"\\{ord(sign)}" for sign in text) + '")'


ADDRESSES = {
    "20010db8000000000000000000000007": "2001:db8::7",
    "00000000000000000000000000000001": "::1",
    "00000000000000000000000000000000": "::",
    "00010000000000010000000000010001": "1::1:0:0:1:1",
    "00010000000100000000000100010001": "1:0:1::1:1:1",
    "00010000000100020003000100010001": "1:0:1:2:3:1:1:1",
    "00000000000000000000ffffc0000201": "::ffff:192.0.2.1",
    "20010db8000100010001000100010000": "2001:db8:1:1:1:1:1:0",
    "c0000201": "192.0.2.1",
}


def test_addresses_are_written_as_rfc_5952_has_them() -> None:
    """In PROXY headers of version 1, in headers and in log lines."""
    lines = "".join(
        f'print(protocol.text((("{given}"):gsub("..", function(x) return string.char(tonumber(x, 16)) end))))\n'
        for given in ADDRESSES
    )
    script = f'package.path = "{LUA}/?.lua;" .. package.path\nlocal protocol = require("proxy_protocol")\n{lines}'
    done = subprocess.run(["lua5.4", "-"], input=script, text=True, check=True, stdout=subprocess.PIPE)
    assert done.stdout.splitlines() == list(ADDRESSES.values())
