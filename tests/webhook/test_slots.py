"""The room of the webhook is shared by source: pure decisions about places, the lobby and turns."""

import asyncio
import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from srcip_webhook.body_slots import HOLD_S, Turns
from srcip_webhook.tls_slots import GRACE_S, MAX_OF_ONE_SOURCE, MOST_OPEN, Place, change
from srcip_webhook.waiting import Lobby

NOW = 1000.0
LONG_AGO = NOW - 60


def places(source: str, number: int, since: float = LONG_AGO, standing: str = "unfinished") -> list[Place[str]]:
    return [Place(f"{source}{i}", source, standing, since) for i in range(number)]


def test_a_free_place_is_given_at_once_and_nobody_leaves() -> None:
    changed = change(places("a", 10), {"a": ["x"], "b": ["y"]}, NOW)
    assert sorted(changed.begin) == ["x", "y"]
    assert changed.end == []


def test_one_source_never_has_all_places() -> None:
    changed = change([], {"a": range(MOST_OPEN)}, NOW)
    assert len(changed.begin) == MAX_OF_ONE_SOURCE


def test_who_has_the_least_is_first() -> None:
    held = places("a", 79, math.inf) + places("b", 79, math.inf)
    assert change(held, {"a": ["a"], "b": ["b"], "c": ["c", "d"]}, NOW).begin == ["c", "d"]


def test_the_one_with_the_most_gives_way_and_the_other_begins_when_it_has_gone() -> None:
    held = places("a", 79) + places("b", 80) + places("c", 1)
    changed = change(held, {"d": ["x"]}, NOW)
    assert [place.source for place in changed.end] == ["b"]
    assert changed.begin == []
    ended = [Place(p.holder, p.source, p.standing, p.waits_since, is_ended=p in changed.end) for p in held]
    assert change(ended, {"d": ["x"]}, NOW).end == [], "one is enough"
    assert change([p for p in held if p not in changed.end], {"d": ["x"]}, NOW).begin == ["x"]


def test_who_waits_for_an_answer_or_is_within_its_time_stays() -> None:
    for standing, seconds in GRACE_S.items():
        young = places("a", 80, NOW - seconds + 0.01, standing) + places("b", 80, NOW - seconds + 0.01, standing)
        assert change(young, {"c": ["x"]}, NOW).end == []
    working = places("a", 80, math.inf) + places("b", 80, math.inf)
    assert change(working, {"c": ["x"]}, NOW).end == []


def test_a_source_with_few_places_loses_none_to_one_with_more() -> None:
    """The API server keeps its idle connections beside strangers who are busy."""
    held = places("stranger", 80, math.inf) + places("other", 78, math.inf) + places("api", 2, standing="idle")
    assert change(held, {"other": ["x"] * 50, "stranger": ["y"] * 50}, NOW).end == []


def test_of_one_source_leaves_first_who_never_had_an_answer() -> None:
    held = [Place("answered", "a", "idle", LONG_AGO - 9, has_answered=True), *places("a", 79), *places("b", 80)]
    assert [place.has_answered for place in change(held, {"a": ["x"]}, NOW).end] == [False]


SOURCES = st.sampled_from("abcdefgh")
PLACES = st.lists(
    st.builds(
        Place,
        holder=st.integers(),
        source=SOURCES,
        standing=st.sampled_from(sorted(GRACE_S)),
        waits_since=st.sampled_from([math.inf, LONG_AGO, NOW - 0.7, NOW]),
        has_answered=st.booleans(),
        is_ended=st.booleans(),
    ),
    max_size=MOST_OPEN,
)


@given(PLACES, st.dictionaries(SOURCES, st.lists(st.integers(), max_size=100)))
def test_places_stay_bounded_and_nobody_becomes_poorer_than_who_takes_from_it(
    held: list[Place[int]], waiting: dict[str, list[int]]
) -> None:
    items = {source: [(source, i) for i in range(len(each))] for source, each in waiting.items()}
    changed = change(held, items, NOW)
    assert len(held) + len(changed.begin) <= MOST_OPEN
    assert all(place.may_leave(NOW) for place in changed.end)
    before = Counter(place.source for place in held if not place.is_ended)
    after = before - Counter(place.source for place in changed.end)
    for place in changed.end:
        assert after[place.source] + 1 >= min((before[each] for each in items), default=0)
    for source in items:
        assert (
            before[source] > MAX_OF_ONE_SOURCE
            or after[source] + sum(item[0] == source for item in changed.begin) <= MAX_OF_ONE_SOURCE
        )


def test_the_lobby_is_left_by_who_is_silent_of_the_source_with_the_most() -> None:
    lobby: Lobby[str] = Lobby()
    for name, source in (("api", "10.0.0.1"), ("old", "192.0.2.1"), ("new", "192.0.2.1"), ("says", "192.0.2.1")):
        lobby.add(name, source, NOW)
    lobby.speaks("says")
    left = []
    while len(lobby):
        left.append(lobby.surplus())
        lobby.remove(left[-1])
    assert left == ["old", "api", "new", "says"]


def test_the_lobby_knows_who_speaks_and_who_was_silent_for_too_long() -> None:
    lobby: Lobby[str] = Lobby()
    lobby.add("old", "a", NOW - 5)
    lobby.add("says", "a", NOW - 5)
    lobby.add("new", "b", NOW)
    lobby.speaks("says")
    assert lobby.silent_since(NOW - 3) == ["old"]
    assert {source: list(each) for source, each in lobby.speakers.items()} == {"a": ["says"]}
    lobby.remove("says")
    assert not lobby.speakers


def test_turns_go_to_the_source_that_had_none_for_the_longest_time() -> None:
    async def run() -> list[str]:
        turns, order, done = Turns(1), list[str](), asyncio.Event()

        async def ask(source: str) -> None:
            async with asyncio.timeout(60) as limit, turns.of(source, limit):
                order.append(source)
                await done.wait()

        asked = []
        for source in ("a", "a", "a", "b", "api"):
            asked.append(asyncio.ensure_future(ask(source)))
            await asyncio.sleep(0)
        done.set()
        await asyncio.gather(*asked)
        return order

    assert asyncio.run(run()) == ["a", "b", "api", "a", "a"]


def test_who_reads_a_body_has_little_time_only_while_others_wait() -> None:
    async def run() -> tuple[float, float, float]:
        turns, loop = Turns(1), asyncio.get_running_loop()
        started = loop.time()
        async with asyncio.timeout(60) as limit, turns.of("a", limit):
            alone = (limit.when() or 0) - started
            waiting = asyncio.ensure_future(turns.of("b", limit).__aenter__())
            await asyncio.sleep(0)
            beside = (limit.when() or 0) - started
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        async with asyncio.timeout(60) as limit, turns.of("c", limit):
            return alone, beside, (limit.when() or 0) - loop.time()

    alone, beside, later = asyncio.run(run())
    assert alone > 59
    assert beside < HOLD_S + 0.5
    assert later > 59, "the one who waited has gone, and left the turn free"
