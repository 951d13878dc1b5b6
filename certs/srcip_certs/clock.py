"""What time it is for whoever verifies certificates: the API server's time, told by the Date of its answers.

This machine's own clock may be wrong or jump; that harms nothing here. Between two answers a clock that never jumps
(and that counts on while the machine sleeps) goes on from the last one.
"""

from __future__ import annotations

import time
from collections.abc import Callable


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Clock:
    """The API server's time; this machine's until the first answer."""

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = _boottime) -> None:
        self._wall = wall
        self.steady = steady
        """Seconds since some moment, without any jump."""
        self._offset = wall() - steady()

    def now(self) -> float:
        """Unix seconds."""
        return self.steady() + self._offset

    def heard(self, date: float, sent: float, received: float) -> float:
        """An answer that was asked for at `sent` and came at `received` (steady) bears `date`, in whole seconds.

        Its sender's time lay between `date` and `date` + 1 somewhere between the two moments. The answer is by how
        much this clock had to move for that.
        """
        before = self._offset
        self._offset = max(date - received, min(before, date + 1 - sent))
        return self._offset - before

    def skew(self) -> float:
        """Seconds that this machine's own clock is ahead of the API server's."""
        return self._wall() - self.now()
