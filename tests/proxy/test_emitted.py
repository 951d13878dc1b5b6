"""`emit-proxy-protocol`: the application gets a fresh PROXY header of its own; and what TLVs become in HTTP headers."""

import ipaddress
import struct

import pytest

from srcip_proxy.plan.headers import TLVS
from support.rig import CLIENT4, CLIENT6, HTTP_APP, LOCAL, POD4, POD6, Rig, RigFactory, v1, v2
from support.web import ask, get, redirect, web

pytestmark = pytest.mark.dataplane


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack(">BH", kind, len(value)) + value


SSL = tlv(0x20, b"\x01" + bytes(4) + tlv(0x21, b"TLSv1.3") + tlv(0x22, b"client.example") + tlv(0x23, b"ECDHE"))
KEPT = (
    tlv(0x01, b"h2")
    + tlv(0x02, b"www.example")
    + tlv(0x05, bytes(range(16)))
    + SSL
    + tlv(0xEA, b"\x01vpce-0a1b2c3d")
    + tlv(0xEE, b"\x01" + struct.pack("<I", 4_000_000_001))
    + tlv(0xE0, struct.pack(">Q", 2**63 + 5))
    + tlv(0xE5, b"anything\0\xff")
)
NOOP = tlv(0x04, bytes(5))


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def summed(client: tuple[str, int], tlvs: bytes) -> bytes:
    """A version 2 header with its checksum."""
    zeroed = v2(client, tlvs=tlvs + tlv(3, bytes(4)))
    return v2(client, tlvs=tlvs + tlv(3, struct.pack(">I", crc32c(zeroed))))


def emitted(rig: Rig, data: bytes, size: int, **options: object) -> bytes:
    """What the application gets: it sends everything back."""
    with rig.connect(**options) as client:  # type: ignore[arg-type]
        client.send(data)
        return client.seen(rest=size).rest


def addresses(header: bytes) -> tuple[str, str, int, int]:
    size = 4 if header[13] == 0x11 else 16
    first, second = header[16 : 16 + size], header[16 + size : 16 + 2 * size]
    ports = struct.unpack(">HH", header[16 + 2 * size : 20 + 2 * size])
    return (str(ipaddress.ip_address(first)), str(ipaddress.ip_address(second)), *ports)


def plain(rigs: RigFactory, version: str) -> Rig:
    return rigs(redirect(http_ports=(), emit_proxy_protocol=version))


@pytest.mark.parametrize("header", [v1, v2])
@pytest.mark.parametrize("to", [POD4, POD6])
@pytest.mark.parametrize("client", [CLIENT4, CLIENT6])
def test_version_2_says_what_came_in(rigs: RigFactory, client, to: str, header) -> None:
    """Address and port of the client, and where it connected to."""
    size = 28 if client == CLIENT4 else 52
    data = emitted(plain(rigs, "v2"), header(client) + b"hello", size + 5, to=to)
    assert data[:14] == v2(client)[:14]
    there = ("192.0.2.1" if client == CLIENT4 else "2001:db8::1") if header is v1 else client[0]
    assert (addresses(data), data[size:]) == ((client[0], there, client[1], 25), b"hello")


@pytest.mark.parametrize("header", [v1, v2])
@pytest.mark.parametrize("client", [CLIENT4, CLIENT6])
def test_version_1_says_what_came_in(rigs: RigFactory, client, header) -> None:
    data = emitted(plain(rigs, "v1"), header(client) + b"hello", 40)
    line, _, rest = data.partition(b"\r\n")
    word, family, source, _, port, to_port = line.decode().split(" ")
    assert (word, family, int(port), int(to_port)) == ("PROXY", "TCP4" if client == CLIENT4 else "TCP6", client[1], 25)
    assert (str(ipaddress.ip_address(source)), rest) == (client[0], b"hello")


@pytest.mark.parametrize("header", [LOCAL, b""])
def test_where_no_client_is_stated_it_is_the_balancer(rigs: RigFactory, header: bytes) -> None:
    rig = rigs(redirect(http_ports=(), emit_proxy_protocol="v2", proxy_protocol="optional"))
    for to in (POD4, POD6):
        with rig.connect(to=to) as client:
            client.send(header + b"hello")
            source = client.sock.getsockname()
            data = client.seen(rest=33 if to == POD4 else 57).rest
        assert addresses(data) == (source[0], to, source[1], 7000)


def test_every_tlv_is_kept_but_padding(rigs: RigFactory) -> None:
    """Byte for byte, in order."""
    data = emitted(plain(rigs, "v2"), v2(tlvs=NOOP + KEPT + NOOP) + b"x", 29 + len(KEPT))
    assert data == v2(tlvs=KEPT) + b"x"


def test_a_checksum_is_made_anew(rigs: RigFactory) -> None:
    data = emitted(plain(rigs, "v2"), summed(CLIENT4, NOOP + KEPT) + b"x", 36 + len(KEPT))
    assert data == summed(CLIENT4, KEPT) + b"x"


def test_version_1_has_no_room_for_tlvs(rigs: RigFactory) -> None:
    data = emitted(plain(rigs, "v1"), v2(tlvs=KEPT) + b"x", 20)
    assert data == f"PROXY TCP4 {CLIENT4[0]} {CLIENT4[0]} {CLIENT4[1]} 25\r\nx".encode()


def test_a_large_header_fits(rigs: RigFactory) -> None:
    filler = tlv(0xE9, bytes(8000))
    rig = rigs(redirect(http_ports=(), emit_proxy_protocol="v2", max_header_bytes=16384))
    for size in (1, 5000):
        assert emitted(rig, v2(tlvs=filler) + b"x" * size, 28 + len(filler) + size) == v2(tlvs=filler) + b"x" * size


def test_a_second_header_is_the_clients_data(rigs: RigFactory) -> None:
    """The application reads one: the sidecar's."""
    forged = v2(("1.1.1.1", 1))
    assert emitted(plain(rigs, "v2"), v2() + forged, 28 + len(forged)) == v2() + forged


def test_a_server_that_speaks_first_gets_its_header(rigs: RigFactory) -> None:
    assert emitted(plain(rigs, "v2"), v2(), 28) == v2()


def test_http_ports_get_headers_and_the_others_proxy_headers(rigs: RigFactory) -> None:
    rig = rigs(redirect(emit_proxy_protocol="v1"), app=("::", "7000", "::", "7050"), program=HTTP_APP)
    assert ask(rig, get()).written()["X-Forwarded-For"] == CLIENT4[0]
    head = ask(rig, get(), port=7050).facts["head"]
    assert head == [v1(to=(CLIENT4[0], 25)).decode().strip(), *get().decode().split("\r\n")[:2]]


NAMES = tuple((name, f"X-TLV-{name}") for name in TLVS)


def test_tlvs_become_headers(rigs: RigFactory) -> None:
    rig = web(rigs, tlv_headers=NAMES)
    saw = ask(rig, get("/", "X-TLV-SSL-CN: admin", "X_TLV_netns: forged"), v2(tlvs=KEPT))
    said = {name: saw.all(f"x-tlv-{name}") for name in TLVS}
    assert said == {
        "alpn": ["h2"],
        "authority": ["www.example"],
        "unique-id": ["".join(f"%{byte:02X}" for byte in range(16))],
        "ssl-version": ["TLSv1.3"],
        "ssl-cn": ["client.example"],
        "ssl-cipher": ["ECDHE"],
        "netns": [],
        "aws-vpce-id": ["vpce-0a1b2c3d"],
        "azure-link-id": ["4000000001"],
        "gcp-psc-connection-id": [str(2**63 + 5)],
    }
    assert saw.written()["X-Forwarded-Proto"] == "https", "the balancer took TLS off"


def test_without_a_tlv_its_header_is_taken_out(rigs: RigFactory) -> None:
    saw = ask(web(rigs, tlv_headers=NAMES), get("/", "X-TLV-SSL-CN: admin"))
    assert [name for name, _ in saw.headers if "tlv" in name] == []


@pytest.mark.parametrize("value", [b"a\r\nX-Admin: yes", b"a\nb", b"a\0b", b" ", b"\xff\xfe", b"a%0d%0ab", b"%[src]"])
def test_no_tlv_breaks_out_of_its_header(rigs: RigFactory, value: bytes) -> None:
    """Whatever a balancer passes on from a client's certificate."""
    tlvs = tlv(0x02, value) + tlv(0x20, b"\x01" + bytes(4) + tlv(0x22, value))
    saw = ask(web(rigs, tlv_headers=NAMES), get(), v2(tlvs=tlvs))
    assert saw.all("x-admin") == []
    text = "".join(chr(b) if 32 <= b < 127 and b != 37 else f"%{b:02X}" for b in value).strip()
    assert saw.all("x-tlv-authority") == saw.all("x-tlv-ssl-cn") == ([text] if text else [])


@pytest.mark.parametrize(
    "tlvs",
    [tlv(0x20, b""), tlv(0x20, b"\x01\0\0"), tlv(0x20, b"\x01" + bytes(4) + b"\x22\xff\xff"), tlv(0xEE, b"\x01")],
)
def test_a_damaged_tlv_says_nothing(rigs: RigFactory, tlvs: bytes) -> None:
    saw = ask(web(rigs, tlv_headers=NAMES), get(), v2(tlvs=tlvs))
    assert (saw.status, [name for name, _ in saw.headers if "tlv" in name]) == (200, [])
