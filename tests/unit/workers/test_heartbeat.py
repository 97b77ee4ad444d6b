"""A worker whose heartbeats stop is lost, an idle one later; a pause of the supervisor itself does not count."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.limits import Limits
from supervisor.workers.heartbeat import HeartbeatWatch

LIMITS = Limits(heartbeat_interval_s=0.5, heartbeat_lost_s=5.0)
LOST_S = LIMITS.heartbeat_lost_s
INTERVAL_S = LIMITS.heartbeat_interval_s


def lost_at(watch: HeartbeatWatch) -> float:
    """Look whenever the watch asks for it, without a heartbeat; return when the worker is lost."""
    for _ in range(100):
        now = watch.look_at
        if watch.is_lost(now):
            return now
    raise AssertionError("never lost")


async def test_a_worker_without_heartbeats_is_lost() -> None:
    assert lost_at(HeartbeatWatch(LIMITS, 0.0)) == LOST_S


async def test_a_worker_that_sends_heartbeats_is_not_lost() -> None:
    watch = HeartbeatWatch(LIMITS, 0.0)
    for step in range(1, 50):
        watch.beat(step * 0.5)
        if watch.look_at <= step * 0.5:
            assert not watch.is_lost(step * 0.5)
    assert lost_at(watch) == 49 * 0.5 + LOST_S


async def test_an_idle_worker_may_be_silent_for_as_long_as_it_announced() -> None:
    watch = HeartbeatWatch(LIMITS, 0.0)
    watch.beat(1.0, interval_s=20.0)
    assert lost_at(watch) == 1.0 + LOST_S + 20.0 - INTERVAL_S


async def test_a_message_to_an_idle_worker_ends_its_long_silence() -> None:
    watch = HeartbeatWatch(LIMITS, 0.0)
    watch.beat(1.0, interval_s=20.0)
    assert not watch.is_lost(watch.look_at)
    assert watch.expect(10.0)  # earlier than planned: the owner's timer has to be set again
    assert lost_at(watch) == 10.0 + LOST_S


async def test_a_message_does_not_delay_the_discovery_of_a_hang() -> None:
    watch = HeartbeatWatch(LIMITS, 0.0)
    watch.beat(1.0)
    for now in (2.0, 3.0, 4.0):
        watch.expect(now)
    assert lost_at(watch) == 1.0 + LOST_S


async def test_H01_a_pause_of_the_supervisor_does_not_count_against_the_worker() -> None:
    watch = HeartbeatWatch(LIMITS, 0.0)
    assert not watch.is_lost(7200.0)  # the machine was suspended for two hours
    assert 7200.0 < lost_at(watch) <= 7200.0 + LOST_S  # but missing heartbeats after that count


@given(st.lists(st.tuples(st.sampled_from(["beat", "idle beat", "expect"]), st.floats(0.01, 30.0)), max_size=30))
def test_silence_is_noticed_in_time_and_never_too_early(facts: list[tuple[str, float]]) -> None:
    """Any facts in time order: not lost within `lost_s` of a sign of life, and lost within the bound after the last."""
    watch, now, heard, bound = HeartbeatWatch(LIMITS, 0.0), 0.0, 0.0, LOST_S
    for fact, after_s in facts:
        now += after_s
        while watch.look_at < now:
            looked = watch.look_at
            if watch.is_lost(looked):
                assert looked >= heard + LOST_S
                return
        if fact == "expect":
            watch.expect(now)
            bound = min(bound, now + LOST_S)
        else:
            interval_s = 20.0 if fact == "idle beat" else 0.0
            watch.beat(now, interval_s)
            heard, bound = now, now + LOST_S + interval_s
    assert heard + LOST_S <= lost_at(watch) <= max(bound, now) + INTERVAL_S
