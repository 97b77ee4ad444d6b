"""How often a growing message is shown."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.limits import Limits
from worker.runs.transcript import snapshot_pace_s

LIMITS = Limits()


def test_an_ordinary_message_is_shown_at_the_ordinary_pace() -> None:
    assert snapshot_pace_s(30_000, LIMITS) == LIMITS.snapshot_interval_s


@given(st.integers(0, 64_000_000))
def test_a_growing_message_costs_a_bounded_number_of_bytes_a_second(size_bytes: int) -> None:
    assert size_bytes / snapshot_pace_s(size_bytes, LIMITS) <= LIMITS.snapshot_bytes_per_s * 1.001  # floats
