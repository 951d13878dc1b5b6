"""Replicas in a model world full of faults: what they serve is accepted wherever it may go."""

import os

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.faults import FAULTS, advance, heal, new_world

EXAMPLES = int(os.environ.get("SRCIP_EXAMPLES", "25"))
"""Set it to search longer."""


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.integers(0, 2**32),
    st.integers(1, 3),
    st.lists(st.tuples(st.sampled_from(sorted(FAULTS)), st.integers(0, 40)), max_size=14),
)
def test_no_handshake_fails_whatever_happens(seed: int, replicas: int, faults: list[tuple[str, int]]) -> None:
    """Through any sequence of faults, each served leaf verifies against each bundle that an API server may hold."""
    world = new_world(seed, replicas)
    advance(world, 2)
    for name, seconds in faults:
        FAULTS[name](world)
        advance(world, seconds)
    heal(world)
