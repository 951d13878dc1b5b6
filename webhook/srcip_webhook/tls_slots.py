"""Who gets the room for connections with TLS, and who leaves for them: a pure decision.

The room is shared by source address. A source that has fewer places than another may take one from it, but only one
that waits for its client: who sends requests and reads answers at once, as the API server does, loses nothing.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

MOST_OPEN = 160
"""Connections with TLS, handshakes included."""
MAX_OF_ONE_SOURCE = 80
"""Of these, those from one address, also while nobody else wants them: some are free when others come."""
GRACE_S = {"idle": 1.0, "unfinished": 0.5, "handshake": 0.5}
"""How long, in seconds, a connection may wait for its client until another one may have its place: `idle` without a
request (sooner, a client that is just about to send one would lose it), `unfinished` with a part of one, or with an
answer that the client does not read, and in its `handshake`. The API server sends what it has to say at once."""

W = TypeVar("W")
"""A socket that waits."""
H_co = TypeVar("H_co", covariant=True)
"""What holds a place."""


@dataclass(frozen=True)
class Place(Generic[H_co]):
    """One connection with TLS."""

    holder: H_co
    source: str
    standing: str
    """A key of GRACE_S."""
    waits_since: float
    """Since when it waits for its client, by time.monotonic(); infinity while its client waits for an answer."""
    has_answered: bool = False
    is_ended: bool = False
    """Whether it was told to end; its memory is free only when it has gone."""

    def may_leave(self, now: float) -> bool:
        """Whether its client has had its time."""
        return not self.is_ended and now - self.waits_since > GRACE_S[self.standing]


@dataclass(frozen=True)
class Change(Generic[W, H_co]):
    """What is to be done now."""

    begin: list[W]
    end: list[Place[H_co]]


@dataclass
class _Room(Generic[H_co]):
    """The places while they are given away."""

    used: Counter[str]
    leavers: dict[str, list[Place[H_co]]]
    """Those that may leave, by source; the last one leaves first."""
    ended: list[Place[H_co]] = field(default_factory=list)

    def take(self, source: str) -> bool:
        """A place for this source: a free one, or one of the source that has the most. False if there is none."""
        full = self.used[source] >= MAX_OF_ONE_SOURCE
        if full or self.used.total() >= MOST_OPEN:
            richer = () if full else (each for each in self.leavers if self.used[each] > self.used[source])
            own = (source,) if source in self.leavers else ()
            loser = max((*richer, *own), key=self.used.__getitem__, default=None)
            if loser is None:
                return False
            self._end_one(loser)
        self.used[source] += 1
        return True

    def _end_one(self, source: str) -> None:
        self.ended.append(self.leavers[source].pop())
        self.used[source] -= 1
        if not self.leavers[source]:
            del self.leavers[source]


def change(places: Sequence[Place[H_co]], waiting: Mapping[str, Iterable[W]], now: float) -> Change[W, H_co]:
    """Give the room to those that wait, by source, each source's in its order. Who has the least is first.

    Who takes a place from another one begins when that has gone.
    """
    room: _Room[H_co] = _Room(Counter(each.source for each in places if not each.is_ended), _leavers(places, now))
    free = MOST_OPEN - len(places)
    queues = {source: iter(items) for source, items in waiting.items()}
    turns = [(room.used[source], number, source) for number, source in enumerate(queues)]
    heapq.heapify(turns)
    begin: list[W] = []
    while turns:
        _, number, source = heapq.heappop(turns)
        item = next(queues[source], None)
        if item is not None and room.take(source):
            begin.extend([item] if len(begin) < free else [])
            heapq.heappush(turns, (room.used[source], number, source))
    return Change(begin, room.ended)


def _leavers(places: Sequence[Place[H_co]], now: float) -> dict[str, list[Place[H_co]]]:
    """By source: first leaves who never had an answer, and of these who waits for the longest time."""
    found: defaultdict[str, list[Place[H_co]]] = defaultdict(list)
    for place in sorted(places, key=lambda place: (place.has_answered, place.waits_since), reverse=True):
        if place.may_leave(now):
            found[place.source].append(place)
    return dict(found)
