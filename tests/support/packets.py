"""TCP segments that no honest sender sends, from a host's raw socket."""

import random
import socket
import struct

from srcip_lab.namespace import Host
from support.waiting import DEADLINE_S

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
SACK_PERMITTED = b"\4\2\1\1"
REPAIR, REPAIR_QUEUE, QUEUE_SEQ, SEND_QUEUE, REPAIR_OFF = 19, 20, 21, 2, -1  # linux/tcp.h


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def segment(source: tuple[str, int], to: tuple[str, int], numbers: tuple[int, int], flags: int, rest: bytes) -> bytes:
    """A TCP segment over IPv4, without the IP header. `rest` begins with a list of options, or is data alone."""
    options = SACK_PERMITTED if rest.startswith(SACK_PERMITTED) else b""
    return finished(source, to, (*numbers, flags), options, rest[len(options) :])


def finished(
    source: tuple[str, int], to: tuple[str, int], numbers: tuple[int, int, int], options: bytes, data: bytes
) -> bytes:
    """The same with any options, in words of four bytes; `numbers` ends with the flags."""
    seq, ack, flags = numbers
    head = struct.pack(">HHIIBBHHH", source[1], to[1], seq, ack, 5 + len(options) // 4 << 4, flags, 65535, 0, 0)
    whole = head + options + data
    pseudo = socket.inet_aton(source[0]) + socket.inet_aton(to[0]) + struct.pack(">HH", 6, len(whole))
    value = checksum(pseudo + whole + b"\0" * (len(whole) % 2))
    return whole[:16] + struct.pack(">H", value) + whole[18:]


class Forger:
    """Sends from the address of `host` as if it were the connection between `source` and `to`."""

    def __init__(self, host: Host, source: tuple[str, int], to: tuple[str, int]) -> None:
        self.source, self.to = source, to
        self.sack: tuple[int, int] | None = None
        self.options = b""
        self._socket = host.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP))

    def __enter__(self) -> "Forger":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(
        self, flags: int, data: bytes = b"", *, seq: int | None = None, ack: int | None = None, options: bytes = b""
    ) -> None:
        seq = random.getrandbits(32) if seq is None else seq
        ack = random.getrandbits(32) if ack is None else ack
        plain = segment(self.source, self.to, (seq, ack), flags, data)
        whole = finished(self.source, self.to, (seq, ack, flags), options, data) if options else plain
        self._socket.sendto(whole, (self.to[0], 0))

    def receive(self, *, timeout_s: float = DEADLINE_S) -> tuple[int, int, int]:
        """Sequence number, acknowledgement and flags of the next segment of the connection from the other side; its
        options are `self.options` then, and its SACK block, if it stands first, `self.sack`."""
        self._socket.settimeout(timeout_s)
        while True:
            packet = self._socket.recv(65536)
            tcp = packet[(packet[0] & 15) * 4 :]
            if struct.unpack(">HH", tcp[:4]) == (self.to[1], self.source[1]):
                seq, ack = struct.unpack(">II", tcp[4:12])
                options = tcp[20 : (tcp[12] >> 4) * 4]
                self.options = options
                self.sack = struct.unpack(">II", options[4:12]) if options[:4] == b"\1\1\5\n" else None
                return seq, ack, tcp[13]


def connect_with_isn(host: Host, to: tuple[str, int], isn: int, port: int = 0) -> socket.socket:
    """A connection whose first sequence number is `isn`, by the way that is meant for restoring connections, and from
    `port` if given."""

    def connect() -> socket.socket:
        connection = socket.socket(socket.AF_INET6 if ":" in to[0] else socket.AF_INET)
        if port:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            connection.bind(("", port))
        _repair(connection, 1)
        connection.setsockopt(socket.IPPROTO_TCP, QUEUE_SEQ, struct.pack("=I", isn))
        _repair(connection, REPAIR_OFF)
        connection.settimeout(DEADLINE_S)
        connection.connect(to)
        _repair(connection, 1)
        (now,) = struct.unpack("=I", connection.getsockopt(socket.IPPROTO_TCP, QUEUE_SEQ, 4))
        _repair(connection, REPAIR_OFF)
        assert now == (isn + 1) % 2**32
        return connection

    return host.call(connect)


def _repair(connection: socket.socket, value: int) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, REPAIR, value)
    if value == 1:
        connection.setsockopt(socket.IPPROTO_TCP, REPAIR_QUEUE, SEND_QUEUE)
