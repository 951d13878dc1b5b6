"""The exporter of ebpf mode, as far as it needs no kernel: options, names, the page, HTTP."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srcip_proxy.ebpf import counters as ebpf_counters
from srcip_proxy.ebpf.counters import COUNTERS, SERIES
from srcip_proxy.ebpf.exporter.http import LONGEST_HEAD, Answer, respond
from srcip_proxy.ebpf.exporter.options import HELP, Options, UsageError, parse
from srcip_proxy.ebpf.exporter.pods import STATES, Name, Reading, names, page

ZERO = (0,) * len(COUNTERS)
SAMPLE = re.compile(r'([a-z_]+)\{((?:[a-z]+="(?:[^"\\\n]|\\["\\n])*",?)+)\} (\d+)')


def samples(text: str) -> dict[tuple[str, str], int]:
    """Every line of a page that is a sample, read strictly; a line that is there twice is a fault."""
    found: dict[tuple[str, str], int] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            match = SAMPLE.fullmatch(line)
            assert match, line
            assert (match[1], match[2]) not in found, line
            found[match[1], match[2]] = int(match[3])
    return found


def first(value: int) -> tuple[int, ...]:
    """Counters of which only the first is not zero."""
    return (value, *ZERO[1:])


def test_no_options_are_the_defaults() -> None:
    assert parse([]) == Options(None, 15320, Path("/sys/fs/cgroup"), Path("/var/log/pods"))
    for default in (":15320", "/sys/fs/cgroup", "/var/log/pods"):
        assert f"default {default}\n" in HELP


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [(":1", None, 1), ("127.0.0.1:65535", "127.0.0.1", 65535), ("[::1]:15320", "::1", 15320), ("[::]:80", "::", 80)],
)
def test_where_to_listen(text: str, address: str | None, port: int) -> None:
    options = parse(["--listen", text])
    assert (options.address, options.port) == (address, port)


@pytest.mark.parametrize(
    "text",
    ["15320", ":0", ":65536", ":x", "", "::1:80", "[127.0.0.1]:80", "localhost:80", "1.2.3:80", "[::1]", ":80 ", ":٣"],
)
def test_nowhere_to_listen(text: str) -> None:
    """The message has the option, the value and what is allowed."""
    with pytest.raises(UsageError) as caught:
        parse(["--listen", text])
    (fault,) = caught.value.faults
    assert fault.startswith(f"--listen {text!r}: expected is ADDRESS:PORT")


def test_all_faults_of_a_command_line_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        parse(["--listen", "x", "--cgroups", "relative", "--pods", "--pods", "/a", "--lisen", "word"])
    said = [fault.partition(":")[0] for fault in caught.value.faults]
    assert said == ["'--lisen'", "'word'", "--pods", "--listen 'x'", "--cgroups 'relative'"]


def test_the_program_refuses_a_wrong_command_line_and_shows_its_help() -> None:
    command = [sys.executable, "-m", "srcip_proxy", "ebpf", "exporter"]
    wrong = subprocess.run([*command, "--listen", "x"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert wrong.stderr.startswith("srcip-proxy ebpf exporter: --listen 'x': expected is")
    shown = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False)
    assert (shown.returncode, shown.stdout) == (0, HELP)


def test_names_are_those_of_the_directories_of_logs() -> None:
    """Also of a static Pod, whose UID is a hash; everything else in the directory is left out."""
    uid, digest = "0b6b0ae3-6cd9-4c5c-9a0a-5b9d1b5f7a10", "3f0c8b8b1f0f4d4f9d0f3d3f3f0c8b8b"
    good = [f"default_web-0_{uid}", f"kube-system_etcd-node.example_{digest}"]
    bad = ["", "default_web", f"_web_{uid}", f"Default_web_{uid}", f"a_b_c_{uid}", f"default_web_{uid}/x", "a_b_\n"]
    bad += [f'default_we"b_{uid}', f"d\u00e9fault_web_{uid}", f"{'a' * 64}_web_{uid}", f"a.b_web_{uid}"]
    assert names([*good, *bad]) == {uid: Name("default", "web-0"), digest: Name("kube-system", "etcd-node.example")}


def test_a_page_has_each_counter_of_each_pod_under_its_name() -> None:
    known = {"1": Name("a", "web"), "2": Name("b", "web"), "3": Name("b", "other")}
    found = [Reading("1", 5, tuple(range(len(COUNTERS)))), Reading("2", 6, first(9)), Reading("9", 7, first(3))]
    read = samples(page(found, known))
    for number, (series, value) in enumerate(COUNTERS):
        metric, label, _ = SERIES[series]
        assert read.pop((metric, f'namespace="a",pod="web",{label}="{value}"')) == number
        assert read.pop((metric, f'namespace="b",pod="web",{label}="{value}"')) == (9 if number == 0 else 0)
    states = {"shown": 2, "replaced": 0, "unnamed": 1, "unreadable": 0}
    assert read == {("srcip_ebpf_pods", f'state="{state}"'): number for state, number in states.items()}


def test_a_page_names_each_metric_once_with_the_words_of_stats() -> None:
    """HELP and TYPE stand before all samples of a metric, and are those of `ebpf stats`."""
    values = dict(zip(COUNTERS, ZERO, strict=True))
    text = page([Reading(str(n), n, ZERO) for n in range(3)], {str(n): Name("a", f"web-{n}") for n in range(3)})
    of_stats = [line for line in ebpf_counters.text(values).splitlines() if line.startswith("#")]
    heads = [line for line in text.splitlines() if line.startswith("#")]
    assert heads[: len(of_stats)] == of_stats
    assert len(heads) == len(of_stats) + 2
    order = [line.split()[2] if line.startswith("# TYPE") else line.partition("{")[0] for line in text.splitlines()]
    groups = [name for at, name in enumerate(order) if not name.startswith("#") and (at == 0 or order[at - 1] != name)]
    assert len(groups) == len(set(groups)) == len(SERIES) + 1


def test_a_node_without_pods_has_a_page() -> None:
    read = samples(page([], {}))
    assert read == {("srcip_ebpf_pods", f'state="{state}"'): 0 for state in STATES}


@pytest.mark.parametrize("is_turned", [False, True])
def test_of_two_pods_of_one_name_the_newer_one_is_shown(is_turned: bool) -> None:
    """Whichever was read first: two samples with the same labels would make Prometheus refuse the whole page."""
    old, new = Reading("1", 5, first(100)), Reading("2", 6, first(1))
    known = {"1": Name("a", "web-0"), "2": Name("a", "web-0")}
    read = samples(page([new, old] if is_turned else [old, new], known))
    assert read["srcip_accepted_connections_total", 'namespace="a",pod="web-0",header="proxy"'] == 1
    assert read["srcip_ebpf_pods", 'state="replaced"'] == 1


def test_a_pod_whose_programs_have_no_such_map_is_counted_alone() -> None:
    read = samples(page([Reading("1", 5, None)], {"1": Name("a", "web")}))
    assert sum(read.values()) == read["srcip_ebpf_pods", 'state="unreadable"'] == 1


@given(st.text())
def test_whatever_a_label_holds_the_page_stays_readable(value: str) -> None:
    """Quotes, backslashes and line ends are escaped, and come back as they were."""
    counter = ("accepted", "proxy")
    text = ebpf_counters.page([({"pod": value}, {counter: 1})])
    line = next(each for each in text.split("\n") if not each.startswith("#"))
    match = re.fullmatch(r'srcip_accepted_connections_total\{pod="(.*)",header="proxy"\} 1', line, re.DOTALL)
    assert match
    read = re.sub(r'\\(["\\n])', lambda found: {"n": "\n"}.get(found[1], found[1]), match[1])
    assert read == value


def pages(path: str) -> Answer:
    return Answer(200, f"<{path}>") if path.startswith("/known") else Answer(404, "no")


def status(asked: bytes) -> int:
    """Of the answer, 0 if there is none yet."""
    said = respond(asked, pages)
    return int(said.split(b" ")[1]) if said else 0


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (b"GET /known HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET /known?a=b HTTP/1.0\r\n\r\n", 200),
        (b"HEAD /known HTTP/1.1\r\n\r\n", 200),
        (b"GET /unknown HTTP/1.1\r\n\r\n", 404),
        (b"GET http://x/known HTTP/1.1\r\n\r\n", 404),
        (b"POST /known HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"DELETE /unknown HTTP/1.1\r\n\r\n", 405),
        (b"GET  /known HTTP/1.1\r\n\r\n", 400),
        (b"GET /known\r\n\r\n", 400),
        (b"GET /kn\xffown HTTP/1.1\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"GET /known HTTP/1.1\r\n", 0),
        (b"", 0),
        (b"GET /" + b"k" * LONGEST_HEAD, 431),
        (b"GET /known HTTP/1.1\r\nA: " + b"k" * LONGEST_HEAD + b"\r\n\r\n", 431),
    ],
)
def test_requests_and_their_answers(asked: bytes, answer: int) -> None:
    assert status(asked) == answer


def test_the_body_is_as_long_as_the_answer_says_and_head_has_none() -> None:
    head, _, body = (respond(b"GET /known?x HTTP/1.1\r\n\r\n", pages) or b"").partition(b"\r\n\r\n")
    assert body == b"</known>"
    assert b"\r\nContent-Length: 8\r\n" in head
    assert respond(b"HEAD /known HTTP/1.1\r\n\r\n", pages) == head + b"\r\n\r\n"
    assert b"\r\nAllow: GET, HEAD\r\n" in (respond(b"PUT / HTTP/1.1\r\n\r\n", pages) or b"")


@given(st.binary(max_size=200), st.integers(0, 35))
def test_no_bytes_break_the_server(noise: bytes, at: int) -> None:
    """Neither noise nor a request with noise in it: an answer, or patience."""
    request = bytearray(b"GET /known HTTP/1.1\r\nHost: x\r\n\r\n")
    for asked in (noise, noise + b"\r\n\r\n", bytes(request[:at]) + noise + bytes(request[at:])):
        assert status(asked) in (0, 200, 400, 404, 405)
