"""Follows the objects of one list: the list first, then the changes, from where the last stream ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from srcip_kube.client import ApiError, Json, Kube

STREAM_S = 300
"""The server ends each stream after this; it is opened again where it ended."""
IDLE_S = 90.0
"""Longest silence of a stream that is alive: the server sends a bookmark each minute."""
GONE = 410


@dataclass(frozen=True)
class Listener:
    """Who is told."""

    listed: Callable[[Sequence[Json]], object]
    """All objects that there are: what is not among them has gone."""
    changed: Callable[[Json, bool], object]
    """One object as it is now, and whether it has gone."""
    opened: Callable[[], object]
    """A stream has begun."""


class Watch:
    """Follows the objects of `path` that the selectors choose."""

    def __init__(self, kube: Kube, path: str, selectors: Mapping[str, str], listener: Listener) -> None:
        self._kube, self._path = kube, path
        self._selectors = dict(selectors)
        self._listener = listener
        self._version = ""
        """Where the next stream goes on; empty: list first."""

    def follow(self) -> None:
        """Follow one stream to its end. Raises ApiError."""
        try:
            if not self._version:
                self._list()
            query = {"allowWatchBookmarks": "true", "timeoutSeconds": str(STREAM_S)}
            query |= {**self._selectors, "resourceVersion": self._version}
            events = self._kube.watch(self._path, query, IDLE_S)
            self._listener.opened()
            for event in events:
                self._take(event)
        except ApiError as error:
            if error.status != GONE:
                raise
            self._version = ""

    def _list(self) -> None:
        """The present state, and the version that a stream goes on from.

        A stream that begins by itself with the present state needs a newer etcd than some clusters have.
        """
        found = self._kube.get(self._path, **self._selectors)
        self._version = found["metadata"]["resourceVersion"]
        self._listener.listed(found["items"])

    def _take(self, event: Json) -> None:
        kind, found = event.get("type"), event.get("object") or {}
        if kind == "ERROR":
            self._version = ""
            raise ApiError("watch", self._path, int(found.get("code") or 0), str(found.get("message")))
        self._version = found["metadata"]["resourceVersion"]
        if kind != "BOOKMARK":
            self._listener.changed(found, kind == "DELETED")
