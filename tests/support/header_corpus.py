"""PROXY protocol headers for the tests of ebpf mode: the public cases, valid ones of every kind, nearly valid ones."""

import ipaddress
import json
import random
from pathlib import Path

from support import reference
from support.rig import v1, v2

CASES = [
    case
    for case in json.loads(Path(reference.__file__).with_name("cases.json").read_text())["cases"]
    if case["context"]["transport"] == "tcp" and case["context"]["peer"] == "trusted"
]
"""The public ones that reach the parser: what comes over TCP from a balancer that is trusted."""
UNUSABLE4 = ("0.1.2.3", "127.9.9.9", "169.254.1.1", "224.0.0.1", "239.1.1.1", "255.255.255.255")
UNUSABLE6 = ("::", "::1", "fe80::1", "febf::1", "ff02::1", *(f"::ffff:{address}" for address in UNUSABLE4))
USABLE = (
    *("1.0.0.0", "126.0.0.1", "128.0.0.1", "169.253.1.1", "170.254.1.1", "223.1.1.1", "240.0.0.1", "255.255.255.254"),
    *("10.77.3.2", "::2", "::1:0", "1::", "fe7f::1", "fec0::1", "feff::1", "fd77::2"),
)
"""The nearest neighbours of what no client has."""


def tlv(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + len(value).to_bytes(2, "big") + value


def with_checksum(before: bytes = b"", after: bytes = b"", client: tuple[str, int] = ("203.0.113.7", 5000)) -> bytes:
    """A version 2 header with a CRC32C between other TLVs."""
    header = v2(client, tlvs=before + tlv(3, bytes(4)) + after)
    at = len(header) - len(after) - 4
    return header[:at] + reference.crc32c(header).to_bytes(4, "big") + header[at + 4 :]


def spelled(chance: random.Random) -> str:
    """Something that is an IPv6 address, or nearly."""
    groups = [f"{chance.randrange(16 ** chance.randrange(1, 5)):x}" for _ in range(chance.randrange(9))]
    if chance.randrange(3) == 0:
        groups.append(".".join(str(chance.randrange(300 if chance.randrange(8) == 0 else 256)) for _ in range(4)))
    at = chance.randrange(len(groups) + 1)
    if len(groups) < 8 or chance.randrange(8) == 0:
        return ":".join(groups[:at]) + "::" + ":".join(groups[at:])
    return ":".join(groups)


def mixed(chance: random.Random) -> bytes:
    """A version 1 header whose destination is of the other family."""
    octets = ".".join(str(chance.randrange(257)) for _ in range(4))
    words = ("TCP6", spelled(chance), octets) if chance.randrange(2) else ("TCP4", octets, spelled(chance))
    return f"PROXY {' '.join(words)} 1 65535\r\n".encode()


def corpus(chance: random.Random) -> list[bytes]:
    """Headers, most of them valid, of every kind."""
    headers = [bytes.fromhex(case["hex"]) for case in CASES]
    for size in [4, 16] * 50:
        client = (str(ipaddress.ip_address(chance.randbytes(size))), chance.randrange(65536))
        headers += [v1(client), v2(client), with_checksum(tlv(2, b"example.org"), tlv(4, bytes(9)), client)]
    headers += [f"PROXY TCP6 {spelled(chance)} {spelled(chance)} 1 65535\r\n".encode() for _ in range(400)]
    headers += [mixed(chance) for _ in range(400)]
    headers += [v2((address, 5000)) for address in (*UNUSABLE4, *UNUSABLE6, *USABLE)]
    return [*headers, with_checksum(tlv(4, bytes(2000)), tlv(4, b"\xff" * 2055))]
