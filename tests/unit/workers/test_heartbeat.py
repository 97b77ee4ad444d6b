"""Fresh, late or lost, forgiving a pause of our own."""

from protocol.limits import Limits
from supervisor.workers.heartbeat import HeartbeatState, HeartbeatWatch

LIMITS = Limits(heartbeat_interval_s=0.5, heartbeat_lost_s=5.0)


def looks(watch: HeartbeatWatch, start: float, until: float) -> list[HeartbeatState]:
    """Return the state at each interval."""
    count = int((until - start) / LIMITS.heartbeat_interval_s)
    return [watch.look(start + step * LIMITS.heartbeat_interval_s) for step in range(1, count + 1)]


def test_a_beating_worker_is_fresh() -> None:
    watch = HeartbeatWatch(LIMITS, 0.0)
    for step in range(1, 50):
        watch.beat(step * 0.5)
        assert watch.look(step * 0.5) is HeartbeatState.FRESH


def test_silence_is_late_first_and_lost_then() -> None:
    watch = HeartbeatWatch(LIMITS, 0.0)
    seen = looks(watch, 0.0, 6.0)
    assert seen.index(HeartbeatState.LATE) == 2
    assert seen.index(HeartbeatState.LOST) == 10
    assert HeartbeatState.FRESH not in seen[2:]


def test_H01_our_own_pause_is_not_held_against_the_worker() -> None:
    watch = HeartbeatWatch(LIMITS, 0.0)
    watch.look(0.5)
    assert watch.look(7200.0) is not HeartbeatState.LOST  # the machine was suspended for two hours
    assert HeartbeatState.LOST in looks(watch, 7200.0, 7210.0)  # but silence after that counts
