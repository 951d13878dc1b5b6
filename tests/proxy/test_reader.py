"""The Lua reader of the PROXY protocol agrees with the reference on noise, on every case, and on damaged headers."""

import ipaddress
import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from srcip_proxy.haproxy.config import LUA
from support import reference
from support.rig import v1, v2

CASES = json.loads(Path(reference.__file__).with_name("cases.json").read_text())["cases"]
HEADERS = [bytes.fromhex(case["hex"]) for case in CASES]
ALPHABET = b"PROXY TCP46UNKNOWN0123456789abcdefABCDEF.: \r\n\0\xff%+-"
COUNT = 20_000


def verdicts(inputs: list[bytes]) -> list[tuple[object, ...]]:
    """What the Lua reader says, in the words of the reference."""
    lua = shutil.which("lua5.4")
    assert lua, "lua5.4 is missing (apt-get install lua5.4)"
    script = str(Path(__file__).with_name("parse.lua"))
    text = "".join(f"{data.hex()}\n" for data in inputs)
    done = subprocess.run([lua, script, str(LUA)], input=text, text=True, capture_output=True, check=True)
    return [verdict(line.split()) for line in done.stdout.splitlines()]


def verdict(words: list[str]) -> tuple[object, ...]:
    kind, *rest = words
    if kind == "proxy":
        return (kind, str(ipaddress.ip_address(rest[0])), int(rest[1]), int(rest[2]))
    return (kind, *map(int, rest)) if kind == "local" else (kind,)


def damaged(chance: random.Random) -> bytes:
    """A header with some bytes changed, taken out, doubled, or cut off."""
    client = (str(ipaddress.ip_address(chance.randbytes(chance.choice([4, 16])))), chance.randrange(65536))
    data = bytearray(chance.choice([*HEADERS, v1(client), v2(client)]))
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(data) + 1)
        change = chance.randrange(4)
        if change == 0:
            data[at:at] = bytes([chance.choice(ALPHABET)])
        elif change == 1:
            del data[at : at + chance.randrange(1, 4)]
        elif change == 2:
            data[at : at + 1] = bytes([chance.randrange(256)])
        else:
            del data[at:]
        data = data or bytearray(b"P")
    return bytes(data)


def compare(inputs: list[bytes]) -> None:
    for data, ours in zip(inputs, verdicts(inputs), strict=True):
        assert ours == reference.read(data), data


def test_on_every_case() -> None:
    compare(HEADERS)


def test_on_every_prefix_of_every_case() -> None:
    compare([header[:end] for header in HEADERS for end in range(min(len(header), 120))])


@pytest.mark.parametrize("seed", range(3))
def test_on_damaged_headers(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    compare([damaged(chance) for _ in range(COUNT)])


def test_on_noise() -> None:
    chance = random.Random(99)  # noqa: S311
    compare([chance.randbytes(chance.randrange(60)) for _ in range(COUNT)])
