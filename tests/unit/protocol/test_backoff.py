"""Growing delays between attempts."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.base.backoff import Backoff


@pytest.mark.parametrize(
    ("backoff", "delays"),
    [
        (Backoff(first_s=1.0, max_s=60.0), [1, 2, 4, 8, 16, 32, 60, 60]),
        (Backoff(first_s=2.0, max_s=60.0, factor=4.0), [2, 8, 32, 60]),
        (Backoff(first_s=5.0, max_s=3.0), [3, 3]),
        (Backoff(first_s=1.0, max_s=9.0, factor=1.0), [1, 1, 1]),
    ],
)
def test_delays_grow_up_to_the_maximum(backoff: Backoff, delays: list[float]) -> None:
    assert [backoff.delay_s(attempt) for attempt in range(len(delays))] == delays


def test_a_very_high_attempt_number_gets_the_maximum() -> None:
    assert Backoff(first_s=0.5, max_s=60.0).delay_s(100_000) == 60.0


@given(attempt=st.integers(0, 50), jitter=st.floats(0.0, 1.0), seed=st.integers())
def test_jitter_shortens_a_delay_by_at_most_its_share(attempt: int, jitter: float, seed: int) -> None:
    backoff = Backoff(first_s=0.25, max_s=10.0, jitter=jitter)
    whole = backoff.delay_s(attempt)
    assert whole * (1.0 - jitter) <= backoff.delay_s(attempt, random.Random(seed)) <= whole


def test_jitter_is_spread_over_its_whole_share() -> None:
    source = random.Random(1)
    delays = [Backoff(first_s=1.0, max_s=1.0, jitter=0.5).delay_s(0, source) for _ in range(200)]
    assert min(delays) < 0.55
    assert max(delays) > 0.95
