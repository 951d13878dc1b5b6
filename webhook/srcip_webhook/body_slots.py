"""Turns for large requests: so many at a time, shared by source address, and not for long for those who send slowly."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

HOLD_S = 1.0
"""How long a client may take for its body once it has its turn, in seconds, while others wait for theirs. 8 MiB in that
time are 67 Mbit/s."""
MOST_REMEMBERED = 1024
"""Sources of which the last turn is known."""


@dataclass(eq=False)
class Turn:
    """One large request that is read or worked at."""

    source: str
    since: float
    """By the loop's time."""
    limit: asyncio.Timeout | None
    """Ends the reading of the body; None when that is over."""


@dataclass(frozen=True, eq=False)
class _Waiting:
    source: str
    called: asyncio.Future[None]


class Turns:
    """`places` turns. Who waits is called by source: who holds the fewest, then who had none for the longest time."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._held: list[Turn] = []
        self._queue: list[_Waiting] = []
        self._last: dict[str, int] = {}
        """The number of each source's last turn."""
        self._count = 0

    @asynccontextmanager
    async def of(self, source: str, limit: asyncio.Timeout) -> AsyncIterator[Turn]:
        """One turn. `limit` is brought forward while others wait."""
        await self._called(source)
        turn = Turn(source, asyncio.get_running_loop().time(), limit)
        self._held.append(turn)
        self._hurry()
        try:
            yield turn
        finally:
            self._held.remove(turn)
            self._pass_on()

    async def _called(self, source: str) -> None:
        if self._free:
            self._free -= 1
            self._note(source)
            return
        waiting = _Waiting(source, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._hurry()
        try:
            await waiting.called
        except asyncio.CancelledError:
            if waiting in self._queue:
                self._queue.remove(waiting)
            else:  # it was called just before
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        """A turn is over: the next one is called."""
        if not self._queue:
            self._free += 1
            return
        held = Counter(turn.source for turn in self._held)
        following = min(self._queue, key=lambda each: (held[each.source], self._last.get(each.source, 0)))
        self._queue.remove(following)
        self._note(following.source)
        following.called.set_result(None)

    def _note(self, source: str) -> None:
        self._count += 1
        self._last.pop(source, None)
        self._last[source] = self._count
        if len(self._last) > MOST_REMEMBERED:
            del self._last[next(iter(self._last))]

    def _hurry(self) -> None:
        if not self._queue:
            return
        for turn in self._held:
            limit, end = turn.limit, turn.since + HOLD_S
            if limit is not None and not limit.expired() and (limit.when() or 0) > end:
                limit.reschedule(end)
