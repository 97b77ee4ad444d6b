"""Heartbeats are fresh, late or lost; a pause of the supervisor itself does not count."""

from protocol.limits import Limits
from supervisor.workers.heartbeat import HeartbeatState, HeartbeatWatch

LIMITS = Limits(heartbeat_interval_s=0.5, heartbeat_lost_s=5.0)


def states_between(watch: HeartbeatWatch, start: float, until: float) -> list[HeartbeatState]:
    """Return the state at each interval."""
    count = int((until - start) / LIMITS.heartbeat_interval_s)
    return [watch.look(start + step * LIMITS.heartbeat_interval_s) for step in range(1, count + 1)]


def test_a_worker_that_sends_heartbeats_is_fresh() -> None:
    watch = HeartbeatWatch(LIMITS, 0.0)
    for step in range(1, 50):
        watch.beat(step * 0.5)
        assert watch.look(step * 0.5) is HeartbeatState.FRESH


def test_missing_heartbeats_are_first_late_and_then_lost() -> None:
    watch = HeartbeatWatch(LIMITS, 0.0)
    states = states_between(watch, 0.0, 6.0)
    assert states.index(HeartbeatState.LATE) == 2
    assert states.index(HeartbeatState.LOST) == 10
    assert HeartbeatState.FRESH not in states[2:]


def test_H01_a_pause_of_the_supervisor_does_not_count_against_the_worker() -> None:
    watch = HeartbeatWatch(LIMITS, 0.0)
    watch.look(0.5)
    assert watch.look(7200.0) is not HeartbeatState.LOST  # the machine was suspended for two hours
    assert HeartbeatState.LOST in states_between(watch, 7200.0, 7210.0)  # but missing heartbeats after that count
