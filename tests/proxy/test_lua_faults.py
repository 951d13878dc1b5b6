"""An error in the sidecar's own code ends the connection: HAProxy alone goes on as if the work was done.

Each piece fails at one instruction after the other, for real, by a copy of the image whose Lua is changed. Whatever
fails where, the application sees the right client or nothing.
"""

import dataclasses
import itertools
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

import pytest
from test_first_bytes import TLS

from srcip_lab import image, places
from srcip_proxy.plan import Plan, PortRange
from support.rig import (
    APP,
    CLIENT4,
    CLIENT6,
    HTTP_APP,
    LB4,
    LB_NETWORKS,
    LOCAL,
    POD4,
    POD6,
    PORT,
    SHORT,
    Rig,
    needs_root,
    plan,
    start,
    v1,
    v2,
)
from support.web import get, read, redirect

pytestmark = pytest.mark.dataplane

PACKAGE = "usr/lib/python3/dist-packages/srcip_proxy/haproxy"
FAULTY = Path(__file__).with_name("faulty.lua")
TLV = b"\x05\0\x02id"
"""A TLV (PP2_TYPE_UNIQUE_ID): the header is no plain one, and Lua reads it."""
INTERNAL = 'srcip_refused_connections_total{reason="internal"}'
ONE = (PortRange(PORT, PORT),)


class Faulty:
    """A Pod whose sidecar fails where it is told to."""

    def __init__(self, rig: Rig, order: Path) -> None:
        self.rig, self.order, self.runs = rig, order, itertools.count(1)

    def sweep(self, name: str, attempt: Callable[[], bool], *, step: int = 1) -> int:
        """Try with a fault at one instruction of `name` after the other, until it is whole. `attempt` says whether the
        client was seen, and raises AssertionError where something else was. How many did not see it."""
        time.sleep(1.1)  # each second has its own lines of the log
        run = f"run{next(self.runs)}"
        self.order.write_text(f"{name} {step} error {run}\n")
        failed = 0
        for _ in range(3000):
            failed += not attempt()
            if f"whole {run} " in self.rig.log():
                return failed
        raise AssertionError(f"{name}: it never came to its end")


@pytest.fixture(scope="module")
def faulty_image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the image with faulty.lua before srcip.lua, and a bound for Lua's memory."""
    needs_root()
    copy = tmp_path_factory.mktemp("faulty") / "rootfs"
    subprocess.run(["cp", "-al", image.proxy_rootfs(), copy], check=True)
    main, settings = copy / PACKAGE / "lua/srcip.lua", copy / PACKAGE / "config.py"
    replace(main, "", FAULTY.read_text())
    shutil.rmtree(copy / PACKAGE / "__pycache__")
    replace(settings, '    yield f"  lua-prepend-path', '    yield "  tune.lua.maxmem 64"\n')
    yield copy
    shutil.rmtree(copy)


def replace(path: Path, before: str, text: str) -> None:
    """Put `text` before `before`; the file is a hard link of a cached one."""
    whole = path.read_text()
    assert before in whole
    path.unlink()
    path.write_text(whole.replace(before, text + before, 1))
    path.chmod(0o644)


Pods = Callable[..., Faulty]


@pytest.fixture(scope="module")
def faulty(faulty_image: Path) -> Iterator[Pods]:
    """Such Pods by plan."""
    running: dict[object, Faulty] = {}
    order = faulty_image / "fault"
    order.write_text("- 1 error -\n")

    def pod(wanted: Plan, program: Path = APP, app: tuple[str, ...] = ("::", str(PORT))) -> Faulty:
        key = (wanted, program, app)
        if key not in running:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv(places.ROOTFS, str(faulty_image))
                short = dataclasses.replace(wanted, **SHORT)  # what fails waits until then
                running[key] = Faulty(Rig(start(short, app, program=program)), order)
        return running[key]

    yield pod
    for each in running.values():
        each.rig.lab.down()


def sees(pod: Faulty, data: bytes, client: str, to: str = POD4) -> bool:
    """Whether the application sees the client; else nothing, and not a byte of a header."""
    seen = pod.rig.seen(data + b"hello", to=to)
    assert (seen.peer and seen.peer[0], seen.rest) in ((client, b"hello"), (None, b"")), seen
    return seen.peer is not None


CASES = {
    "plain4": ("srcip_plain4", v2(), CLIENT4[0], POD4, 1),
    "plain6": ("srcip_plain6", v2(CLIENT6), CLIENT6[0], POD6, 1),
    "header, v2": ("srcip_header", v2(tlvs=TLV), CLIENT4[0], POD4, 1),
    "header, v1": ("srcip_header", v1(), CLIENT4[0], POD4, 3),
    "header, LOCAL": ("srcip_header", LOCAL, LB4, POD4, 1),
    "header, none": ("srcip_header", b"", LB4, POD4, 3),
    "next": ("srcip_next", v2(("203.0.113.8", 0)), "203.0.113.8", POD4, 1),
}


@pytest.mark.parametrize("case", CASES)
def test_no_error_shows_another_client(faulty: Pods, case: str) -> None:
    """In tproxy mode, where no header is needed: a lost decision would show the balancer."""
    name, data, client, to, step = CASES[case]
    pod = faulty(plan(proxy_protocol="optional"), app=("POD" if name == "srcip_next" else "::", str(PORT)))
    before = pod.rig.metric(INTERNAL)
    failed = pod.sweep(name, lambda: sees(pod, data, client, to), step=step)
    if name != "srcip_next":  # HAProxy knows no more of that one than that it has no value
        assert 0 < pod.rig.metric(INTERNAL) - before <= failed
        assert f"error in {name}: " in pod.rig.log()
        assert "reason=internal; what to do: report this line as a bug of srcip" in pod.rig.log()


def gets(pod: Faulty, request: bytes, headers: dict[str, list[str]], to: str = POD4, client: bytes = v2()) -> bool:
    """Whether the application reads exactly these headers; else it reads no request."""
    before, saw = pod.rig.accepted(), None
    with suppress(OSError, HTTPException), pod.rig.connect(to=to) as connection:
        connection.send(client + request)
        saw = read(connection)
    if saw and saw.status == 200:
        assert {name: saw.all(name) for name in headers} == headers
        return True
    assert pod.rig.accepted() == before
    return False


FOR = "X-Forwarded-For"
REQUESTS = {
    "header": ({}, "srcip_header", get(), {FOR: [CLIENT4[0]]}, POD4, v2(tlvs=TLV)),
    "header, LOCAL": ({}, "srcip_header", get(), {FOR: [LB4]}, POD4, LOCAL),
    "header, v1": ({}, "srcip_header", get(), {FOR: [CLIENT4[0]], "X-Forwarded-Port": ["25"]}, POD4, v1()),
    "port6": ({}, "srcip_port6", get(), {FOR: [CLIENT6[0]]}, POD6, v2(CLIENT6)),
    "kind": ({}, "srcip_kind", b"\r\n" + get("/", f"{FOR}: 6.6.6.6"), {FOR: [CLIENT4[0]]}, POD4, v2()),
    "walk": (
        {"forwarded_for": "trusted", "trusted_cidrs": (*LB_NETWORKS, "203.0.113.0/24")},
        "srcip_walk",
        get("/", f"{FOR}: 6.6.6.6, 198.51.100.1, 203.0.113.9"),
        {FOR: ["198.51.100.1"]},
        POD4,
        v2(),
    ),
    "join": (
        {"forwarded_for": "append"},
        "srcip_join_forwarded_for",
        get("/", f"{FOR}: 6.6.6.6", f"{FOR}: 5.5.5.5"),
        {FOR: [f"6.6.6.6, 5.5.5.5, {CLIENT4[0]}"]},
        POD4,
        v2(),
    ),
}


@pytest.mark.parametrize("case", REQUESTS)
def test_no_error_changes_a_header(faulty: Pods, case: str) -> None:
    """In redirect mode, where the application reads its client in a header."""
    changes, name, request, headers, to, client = REQUESTS[case]
    pod = faulty(redirect(proxy_protocol="optional", http_ports=ONE, **changes), HTTP_APP)
    before = pod.rig.metric(INTERNAL)
    failed = pod.sweep(name, lambda: gets(pod, request, headers, to, client), step=3)
    assert 0 < pod.rig.metric(INTERNAL) - before <= failed


def test_no_error_leaves_out_the_header_that_is_emitted(faulty: Pods) -> None:
    """The application would read the client's first bytes in its place."""
    pod = faulty(plan(mode="redirect", emit_proxy_protocol="v1"))
    wanted = v1(to=(LB4, 25)).replace(LB4.encode(), CLIENT4[0].encode())

    def attempt() -> bool:
        with pod.rig.connect() as client:
            client.send(v2() + b"hello")
            seen = client.seen(rest=len(wanted) + 5)
        assert seen.rest in (b"", wanted + b"hello")
        return seen.rest != b""

    for name, step in (("srcip_emit", 1), ("srcip_header", 3)):
        assert pod.sweep(name, attempt, step=step) > 0


def test_no_error_shows_another_client_of_a_request(faulty: Pods) -> None:
    """Where a balancer states it in X-Forwarded-For (tproxy mode)."""
    pod = faulty(plan(http_ports=ONE, client_from="x-forwarded-for"), HTTP_APP)
    request = get("/", f"{FOR}: 198.51.100.1")

    def attempt() -> bool:
        before = pod.rig.accepted()
        with pod.rig.connect() as connection:
            connection.send(request)
            saw = read(connection)
        if saw.status != 200:
            assert pod.rig.accepted() == before
            return False
        assert saw.facts["peer"][0] == "198.51.100.1"
        return True

    assert pod.sweep("srcip_request", attempt) > 0


def passes(pod: Faulty) -> bool:
    """Whether a ClientHello reaches an application that does not speak TLS; nothing behind it may."""
    with pod.rig.connect() as client:
        client.send(v2() + TLS)
        with suppress(OSError):
            client.send(get())
        seen = client.seen(rest=len(TLS), timeout=3, quiet=0.05)  # a fault may leave it waiting
    assert seen.rest in (b"", TLS)
    return seen.rest == TLS


@pytest.mark.parametrize("callback", ["new", "start_analyze", "tcp_payload"])
def test_no_error_lets_pass_what_follows_a_client_hello(faulty: Pods, callback: str) -> None:
    pod = faulty(redirect(http_other="pass", http_ports=ONE))
    assert pod.sweep(f"srcip_held.{callback}", lambda: passes(pod)) > 0


def test_nor_does_a_lack_of_memory(faulty: Pods) -> None:
    """HAProxy alone passes everything on then."""
    pod = faulty(redirect(http_other="pass", http_ports=ONE))
    before = pod.rig.metric(INTERNAL)
    time.sleep(1.1)
    with pod.rig.connect() as client:
        client.send(v2() + TLS)
        assert client.seen(rest=len(TLS)).rest == TLS
        pod.order.write_text("math.min 0 memory always\n")  # held.lua counts by it what may pass
        client.send(get())
        seen = client.seen(rest=len(TLS + get()))
        pod.order.write_text("- 1 error -\n")
    assert (seen.rest, seen.end) == (TLS, "end")
    assert pod.rig.metric(INTERNAL) == before + 1
    assert "error in srcip_held: not enough memory" in pod.rig.log()
