"""How long tests wait, on a machine of any speed."""

import time
from collections.abc import Callable

from srcip_lab.state import wait_until

DEADLINE_S = 60.0
"""How long a test waits for what has to come; that long it takes only where it does not come."""
AT_ONCE_S = 30.0
"""What is done at once takes less, on the busiest machine too; what must not be waited for is set to more."""


def fast_enough(attempt: Callable[[], object], seconds: float) -> None:
    """Try until `attempt` takes less than so long, once. What waits for a timer never does; a busy machine does."""

    def took() -> float:
        began = time.monotonic()
        attempt()
        return time.monotonic() - began

    assert wait_until(lambda: took() < seconds, DEADLINE_S), f"never within {seconds} s"


def until(fact: Callable[[], object], failure: Callable[[], object] = str) -> None:
    """Wait until `fact` is true; fails with what `failure` says."""
    assert wait_until(fact, DEADLINE_S), failure()
