"""How long tests wait, on a machine of any speed."""

from collections.abc import Callable

from srcip_lab.state import wait_until

DEADLINE_S = 60.0
"""How long a test waits for what has to come; that long it takes only where it does not come."""
AT_ONCE_S = 30.0
"""What is done at once takes less, on the busiest machine too; what must not be waited for is set to more."""


def until(fact: Callable[[], object], failure: Callable[[], object] = str) -> None:
    """Wait until `fact` is true; fails with what `failure` says."""
    assert wait_until(fact, DEADLINE_S), failure()
