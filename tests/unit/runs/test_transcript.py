"""Test how often snapshots of a growing message are published."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.limits import Limits
from worker.runs.transcript import snapshot_pace_s

LIMITS = Limits()


def test_a_message_of_ordinary_size_is_published_at_the_configured_interval() -> None:
    assert snapshot_pace_s(30_000, LIMITS) == LIMITS.snapshot_interval_s


@given(st.integers(0, 64_000_000))
def test_snapshots_of_a_growing_message_use_a_bounded_number_of_bytes_per_second(size_bytes: int) -> None:
    assert size_bytes / snapshot_pace_s(size_bytes, LIMITS) <= LIMITS.snapshot_bytes_per_s * 1.001  # rounding of floats
