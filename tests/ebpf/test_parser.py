"""The parser of ebpf mode, in user space and in the kernel: public cases, the other readers, and damaged headers."""

import ipaddress
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_reader import damaged

from srcip_lab import bpf
from support import reference
from support.header_corpus import CASES, UNUSABLE4, UNUSABLE6, USABLE, corpus, tlv, with_checksum
from support.rig import v1, v2

HERE = Path(__file__).parent
COUNT = 100_000
"""Damaged headers that the readers are compared on; in the kernel a fifth of them."""
FUZZ = os.environ.get("SRCIP_FUZZ", "1000000")
SEED = "20240521"
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
CAPABILITIES = ("setpriv", "--bounding-set=-all,+bpf,+net_admin", "--inh-caps=-all")
INSTRUCTIONS = 50_000
"""How many the verifier may look at, of a million that it would: the parser is a part of larger programs."""
REFUSED = [
    ipaddress.ip_network(text)
    for text in (
        *("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32"),
        *("::/127", "fe80::/10", "ff00::/8"),
    )
]
WAIT = ("wait",)

Answer = tuple[object, ...]
Reader = Callable[..., list[list[Answer]]]
"""Takes the pieces of each connection's first bytes, gives for each connection the verdicts after each piece."""


def build(output: Path, *arguments: str | Path) -> Path:
    command = ["cc", "-O2", "-g", "-Wall", "-Wextra", "-Werror", f"-I{bpf.SOURCES}", "-o", output, *arguments]
    subprocess.run(command, check=True)
    return output


def answer(words: str) -> Answer:
    """One verdict of verdicts.c, in the words of the reference."""
    kind, *rest = words.split()
    if kind == "proxy":
        return (kind, str(ipaddress.ip_address(bytes.fromhex(rest[0]))), int(rest[1]), int(rest[2]))
    return (kind, *map(int, rest)) if kind == "local" else (kind, *rest)


def reader(*command: str | Path, then: tuple[Path, ...] = ()) -> Reader:
    def read(inputs: list[list[bytes]], versions: tuple[int, ...] = (1, 2), most: int = 4096) -> list[list[Answer]]:
        text = "".join(" ".join(piece.hex() for piece in pieces) + "\n" for pieces in inputs)
        whole = [*command, str(sum(versions)), str(most), *then]
        done = subprocess.run(whole, input=text, text=True, stdout=subprocess.PIPE, check=True)
        return [[answer(words) for words in line.split(", ")] for line in done.stdout.splitlines()]

    return read


@pytest.fixture(scope="session")
def user(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """The parser in user space, under the sanitizers."""
    return reader(build(tmp_path_factory.mktemp("parser") / "verdicts", HERE / "verdicts.c", *SANITIZERS))


def needs(*programs: str) -> None:
    """Skip with the reason where nothing can be loaded into the kernel; in CI that is a failure."""
    missing = [program for program in programs if not shutil.which(program)]
    if os.geteuid() == 0 and not missing:
        return
    reason = f"missing: {', '.join(missing)} (e2e/setup.sh test)" if missing else "loading BPF programs needs root"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """The parser in the kernel, loaded with CAP_BPF and CAP_NET_ADMIN alone."""
    needs("clang", "setpriv")
    program = tmp_path_factory.mktemp("parser") / "verdicts"
    build(program, "-DKERNEL", HERE / "verdicts.c", "-lbpf")
    return reader(*CAPABILITIES, program, then=(bpf.compiled(HERE / "parser.bpf.c"),))


@pytest.fixture(params=["user", pytest.param("kernel", marks=pytest.mark.dataplane)])
def parser(request: pytest.FixtureRequest) -> Iterator[Reader]:
    """Both of them, one after the other."""
    yield request.getfixturevalue(request.param)


def whole(parser: Reader, header: bytes, **limits: Any) -> Answer:
    return parser([[header]], **limits)[0][0]


def canonical(text: str) -> str:
    address = ipaddress.ip_address(text)
    return str(getattr(address, "ipv4_mapped", None) or address)


def expected(case: dict[str, Any]) -> Answer:
    """The words of the collection, as a verdict; the policy `optional` and the end of a connection are the caller's."""
    length = case["header_len"]
    if case["expect"] == "accept":
        return ("proxy", canonical(case["src"]), case["sport"], length)
    if case["context"]["mode"] == "optional":
        return ("refuse", "no_header")
    if case["expect"] == "local":
        return ("local", length)
    cut_short = case["expect"] == "incomplete" or "_fin_" in case["name"]
    return WAIT if cut_short else ("refuse",)


def test_every_public_case(parser: Reader) -> None:
    """The verdict, the address, the port and the length are those of the collection."""
    for versions in ((1, 2), (2,)):
        cases = [case for case in CASES if tuple(case["context"].get("versions", (1, 2))) == versions]
        assert cases
        got = parser([[bytes.fromhex(case["hex"])] for case in cases], versions)
        for case, [verdict] in zip(cases, got, strict=True):
            want = expected(case)
            assert verdict[: len(want)] == want, case["name"]


def test_every_public_case_in_two_pieces(parser: Reader) -> None:
    """Wherever a case is cut, its beginning is waited for, or judged as the whole is; valid ones are waited for."""
    headers = [bytes.fromhex(case["hex"]) for case in CASES]
    wanted = [want for [want] in parser([[header] for header in headers])]
    cuts = [(header, want, at) for header, want in zip(headers, wanted, strict=True) for at in range(1, len(header))]
    pieces = parser([[header[:at], header[at:]] for header, _, at in cuts])
    for (header, want, at), [first, last] in zip(cuts, pieces, strict=True):
        assert last == want, (header, at)
        if want[0] in ("proxy", "local"):
            assert first == (WAIT if at < int(str(want[-1])) else want), (header, at)
        else:
            assert first in (WAIT, want), (header, at)


def agrees(data: bytes, ours: Answer) -> bool:
    """With the second reader, which waits for whole headers, knows one word for all refusals, and takes any address."""
    theirs = reference.read(data)
    if ours[0] != "refuse":
        return ours == theirs
    if ours == ("refuse", "unusable_address"):
        address = ipaddress.ip_address(str(theirs[1]))
        return theirs[0] == "proxy" and any(address in network for network in REFUSED)
    return theirs[0] == ("none" if ours[1] == "no_header" else "refuse") or (theirs == WAIT and ours[1] != "no_header")


def compare(parser: Reader, inputs: list[bytes]) -> None:
    for data, [ours] in zip(inputs, parser([[data] for data in inputs]), strict=True):
        assert agrees(data, ours), (data, ours)


def test_agrees_with_the_second_reader_on_damaged_headers(user: Reader) -> None:
    chance = random.Random(SEED)  # noqa: S311
    compare(user, [damaged(chance) for _ in range(COUNT)])


@pytest.mark.dataplane
def test_agrees_with_the_second_reader_in_the_kernel(kernel: Reader) -> None:
    chance = random.Random(SEED + "kernel")  # noqa: S311
    compare(kernel, [damaged(chance) for _ in range(COUNT // 5)])


def test_a_header_of_the_largest_size_with_a_checksum(parser: Reader) -> None:
    """4096 bytes are read to the last one: a changed bit anywhere is seen; one byte more is too long."""
    header = with_checksum(tlv(4, bytes(2000)), tlv(4, b"\xff" * 2055))
    assert len(header) == 4096
    assert whole(parser, header) == ("proxy", "203.0.113.7", 5000, 4096)
    assert whole(parser, header, most=4095) == ("refuse", "too_long")
    changed = [bytes([*header[:at], header[at] ^ 1, *header[at + 1 :]]) for at in (16, 100, 2037, 3000, 4095)]
    assert [verdict for [verdict] in parser([[data] for data in changed])] == [("refuse", "checksum")] * 5


def test_as_many_tlvs_as_fit(parser: Reader) -> None:
    """The smallest TLVs fill the largest header, and the last one is still looked at."""
    assert whole(parser, v2(tlvs=tlv(4, b"") * 1356)) == ("proxy", "203.0.113.7", 54321, 4096)
    most = reference.SIGNATURE + b"\x21\x00\x0f\xf0" + tlv(4, b"") * 1359
    assert whole(parser, most + b"\4\0\0") == ("local", 4096)
    assert whole(parser, most + b"\4\0\1") == ("refuse", "malformed")


def test_a_second_checksum_is_refused_at_once(parser: Reader) -> None:
    header = with_checksum(tlv(3, bytes(4)))
    second = len(header) - 7
    [verdicts] = parser([[header[: second + 2], header[second + 2 :]]])
    assert verdicts == [WAIT, ("refuse", "checksum")]


@pytest.mark.parametrize(
    ("data", "length", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", 1, "no_header"),
        (b"PROXIED", 5, "no_header"),
        (b"\r\n\r\n\r\n", 5, "no_header"),
        (b"PROXY TCP5", 10, "malformed"),
        (b"PROXY TCP4 01", 13, "malformed"),
        (b"PROXY TCP4 256", 14, "malformed"),
        (b"PROXY TCP6 1::2::", 17, "malformed"),
        (b"PROXY TCP6 ::1:2:3:4:5:6:7:", 27, "malformed"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 65536", 32, "malformed"),
        (b"PROXY UNKNOWN " + b"x" * 92, 106, "malformed"),
        (reference.SIGNATURE + b"\x11", 13, "malformed"),
        (reference.SIGNATURE + b"\x21\x41", 14, "malformed"),
        (reference.SIGNATURE + b"\x21\x11\x10\x00", 15, "too_long"),
        (reference.SIGNATURE + b"\x21\x11\x00\x0b", 16, "malformed"),
        (v2(tlvs=b"\x01\x00\x02h"), 31, "malformed"),
    ],
)
def test_refuses_at_the_first_byte_that_shows_it(parser: Reader, data: bytes, length: int, reason: str) -> None:
    verdicts = parser([[data[at : at + 1] for at in range(len(data))]])[0]
    assert verdicts[: length - 1] == [WAIT] * (length - 1)
    assert verdicts[length - 1] == ("refuse", reason)


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("2001:db8::7", "192.0.2.1"),
        ("::ffff:203.0.113.7", "192.0.2.1"),
        ("2001:db8::7", "0.0.0.0"),
        ("203.0.113.7", "2001:db8::1"),
        ("203.0.113.7", "::"),
        ("203.0.113.7", "::ffff:192.0.2.1"),
        ("203.0.113.7", "1:2:3:4:5:6:255.255.255.255"),
    ],
)
def test_the_destination_may_be_of_the_other_family(parser: Reader, source: str, destination: str) -> None:
    """As nginx 1.22 writes it in a chain: the client's address by realip, its own by getsockname(). Nobody uses it."""
    family = "TCP6" if ":" in source else "TCP4"
    header = f"PROXY {family} {source} {destination} 5000 443\r\n".encode()
    assert whole(parser, header) == ("proxy", canonical(source), 5000, len(header))
    assert all(whole(parser, header[:at]) == WAIT for at in range(11, len(header)))


@pytest.mark.parametrize(
    "destination", ["1.2.3", "1.2.3.256", "1.2.3.04", "1:2", "1.2.3.4:1", "1.2.3.4.5", "-", "[::1]"]
)
def test_a_destination_that_is_no_address_is_refused(parser: Reader, destination: str) -> None:
    for family, source in (("TCP4", "203.0.113.7"), ("TCP6", "2001:db8::7")):
        header = f"PROXY {family} {source} {destination} 5000 443\r\n".encode()
        assert whole(parser, header) == ("refuse", "malformed")


@pytest.mark.parametrize(("family", "source"), [("TCP4", "2001:db8::7"), ("TCP6", "203.0.113.7")])
def test_the_source_is_of_the_family_that_is_stated(parser: Reader, family: str, source: str) -> None:
    for destination in ("192.0.2.1", "2001:db8::1"):
        assert whole(parser, f"PROXY {family} {source} {destination} 5000 443\r\n".encode()) == ("refuse", "malformed")


@pytest.mark.parametrize("address", USABLE)
def test_takes_the_neighbours_of_what_no_client_has(parser: Reader, address: str) -> None:
    for header in (v1((address, 5000)), v2((address, 5000))):
        assert whole(parser, header) == ("proxy", address, 5000, len(header))


@pytest.mark.parametrize("address", [*UNUSABLE4, *UNUSABLE6])
def test_refuses_what_no_client_has(parser: Reader, address: str) -> None:
    """In every kind of header."""
    client = (address, 5000)
    for header in (v1(client), v2(client), with_checksum(client=client)):
        assert whole(parser, header) == ("refuse", "unusable_address")


def test_fuzz(tmp_path: Path) -> None:
    """It agrees with a third reader, in C, on damaged headers, under the sanitizers. SRCIP_FUZZ says on how many."""
    fuzz = build(tmp_path / "fuzz", HERE / "fuzz.c", HERE / "reference.c", *SANITIZERS)
    text = "".join(f"{header.hex()}\n" for header in corpus(random.Random(SEED)))  # noqa: S311
    subprocess.run([fuzz, FUZZ, SEED], input=text, text=True, check=True)


@pytest.mark.dataplane
def test_the_verifier_has_little_to_do(kernel: Reader, capfd: pytest.CaptureFixture[str]) -> None:
    """So a program of which the parser is a part stays far from the verifier's limit, and loads in milliseconds."""
    kernel([])
    verified = int(capfd.readouterr().err.split()[1])
    assert 0 < verified < INSTRUCTIONS
