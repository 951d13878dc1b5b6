"""Since when each certificate has been in every caBundle without a break, and which of them no document knows. Pure.

Times are those of a steady clock. What was not looked at for a while may have been away: it starts anew.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from srcip_certs.authority import Certificate
from srcip_certs.published import Published


@dataclass
class Presence:
    """What one replica has seen."""

    longest_gap_s: float
    """Two looks that lie further apart prove nothing about the time between them."""
    keep_s: float
    """How long an unknown certificate is remembered that has left the bundle."""
    seen: set[str] = field(default_factory=set)
    """Fingerprints of all that was ever in force."""
    _since: dict[str, float] = field(default_factory=dict)
    _unknown: dict[Certificate, float] = field(default_factory=dict)
    _last: float = float("-inf")

    def look(self, published: Published, asked: float, answered: float) -> None:
        """Note what a read showed that was sent at `asked` and came back at `answered`."""
        known = {} if asked - self._last > self.longest_gap_s else self._since
        self._since = {each: known.get(each, answered) for each in published.in_force}
        self.seen |= self._since.keys()
        self._last = max(self._last, asked)

    def for_seconds(self, fingerprint: str) -> float | None:
        """How long it was in force when it was last looked at; None if it was not."""
        since = self._since.get(fingerprint)
        return None if since is None else max(0.0, self._last - since)

    def unknown(self, there: Collection[Certificate], known: Collection[str], now: float) -> dict[Certificate, float]:
        """The certificates `there` that are not among the `known` fingerprints, and those that left: for how long."""
        since = self._unknown | {each: self._unknown.get(each, now) for each in there}
        self._unknown = {
            each: begin
            for each, begin in since.items()
            if each.fingerprint not in known and (each in there or now - begin <= self.keep_s)
        }
        return {each: now - begin for each, begin in self._unknown.items()}
