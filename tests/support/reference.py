"""A second reader of the PROXY protocol, written from the specification only, to hold the Lua one against.

Deliberately plain: one function per version, no early verdicts, no speed.
"""

import ipaddress
import re
import struct

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V1 = re.compile(rb"PROXY (?:(UNKNOWN)(?: [^\r\n]*)?|TCP([46]) ([^ \r\n]+) ([^ \r\n]+) ([^ \r\n]+) ([^ \r\n]+))\r\n")
PORT = re.compile(rb"0|[1-9][0-9]{0,4}")
POLYNOMIAL = 0x82F63B78


def crc32c(data: bytes) -> int:
    """RFC 3720, appendix B.4, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (POLYNOMIAL if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def read(data: bytes) -> tuple[object, ...]:
    """`("proxy", address, port, length)`, `("local", length)`, `("wait",)`, `("none",)` or `("refuse",)`."""
    for signature, parse in ((SIGNATURE, v2), (b"PROXY", v1)):
        if data.startswith(signature):
            return parse(data)
        if signature.startswith(data):
            return ("wait",)
    return ("none",)


def v1(data: bytes) -> tuple[object, ...]:
    end = min((data.find(c) for c in b"\r\n" if c in data), default=-1)
    if end < 0:
        return ("wait",) if len(data) < 107 else ("refuse",)
    if data[end:] == b"\r" and end < 106:
        return ("wait",)
    match = V1.match(data, 0, 107)
    if not match:
        return ("refuse",)
    if match[1]:
        return ("local", match.end())
    family, *texts = match.groups()[1:]
    source = address(texts[0], int(family))
    destination = address(texts[1], 4) or address(
        texts[1], 6
    )  # of either family, as nginx in a chain of proxies sends it
    numbers = [int(text) if PORT.fullmatch(text) else 65536 for text in texts[2:]]
    if None in (source, destination) or max(numbers) > 65535:
        return ("refuse",)
    return ("proxy", canonical(source), numbers[0], match.end())


def address(text: bytes, family: int) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(text.decode("ascii"))
    except ValueError:
        return None
    return found if found.version == family and b"%" not in text else None


def canonical(found: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    return str(getattr(found, "ipv4_mapped", None) or found)


def v2(data: bytes, limit: int = 4096) -> tuple[object, ...]:  # noqa: PLR0911 - one verdict a line
    if len(data) < 13:
        return ("wait",)
    if data[12] not in (0x20, 0x21):
        return ("refuse",)
    if len(data) < 16:
        return ("wait",)
    family, size = struct.unpack_from(">BH", data, 13)
    length = 16 + size
    if length > limit:
        return ("refuse",)
    if len(data) < length:
        return ("wait",)
    if data[12] == 0x20:
        return ("local", length)
    pair = {0: 0, 1: 12, 2: 36, 3: 216}.get(family >> 4)
    if pair is None or family & 15 > 2 or size < pair or not tlvs(data[:length], 16 + pair):
        return ("refuse",)
    if family not in (0x11, 0x21):
        return ("local", length)
    width = 4 if family == 0x11 else 16
    source = ipaddress.ip_address(data[16 : 16 + width])
    return ("proxy", canonical(source), struct.unpack_from(">H", data, 16 + 2 * width)[0], length)


def tlvs(header: bytes, at: int) -> bool:
    while at < len(header):
        if at + 3 > len(header):
            return False
        kind, size = struct.unpack_from(">BH", header, at)
        value = at + 3
        at = value + size
        if at > len(header):
            return False
        if kind == 3:
            whole = header[:value] + b"\0" * 4 + header[at:]
            if size != 4 or crc32c(whole) != int.from_bytes(header[value:at], "big"):
                return False
    return True
