"""Watches the webhook configuration, so that a reset caBundle is repaired at once and not at the next look."""

from __future__ import annotations

from collections.abc import Callable

from srcip_certs.kube import CONFIGURATIONS, ApiError, Json, Kube

STREAM_S = 300
"""The server ends each stream after this; it is opened again where it ended."""
IDLE_S = 90.0
"""Longest silence of a stream that is alive: the server sends a bookmark each minute."""
GONE = 410


class Watch:
    """Follows one configuration."""

    def __init__(self, kube: Kube, name: str, put: Callable[[Json | None], None], opened: Callable[[], object]) -> None:
        """`put` gets each state of the configuration (None is that of one that is gone); `opened` is called first."""
        self._kube = kube
        self._selector = {"fieldSelector": f"metadata.name={name}"}
        self._put = put
        self._opened = opened
        self._version = ""
        """Where the next stream goes on; empty: list first."""

    def follow(self) -> None:
        """Follow one stream to its end. Raises ApiError."""
        try:
            if not self._version:
                self._list()
            query = {"allowWatchBookmarks": "true", "timeoutSeconds": str(STREAM_S)}
            query |= {**self._selector, "resourceVersion": self._version}
            events = self._kube.watch(CONFIGURATIONS, query, IDLE_S)
            self._opened()
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
        found = self._kube.get(CONFIGURATIONS, **self._selector)
        self._version = found["metadata"]["resourceVersion"]
        self._put((*found["items"], None)[0])

    def _take(self, event: Json) -> None:
        kind, found = event.get("type"), event.get("object") or {}
        if kind == "ERROR":
            self._version = ""
            raise ApiError("watch", CONFIGURATIONS, int(found.get("code") or 0), str(found.get("message")))
        self._version = found["metadata"]["resourceVersion"]
        if kind != "BOOKMARK":
            self._put(None if kind == "DELETED" else found)
