"""A review costs what its size says: no step is quadratic, what is remembered has a bound, and the loop goes on.

What is proved here is counted; no clock says whether a test passes. A table of time and memory by shape:
pytest -s --figures tests/webhook/test_size.py -k loop
"""

import asyncio
import gc
import json
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from pydantic_core import from_json

from srcip_webhook import patch, pods, policy, review, status, stripped, work, workers
from srcip_webhook.app import LARGE, create_app
from srcip_webhook.mutate import answer, judge
from srcip_webhook.pods import Pod
from srcip_webhook.ports import Ports
from srcip_webhook.server import SWITCH_S, quiet_gc
from support.reviews import HEADERS, SETTINGS, body, post
from support.shapes import SHAPES, P, largest
from support.steps import forget, marked, plain_type, steps

SIZES = (100, 800), (32, 256)
"""Each eight times the other. Lists of ports are no longer than 256; what is longer is refused before it is read."""
GROWTH = 12
"""Most steps of eight times the size: sorting takes eleven times as many, a quadratic step takes sixty-four."""


@pytest.fixture
def marking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Marked texts and numbers pass wherever the webhook asks for exactly a text or a number."""
    for module in (pods, patch, status, stripped):
        monkeypatch.setattr(module, "type", plain_type, raising=False)


def worked(pod: Pod) -> int:
    """The steps from a decoded Pod to the answer's text."""
    asked = review.read(body(pod))
    asked = asked.model_copy(update={"object": marked(asked.object)})
    forget("srcip_")
    return steps(lambda: json.dumps(answer(asked, judge(asked, SETTINGS))))


def growths(shape: Callable[[int], Pod]) -> Iterator[float]:
    """How many times the steps grow while the size grows eight times, without those that every Pod takes."""
    least = worked(shape(1))
    for small, large in SIZES:
        yield (worked(shape(large)) - least) / max(worked(shape(small)) - least, 100)


@pytest.mark.usefixtures("marking")
@pytest.mark.parametrize("name", SHAPES)
def test_steps_grow_with_size(name: str) -> None:
    """Eight times the size takes some eight times the steps, comparisons within C code included."""
    assert max(growths(SHAPES[name])) < GROWTH


def _seen_before(ports: Ports) -> None:
    seen: list[str] = []
    for port in ports.declared:
        if port.name not in seen:
            seen.append(port.name)


def _pairs(ports: Ports) -> None:
    for one in ports.declared:
        for _ in ports.declared:
            assert one


def _indexes(ports: Ports) -> None:
    for port in ports.declared:
        ports.declared.index(port)


def _numbers(ports: Ports) -> None:
    numbers = [port.number for port in ports.declared]
    for number in list(numbers):
        numbers.remove(max(numbers))
        assert number


@pytest.mark.usefixtures("marking")
@pytest.mark.parametrize("broken", [_seen_before, _pairs, _indexes, _numbers])
def test_a_quadratic_step_is_seen(broken: Callable[[Ports], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Be it a loop in a loop, or `in`, `index`, `max` and `remove` of a list: C code that has no lines."""
    whole = policy.resolve

    def resolve(*arguments: Any) -> Ports:
        found = whole(*arguments)
        broken(found)
        return found

    monkeypatch.setattr(policy, "resolve", resolve)
    assert max(growths(SHAPES["HTTP ports"])) > GROWTH


def considered(content: bytes) -> None:
    asked = review.read(content)
    json.dumps(answer(asked, judge(asked, SETTINGS)))


@pytest.mark.parametrize("name", ["declared ports", "HTTP ports", "probes", "trusted-cidrs"])
def test_what_is_remembered_has_a_bound(name: str) -> None:
    """Of ten different large Pods, next to nothing."""
    shape = SHAPES[name](3000)
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(10):
            shape["metadata"]["annotations"][P + "header-timeout"] = f"{1000 + number}ms"
            considered(body(shape))
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 2_000_000, "each of them had 0.46 MiB once"


def in_the_loop(content: bytes) -> int:
    """The steps that the webhook's loop takes for a review: those of its own thread."""
    made = create_app(SETTINGS)
    return steps(lambda: post(made, content))


@pytest.mark.parametrize("name", SHAPES)
def test_the_loop_takes_no_more_steps_for_the_largest_review(name: str, pytestconfig: pytest.Config) -> None:
    """Twice those of an empty one at most: the work is done elsewhere."""
    content = largest(name)
    assert in_the_loop(content) < 2 * in_the_loop(body({}))
    if pytestconfig.getoption("--figures"):
        print(figures(name, content))


def test_the_loop_answers_others_while_a_large_review_is_worked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """The large one's work does not end before a small one has its answer."""
    answered, loop = threading.Event(), threading.get_ident()

    def waiting(*arguments: Any) -> Any:
        if threading.get_ident() != loop:
            assert answered.wait(60), "nobody else was answered meanwhile"
        return judge(*arguments)

    async def both() -> list[int]:
        transport = httpx.ASGITransport(create_app(SETTINGS))
        async with httpx.AsyncClient(transport=transport, base_url="https://webhook") as client:
            long = asyncio.create_task(client.post("/mutate", content=largest("volumes"), headers=HEADERS))
            short = await client.post("/mutate", content=largest("volumes", LARGE - 4096), headers=HEADERS)
            assert not long.done()
            answered.set()
            return [short.status_code, (await long).status_code]

    monkeypatch.setitem(work.JUDGES, "/mutate", waiting)
    assert asyncio.run(both()) == [200, 200]


TICK_S = 0.0005


def figures(name: str, content: bytes) -> str:
    """A line of the table: what this shape's largest review takes on this machine."""
    small = largest(name, LARGE - 4096)
    with as_served():
        helper = workers.start(SETTINGS)
        gap = min(asyncio.run(gap_beside(content, helper)) for _ in range(3))
        helper.close()
        decoding = min(taken(lambda: from_json(content)) for _ in range(3))
        alone = min(taken(lambda: considered(content)) for _ in range(3))
        in_loop = min(taken(lambda: considered(small)) for _ in range(3))
    return (
        f"\n{name:22} {len(content) / 2**20:5.2f} MiB {alone * 1e3:6.0f} ms of CPU, {decoding * 1e3:3.0f} of them to "
        f"decode; the loop waits for {gap * 1e3:3.0f} ms, {peak_mib(content):5.1f} MiB; of 60 KiB, in the loop: "
        f"{in_loop * 1e3:4.1f} ms"
    )


def taken(work: Callable[[], object]) -> float:
    """CPU seconds of some work."""
    started = time.process_time()
    work()
    return time.process_time() - started


async def gap_beside(content: bytes, helper: workers.Workers) -> float:
    """The longest time in which the webhook's loop does nothing else while it works at a review, in seconds."""
    gaps, done = [0.0], asyncio.Event()

    async def tick() -> None:
        while not done.is_set():
            before = time.perf_counter()
            await asyncio.sleep(TICK_S)
            gaps.append(time.perf_counter() - before - TICK_S)

    transport = httpx.ASGITransport(create_app(SETTINGS, workers=helper))
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
