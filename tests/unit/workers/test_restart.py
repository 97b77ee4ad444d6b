"""The restart policy: delays before the next start, and when there is no next start."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.exit_codes import HOPELESS
from protocol.limits import Limits
from supervisor.workers.restart import Again, RestartPolicy, Stop

LIMITS = Limits(restart_intensity=3, restart_period_s=60.0, restart_delay_s_max=10.0)


def test_delays_grow_while_crashes_are_rare() -> None:
    policy = RestartPolicy(LIMITS)
    delays = [policy.after("exit 1", now) for now in (0.0, 61.0, 122.0, 183.0)]
    assert delays == [Again(0.0), Again(0.25), Again(0.5), Again(1.0)]


def test_the_third_crash_within_the_period_stops_the_restarts() -> None:
    policy = RestartPolicy(LIMITS)
    policy.after("exit 1", 0.0)
    policy.after("exit 1", 30.0)
    assert policy.after("signal 11", 59.0) == Stop("3 deaths in 60 s, the last: signal 11")


@pytest.mark.parametrize("cause", sorted(HOPELESS))
def test_D04_a_cause_that_a_new_worker_would_meet_again_stops_at_once(cause: str) -> None:
    policy = RestartPolicy(LIMITS)
    assert policy.after(cause, 0.0) == Stop(cause)
    assert policy.after("exit 1", 1.0) == Again(0.0)  # after a restart by hand


def test_a_healthy_period_resets_the_delay() -> None:
    policy = RestartPolicy(LIMITS)
    policy.after("exit 1", 0.0)
    policy.after("exit 1", 61.0)
    policy.became_ready(100.0)
    assert policy.after("exit 1", 100.0 + LIMITS.restart_healthy_s) == Again(0.0)


def test_a_restart_by_hand_clears_the_history() -> None:
    policy = RestartPolicy(LIMITS)
    for now in (0.0, 1.0, 2.0):
        policy.after("exit 1", now)
    policy.clear()
    assert policy.after("exit 1", 3.0) == Again(0.0)


@given(st.lists(st.floats(0.0, 200.0), min_size=1, max_size=30))
def test_there_are_never_more_restarts_in_a_period_than_allowed(gaps: list[float]) -> None:
    policy = RestartPolicy(LIMITS)
    now = 0.0
    restarted: list[float] = []
    for gap in gaps:
        now += gap
        match policy.after("exit 1", now):
            case Again(delay_s):
                assert 0 <= delay_s <= LIMITS.restart_delay_s_max
                restarted.append(now)
            case Stop():
                break
        recent = [at for at in restarted if now - at <= LIMITS.restart_period_s]
        assert len(recent) < LIMITS.restart_intensity
