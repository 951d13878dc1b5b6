"""A balancer that writes its own packets, on the link to the Pod, where no kernel but the Pod's judges them."""

from __future__ import annotations

import json
import socket
import struct
import time
from dataclasses import dataclass, field, replace
from typing import Any

from support.ebpf_rig import Pod
from support.packets import ACK, FIN, PSH, RST, SYN, checksum
from support.waiting import DEADLINE_S

PORT = 7000
LINK = "pod"
"""The node's end of the Pod's interface."""
AGAIN = 0.5
"""Seconds until what was not answered is sent again."""
_OUTGOING = 4  # PACKET_OUTGOING of packet(7)
_RECEIVE_BUFFER_FORCE = 33  # SO_RCVBUFFORCE


@dataclass(frozen=True)
class Segment:
    """A TCP segment and the packet around it, which is as it should be but for what is said otherwise."""

    seq: int
    ack: int
    flags: int
    data: bytes = b""
    options: bytes = b""
    tcp_checksum: int = 0
    """Its difference to the right one."""
    partial: bool = False
    """The checksum of the addresses alone, as it is before a network card completes it."""
    ip_checksum: int = 0
    """Its difference to the right one."""
    ip_version: int | None = None
    ip_options: bytes = b""
    fragment: int = 0
    length: int = 0
    """What the IP header says more than there is."""
    words: int = 0
    """What the TCP header says more of its own length, in words of four bytes."""
    other_host: bool = False
    """For the hardware address of somebody else."""


def times(value: int, echo: int) -> bytes:
    """The option timestamp of RFC 7323, aligned as Linux has it."""
    return b"\1\1\x08\n" + struct.pack(">II", value % 2**32, echo % 2**32)


@dataclass(frozen=True)
class Link:
    """Both ends of the link, as bytes of an Ethernet header, and the socket on it."""

    sock: socket.socket
    pod: bytes
    node: bytes


def link(pod: Pod) -> Link:
    """The link to the Pod. No kernel sees the answers: the node forwards none, and nobody is there to reset."""
    pod.sh("node", "nft 'add table inet raw; add chain inet raw f { type filter hook forward priority 0; }'")
    pod.sh("node", f"nft add rule inet raw f iifname {LINK} tcp sport {PORT} tcp dport 20000-29999 drop")

    def opened() -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        sock.setsockopt(socket.SOL_SOCKET, _RECEIVE_BUFFER_FORCE, 1 << 22)
        sock.bind((LINK, 0))
        return sock

    ends = (("pod", "eth0"), ("node", LINK))
    addresses = [json.loads(pod.sh(host, f"ip -j link show {name}"))[0]["address"] for host, name in ends]
    mine, other = (bytes.fromhex(text.replace(":", "")) for text in addresses)
    return Link(pod.net.node.call(opened), mine, other)


@dataclass
class Sender:
    """One connection of the balancer."""

    link: Link
    source: str
    to: str
    port: int
    isn: int
    clock: int
    """The value of the option timestamp, where there is one."""
    has_times: bool = True
    seq: int = 0
    ack: int = 0
    echo: int = 0
    got: bytes = b""
    flags: int = 0
    """All flags that came."""
    said: list[int] = field(default_factory=list)
    """The acknowledgements that came."""
    sent: list[Segment] = field(default_factory=list)
    """What was said, to be said again where nothing is heard: the Pod may have no memory for it at the moment."""

    def open(self) -> bool:
        """The handshake; the numbers of what comes next are known then."""
        mss = b"\2\4\5\xb4"
        self.seq = self.isn
        self.send(self.segment(SYN, options=mss + (times(self.clock, 0) if self.has_times else b"")))
        self.seq = (self.isn + 1) % 2**32
        if not self.wait(lambda: self.flags & SYN):
            return False
        self.clock += 1
        self.send(self.segment(ACK))
        return True

    def segment(self, flags: int, data: bytes = b"", **changes: Any) -> Segment:
        """The next one, right but for the changes."""
        options = times(self.clock, self.echo) if self.has_times and not flags & SYN else b""
        right = Segment(self.seq, 0 if flags == SYN else self.ack, flags, data, options)
        return replace(right, **changes)

    def send(self, segment: Segment) -> None:
        """Send it as it is; but not one that was to be wrong, and is right by chance, once in 65,536."""
        addresses = self._addresses()
        tcp = self._tcp(segment, addresses)
        told = tcp[: len(tcp) + min(segment.length, 0)]
        if (segment.partial or segment.length < 0) and _sum(addresses, told) == 0:
            return
        self.link.sock.send(self._framed(segment, addresses, tcp))

    def framed(self, segment: Segment) -> bytes:
        """The whole packet, to be sent by somebody else."""
        addresses = self._addresses()
        return self._framed(segment, addresses, self._tcp(segment, addresses))

    def say(self, data: bytes, flags: int = PSH | ACK) -> None:
        """Send data, rightly."""
        self.clock += 1
        self.sent.append(self.segment(flags, data))
        self.send(self.sent[-1])
        self.seq = (self.seq + len(data) + (flags & FIN)) % 2**32

    def wait(self, until: Any, seconds: float = DEADLINE_S) -> bool:
        """Take what comes until that is true; False when nothing comes for so long."""
        deadline = time.monotonic() + seconds
        self.link.sock.settimeout(min(seconds, AGAIN))
        while not until():
            try:
                packet, address = self.link.sock.recvfrom(65536)
            except TimeoutError:
                if time.monotonic() > deadline:
                    return False
                self._say_again()
                continue
            if address[2] != _OUTGOING:
                self._take(packet)
        return True

    def _say_again(self) -> None:
        self.clock += 1
        for segment in self.sent:
            self.send(self.segment(segment.flags, segment.data, seq=segment.seq))

    def _take(self, packet: bytes) -> None:
        is_ipv6 = packet[12:14] == b"\x86\xdd"
        at, protocol = (54, 20) if is_ipv6 else (34, 23)
        if packet[12:14] not in (b"\x86\xdd", b"\x08\0") or packet[protocol] != 6:
            return
        if struct.unpack_from(">HH", packet, at) != (PORT, self.port):
            return
        seq, ack = struct.unpack_from(">II", packet, at + 4)
        size, flags = (packet[at + 12] >> 4) * 4, packet[at + 13]
        end = 54 + struct.unpack_from(">H", packet, 18)[0] if is_ipv6 else 14 + struct.unpack_from(">H", packet, 16)[0]
        data = packet[at + size : end]
        self.flags |= flags
        self.said.append(ack)
        self._note_time(packet[at + 20 : at + size])
        if flags & SYN:
            self.ack = (seq + 1) % 2**32
        elif seq == self.ack:
            self.got += data
            self.ack = (seq + len(data) + (flags & FIN)) % 2**32
            if data:
                self.send(self.segment(ACK))

    def _note_time(self, options: bytes) -> None:
        found = options.find(b"\x08\n")
        if found >= 0:
            self.echo = int.from_bytes(options[found + 2 : found + 6], "big")

    def _addresses(self) -> bytes:
        family = socket.AF_INET6 if ":" in self.to else socket.AF_INET
        return socket.inet_pton(family, self.source) + socket.inet_pton(family, self.to)

    def _framed(self, segment: Segment, addresses: bytes, tcp: bytes) -> bytes:
        wrap = _ipv6 if ":" in self.to else _ipv4
        target = b"\2\0\0\0\0\1" if segment.other_host else self.link.pod
        kind = b"\x86\xdd" if ":" in self.to else b"\x08\0"
        return target + self.link.node + kind + wrap(segment, addresses, tcp)

    def _tcp(self, segment: Segment, addresses: bytes) -> bytes:
        words = 5 + len(segment.options) // 4 + segment.words
        numbers = (self.port, PORT, segment.seq % 2**32, segment.ack % 2**32, (words & 15) << 4, segment.flags)
        whole = struct.pack(">HHIIBBHHH", *numbers, 65535, 0, 0) + segment.options + segment.data
        right = _sum(addresses, whole)
        value = (
            ~checksum(addresses + struct.pack(">II", len(whole), 6))
            if segment.partial
            else right + segment.tcp_checksum
        )
        return whole[:16] + struct.pack(">H", value & 0xFFFF) + whole[18:]


def _sum(addresses: bytes, tcp: bytes) -> int:
    """The checksum of a segment that has none yet; 0 for one that has the right one."""
    return checksum(addresses + struct.pack(">II", len(tcp), 6) + tcp + b"\0" * (len(tcp) % 2))


def _ipv4(segment: Segment, addresses: bytes, tcp: bytes) -> bytes:
    version, options = segment.ip_version or 4, segment.ip_options
    size = 20 + len(options)
    numbers = (version << 4 | size // 4, 0, size + len(tcp) + segment.length, 7, segment.fragment, 64, 6)
    head = struct.pack(">BBHHHBB", *numbers)
    value = (checksum(head + b"\0\0" + addresses + options) + segment.ip_checksum) & 0xFFFF
    return head + struct.pack(">H", value) + addresses + options + tcp


def _ipv6(segment: Segment, addresses: bytes, tcp: bytes) -> bytes:
    version = segment.ip_version or 6
    return struct.pack(">IHBB", version << 28, len(tcp) + segment.length, 6, 64) + addresses + tcp


def reset(sender: Sender) -> None:
    """Let the Pod forget the connection."""
    sender.send(sender.segment(RST | ACK))
