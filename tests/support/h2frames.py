"""Just enough HTTP/2 for tests (RFC 9113, RFC 7541): frames by hand, headers without compression.

HAProxy writes its headers without Huffman codes, so none is read here.
"""

import socket
import struct
from dataclasses import dataclass, field

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 1, 1, 4, 8, 32
_REST = (
    "accept-charset accept-encoding:gzip,_deflate accept-language accept-ranges accept access-control-allow-origin age "
    "allow authorization cache-control content-disposition content-encoding content-language content-length "
    "content-location content-range content-type cookie date etag expect expires from host if-match if-modified-since "
    "if-none-match if-range if-unmodified-since last-modified link location max-forwards proxy-authenticate "
    "proxy-authorization range referer refresh retry-after server set-cookie strict-transport-security "
    "transfer-encoding user-agent vary via www-authenticate"
)
STATIC = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    *((":status", code) for code in ("200", "204", "206", "304", "400", "404", "500")),
    *((name, value.replace("_", " ")) for name, _, value in (word.partition(":") for word in _REST.split())),
]
Headers = list[tuple[str, str]]


def encode(headers: Headers) -> bytes:
    """Each header as a literal with a new name, never indexed."""
    out = b""
    for name, value in headers:
        for text in (name, value):
            raw = text.encode("latin-1")
            out += (b"\x00" if text is name else b"") + _integer(len(raw), 7) + raw
    return out


def _integer(value: int, bits: int) -> bytes:
    most = (1 << bits) - 1
    if value < most:
        return bytes([value])
    out, value = [most], value - most
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes([*out, value])


@dataclass
class Decoder:
    """The headers of one direction."""

    table: Headers = field(default_factory=list)
    data: bytes = b""
    at: int = 0

    def decode(self, data: bytes) -> Headers:
        self.data, self.at = data, 0
        found: Headers = []
        while self.at < len(data):
            first = data[self.at]
            if first & 0x80:
                found.append(self._entry(self._number(7)))
            elif first & 0x40:
                found.append(self._literal(6))
                self.table.insert(0, found[-1])
            elif first & 0x20:
                self._number(5)
            else:
                found.append(self._literal(4))
        return found

    def _number(self, bits: int) -> int:
        most = (1 << bits) - 1
        value = self.data[self.at] & most
        self.at += 1
        shift = 0
        while value >= most:
            byte = self.data[self.at]
            self.at += 1
            value += (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        return value

    def _entry(self, index: int) -> tuple[str, str]:
        return STATIC[index - 1] if index <= len(STATIC) else self.table[index - len(STATIC) - 1]

    def _literal(self, bits: int) -> tuple[str, str]:
        index = self._number(bits)
        name = self._entry(index)[0] if index else self._text()
        return name, self._text()

    def _text(self) -> str:
        assert not self.data[self.at] & 0x80, "a Huffman code"
        length = self._number(7)
        text = self.data[self.at : self.at + length].decode("latin-1")
        self.at += length
        return text


@dataclass(frozen=True)
class Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """The bytes of one."""
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


class Connection:
    """One end of an HTTP/2 connection; settings and pings are answered on the way."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.file = sock.makefile("rb")
        self.decoder = Decoder()

    def send(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        self.sock.sendall(frame(kind, flags, stream, payload))

    def headers(self, stream: int, headers: Headers, *, end: bool = False) -> None:
        self.send(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, encode(headers))

    def data(self, stream: int, payload: bytes, *, end: bool = False) -> None:
        for start in range(0, len(payload) or 1, 16384):
            last = start + 16384 >= len(payload)
            self.send(DATA, END_STREAM if end and last else 0, stream, payload[start : start + 16384])

    def receive(self) -> Frame | None:
        """The next frame that is about a stream; None at the end of the connection."""
        while head := self.file.read(9):
            kind, flags, stream = struct.unpack(">BBI", head[3:])
            got = Frame(kind, flags, stream, self.file.read(int.from_bytes(head[:3], "big")))
            if kind == SETTINGS and not flags & ACK:
                self.send(SETTINGS, ACK, 0)
            elif kind == PING and not flags & ACK:
                self.send(PING, ACK, 0, got.payload)
            elif kind == DATA and got.payload:
                self._more(stream, len(got.payload))
                return got
            elif stream and kind != WINDOW_UPDATE:
                return got
            elif kind == GOAWAY:
                return None
        return None

    def _more(self, stream: int, size: int) -> None:
        for where in (0, stream):
            self.send(WINDOW_UPDATE, 0, where, size.to_bytes(4, "big"))

    def fields(self, frame: Frame) -> Headers:
        """The headers in a frame."""
        payload = frame.payload
        if frame.flags & PADDED:
            payload = payload[1 : -payload[0] or None]
        return self.decoder.decode(payload[5:] if frame.flags & PRIORITY else payload)
