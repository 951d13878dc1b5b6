"""Where sockets wait until their client says something and there is room for TLS: bounded, shared by source address."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
Queues = dict[str, dict[T, None]]
"""By source, in the order in which they came; an empty queue is not kept."""


@dataclass(frozen=True)
class _Waiting:
    source: str
    since: float
    has_spoken: bool


class Lobby(Generic[T]):
    """What waits. Each step costs a look at the sources at most, never at all that waits."""

    def __init__(self) -> None:
        self._waiting: dict[T, _Waiting] = {}
        self._silent: Queues[T] = {}
        self._spoken: Queues[T] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[T]:
        return iter(self._waiting)

    def add(self, item: T, source: str, now: float) -> None:
        """One that has said nothing yet. `now` by time.monotonic()."""
        self._put(item, _Waiting(source, now, has_spoken=False))

    def speaks(self, item: T) -> None:
        """Its client has begun."""
        waiting = self.remove(item)
        self._put(item, _Waiting(waiting.source, waiting.since, has_spoken=True))

    def remove(self, item: T) -> _Waiting:
        """It waits no more."""
        waiting = self._waiting.pop(item)
        queues = self._queues(waiting)
        del queues[waiting.source][item]
        if not queues[waiting.source]:
            del queues[waiting.source]
        return waiting

    def surplus(self) -> T:
        """Who leaves when there are too many: of the source with the most silent ones, or with the most, the oldest."""
        queues = self._silent or self._spoken
        return next(iter(queues[max(queues, key=lambda source: len(queues[source]))]))

    def silent_since(self, before: float) -> list[T]:
        """Those that came before and have said nothing."""
        return [item for queue in self._silent.values() for item in queue if self._waiting[item].since < before]

    @property
    def speakers(self) -> Mapping[str, Mapping[T, None]]:
        """Those that wait for room, by source."""
        return self._spoken

    def _put(self, item: T, waiting: _Waiting) -> None:
        self._waiting[item] = waiting
        self._queues(waiting).setdefault(waiting.source, {})[item] = None

    def _queues(self, waiting: _Waiting) -> Queues[T]:
        return self._spoken if waiting.has_spoken else self._silent
