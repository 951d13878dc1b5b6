"""What a load balancer sends."""

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srcip_lab.header import Endpoint, endpoint, v1, v2

CLIENT, SERVER = endpoint("203.0.113.7:54321", 0), endpoint("10.77.3.2:8080", 0)
CLIENT_6, SERVER_6 = endpoint("[2001:db8::7]:54321", 0), endpoint("[fd77::2]:8080", 0)
ports = st.integers(0, 65535)
pairs = st.one_of(
    st.tuples(
        st.builds(Endpoint, st.ip_addresses(v=version), ports), st.builds(Endpoint, st.ip_addresses(v=version), ports)
    )
    for version in (4, 6)
)


def test_version_1_is_one_line():
    assert v1(CLIENT, SERVER) == b"PROXY TCP4 203.0.113.7 10.77.3.2 54321 8080\r\n"
    assert v1(CLIENT_6, SERVER_6) == b"PROXY TCP6 2001:db8::7 fd77::2 54321 8080\r\n"


def test_version_2_is_signature_command_family_length_addresses():
    signature = bytes.fromhex("0d0a0d0a000d0a515549540a")
    assert v2(CLIENT, SERVER) == signature + bytes.fromhex("2111000c cb007107 0a4d0302 d431 1f90")
    assert v2(CLIENT_6, SERVER_6)[12:16] == bytes.fromhex("21210024")


def test_the_length_counts_the_tlvs():
    whole = v2(CLIENT, SERVER, ((0x01, b"h2"), (0x04, b"")))
    assert whole[14:16] == struct.pack("!H", 12 + 5 + 3)
    assert whole.endswith(b"\x01\x00\x02h2\x04\x00\x00")


@given(pairs)
def test_a_version_1_line_fits_107_bytes_and_says_what_it_was_given(pair):
    line = v1(*pair)
    words = line.decode().split()
    assert len(line) <= 107
    assert line.endswith(b"\r\n")
    assert [ipaddress.ip_address(word) for word in words[2:4]] == [end.ip for end in pair]
    assert [int(word) for word in words[4:]] == [end.port for end in pair]


@pytest.mark.parametrize("encode", [v1, v2])
def test_a_header_of_two_families_is_refused(encode):
    with pytest.raises(ValueError, match="one family"):
        encode(CLIENT, SERVER_6)


@pytest.mark.parametrize(
    ("text", "ip", "port"),
    [
        ("203.0.113.7", "203.0.113.7", 9),
        ("203.0.113.7:0", "203.0.113.7", 0),
        ("2001:db8::7", "2001:db8::7", 9),
        ("[2001:db8::7]", "2001:db8::7", 9),
        ("[2001:db8::7]:65535", "2001:db8::7", 65535),
    ],
)
def test_an_endpoint_is_read(text, ip, port):
    read = endpoint(text, 9)
    assert (str(read.ip), read.port) == (ip, port)


@pytest.mark.parametrize(
    "text",
    ["", "x", "1.2.3.4:x", "1.2.3.4:65536", "1.2.3.4:+80", "[::1", "[::1]80", "1.2.3:4", "[1::2::3]:4", "1.2.3.4:٣"],
)
def test_what_is_no_endpoint_is_refused_with_its_text(text):
    with pytest.raises(ValueError, match="is not"):
        endpoint(text, 9)
