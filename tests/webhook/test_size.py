"""A review costs what its size says: no step is quadratic, and what is remembered has a bound."""

import gc
import json
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from support import SETTINGS, body, pod

from srcip_webhook import review
from srcip_webhook.mutate import answer, judge

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
