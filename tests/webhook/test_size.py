"""A review costs what its size says: no step is quadratic, what is remembered has a bound, and the loop goes on.

The table of time and memory by shape: pytest -s tests/webhook/test_size.py -k goes_on
"""

import asyncio
import gc
import json
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from pydantic_core import from_json

from srcip_webhook import review
from srcip_webhook.app import LARGE, create_app
from srcip_webhook.mutate import answer, judge
from srcip_webhook.server import SWITCH_S, quiet_gc
from support.reviews import HEADERS, SETTINGS, body, pod

P = "srcip.io/"
TPROXY, REDIRECT = {P + "mode": "tproxy"}, {P + "mode": "redirect"}


def ports(number: int, name: str = "") -> list[dict[str, Any]]:
    """Every other port from 16000 on, or from 1 where these are not enough: none is the sidecar's own."""
    first = 16000 if number <= 20000 else 1
    named = (lambda i: {"name": f"{name}-{i}"[:15]}) if name else lambda _: {}
    numbers = [n for n in range(first, 65536, 2) if not 15300 <= n < 15330][:number]
    return [{"containerPort": n, **named(n)} for n in numbers]


def listed(number: int, first: int = 1) -> str:
    return ",".join(str(first + 2 * i) for i in range(number))


def nested(depth: int) -> Any:
    """Objects in each other, in a field that nobody looks at."""
    made: Any = {}
    for _ in range(depth):
        made = {"a": made}
    return made


SHAPES: dict[str, Callable[[int], dict[str, Any]]] = {
    "declared ports": lambda n: pod(TPROXY, containers=[{"name": "a", "ports": ports(n)}]),
    "HTTP ports": lambda n: pod(REDIRECT, containers=[{"name": "a", "ports": ports(n, "http")}]),
    "inbound-ports": lambda n: pod(
        {**TPROXY, P + "inbound-ports": listed(n, 2)}, containers=[{"name": "a", "ports": ports(n)}]
    ),
    "http-ports": lambda n: pod(
        {**REDIRECT, P + "http-ports": listed(n, 2)}, containers=[{"name": "a", "ports": ports(n)}]
    ),
    "exclude-inbound-ports": lambda n: pod(
        {**TPROXY, P + "exclude-inbound-ports": listed(n)}, containers=[{"name": "a", "ports": ports(n)}]
    ),
    "containers": lambda n: pod(
        TPROXY, containers=[{"name": f"c{i}", "ports": [port]} for i, port in enumerate(ports(n))]
    ),
    "probes": lambda n: pod(
        TPROXY,
        containers=[
            {"name": f"c{i}", "ports": [port], "readinessProbe": {"httpGet": {"port": port["containerPort"]}}}
            for i, port in enumerate(ports(n))
        ],
    ),
    "volumes": lambda n: pod(TPROXY, volumes=[{"name": f"v{i}", "emptyDir": {}} for i in range(n)]),
    "annotations": lambda n: pod({**TPROXY, **{f"example.org/{i}": "x" for i in range(n)}}),
    "unknown annotations": lambda n: pod({**TPROXY, **{f"{P}{i}": "x" for i in range(n)}}),
    "trusted-cidrs": lambda n: pod(
        {**TPROXY, P + "trusted-cidrs": ",".join(f"10.{i >> 8}.{i & 255}.0/24" for i in range(n))}
    ),
    "outbound-headers": lambda n: pod(
        {**REDIRECT, P + "outbound-ports": "80", P + "outbound-headers": "\n".join(f"X-{i}: {i}" for i in range(n))}
    ),
    "names of srcip": lambda n: pod(TPROXY, containers=[{"name": "srcip-proxy"} for _ in range(n)]),
    "deep nesting": lambda n: pod(TPROXY, affinity=[nested(100) for _ in range(n // 100)]),
    "a long string": lambda n: pod({**TPROXY, "example.org/x": "\N{SNOWMAN}" * (16 * n)}),
    "long values": lambda n: pod({P + name: "9-" * (16 * n) for name in ("mode", "trusted-cidrs", "inbound-ports")}),
    "long names": lambda n: pod(TPROXY, containers=[{"name": "x" * (16 * n), "ports": ports(2, "y" * (16 * n))}]),
    "wrong types": lambda n: pod(TPROXY, containers=[{"name": 1, "ports": [{"containerPort": "x"}]} for _ in range(n)]),
}


def considered(content: bytes) -> str:
    asked = review.read(content)
    outcome = judge(asked, SETTINGS)
    json.dumps(answer(asked, outcome))
    return outcome.verb


def seconds(content: bytes) -> float:
    """The fastest of three: how long it takes when nobody disturbs."""
    times = []
    for _ in range(3):
        started = time.process_time()
        considered(content)
        times.append(time.process_time() - started)
    return min(times)


@pytest.mark.parametrize("name", SHAPES)
def test_time_grows_with_size(name: str) -> None:
    """Eight times the size takes some eight times as long. A quadratic step would take sixty-four times."""
    small, large = (body(SHAPES[name](n)) for n in (2500, 20000))
    assert seconds(large) < 24 * max(seconds(small), 0.001)


@pytest.mark.parametrize("name", ["declared ports", "HTTP ports", "probes", "trusted-cidrs"])
def test_what_is_remembered_has_a_bound(name: str) -> None:
    """Of forty different large Pods, next to nothing."""
    shape = SHAPES[name](3000)
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(40):
            shape["metadata"]["annotations"][P + "header-timeout"] = f"{1000 + number}ms"
            considered(body(shape))
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 2_000_000, "40 of them had 0.46 MiB each"


TICK_S = 0.0005
REQUEST_BYTES = 3 * 1024 * 1024
"""The longest object that the API server takes."""


def largest(name: str, limit: int = REQUEST_BYTES) -> bytes:
    """The largest review of this shape: of so many bytes, or with as many different ports as there are."""
    whole = len(body(SHAPES[name](2000)))
    return body(SHAPES[name](2000 * limit // whole))


def decoded_in(content: bytes) -> float:
    """Seconds that nobody can use for anything else."""
    started = time.perf_counter()
    from_json(content)
    return time.perf_counter() - started


async def worked_at(content: bytes) -> float:
    """The longest time in which the webhook's loop does nothing else while it works at a review, in seconds."""
    gaps, done = [0.0], asyncio.Event()

    async def tick() -> None:
        while not done.is_set():
            before = time.perf_counter()
            await asyncio.sleep(TICK_S)
            gaps.append(time.perf_counter() - before - TICK_S)

    transport = httpx.ASGITransport(create_app(SETTINGS))
    async with httpx.AsyncClient(transport=transport, base_url="https://webhook") as client:
        ticking = asyncio.create_task(tick())
        assert (await client.post("/mutate", content=content, headers=HEADERS)).status_code == 200
    done.set()
    await ticking
    return max(gaps)


def peak_mib(content: bytes) -> float:
    """Memory that a review takes while it is worked at."""
    tracemalloc.start()
    try:
        considered(content)
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


@contextmanager
def as_served() -> Iterator[None]:
    """With the interpreter set as the server sets it."""
    switching, collecting = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(SWITCH_S)
    quiet_gc()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*collecting)
        sys.setswitchinterval(switching)


@pytest.mark.parametrize("name", SHAPES)
def test_the_loop_goes_on_beside_the_largest_review(name: str, pytestconfig: pytest.Config) -> None:
    """Nothing holds the interpreter for much longer than the decoding of the JSON, which no other thread can share."""
    content, small = largest(name), largest(name, LARGE - 4096)
    with as_served():
        times = [asyncio.run(worked_at(content)) for _ in range(3)]
        gap, decoding = min(times), min(decoded_in(content) for _ in range(3))
        assert gap < 0.05 + 4 * decoding
        if pytestconfig.getoption("capture") != "no":
            return
        alone, in_loop = seconds(content), seconds(small)
    print(
        f"\n{name:22} {len(content) / 2**20:5.2f} MiB {alone * 1e3:6.0f} ms of CPU, the loop waits for "
        f"{gap * 1e3:3.0f} ms, {peak_mib(content):5.1f} MiB; of 60 KiB, in the loop: {in_loop * 1e3:4.1f} ms"
    )
