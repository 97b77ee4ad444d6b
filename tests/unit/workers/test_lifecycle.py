"""The most important sequences in the life of one worker, step by step."""

import pytest

from protocol.base.machine import InvalidTransition
from protocol.limits import Limits
from supervisor.workers.lifecycle import (
    FailCalls,
    Kill,
    Publish,
    SendShutdown,
    Spawn,
    WakeAt,
    WorkerLifecycle,
    WorkerState,
)

LIMITS = Limits()


def ready(now: float = 0.0) -> WorkerLifecycle:
    life = WorkerLifecycle(LIMITS)
    life.want(now)
    life.became_ready(now)
    return life


def test_the_first_wish_starts_a_process_and_the_second_does_not() -> None:
    life = WorkerLifecycle(LIMITS)
    launch_s = LIMITS.zygote_ready_s + LIMITS.start_deadline_s
    assert life.want(10.0) == [Spawn(), WakeAt(10.0 + launch_s), Publish()]
    assert life.want(11.0) == []


def test_W16_the_start_deadline_runs_from_the_birth_of_the_process() -> None:
    life = WorkerLifecycle(LIMITS)
    life.want(0.0)
    assert life.born(50.0) == [WakeAt(50.0 + LIMITS.start_deadline_s)]  # the zygote took its time, the worker may too
    life.became_ready(51.0)
    assert life.born(52.0) == []  # it was ready before we heard of its birth


def test_a_start_that_fails_after_it_was_given_up_ends_the_killing() -> None:
    life = WorkerLifecycle(LIMITS)
    life.want(0.0)
    life.unwant("server shuts down", 1.0)
    assert life.state is WorkerState.KILLING
    life.not_started("no memory", 2.0)
    assert life.state is WorkerState.ASLEEP


def test_W04_a_death_is_followed_at_once_by_a_replacement() -> None:
    life = ready()
    assert life.exited("signal 9", 5.0) == [FailCalls("signal 9"), WakeAt(None), WakeAt(5.0), Publish()]
    assert (life.state, life.reason) == (WorkerState.BACKOFF, "signal 9")
    assert Spawn() in life.elapsed(5.0)


def test_W15_an_exit_with_code_0_that_was_not_announced_is_a_death() -> None:
    life = ready()
    life.exited("exit 0", 5.0)
    assert (life.state, life.reason) == (WorkerState.BACKOFF, "exit 0")


def test_a_worker_that_said_its_last_word_may_sleep() -> None:
    life = ready()
    life.last_word()
    life.exited("exit 0", 5.0)
    assert (life.state, life.reason, life.wanted) == (WorkerState.ASLEEP, "", False)


def test_W16_three_deaths_in_a_minute_are_enough() -> None:
    life = ready()
    for now in (1.0, 2.0):
        life.exited("exit 1", now)
        life.elapsed(now + 1.0)
    life.exited("exit 1", 3.5)
    assert life.state is WorkerState.FAILED
    assert life.reason == "3 deaths in 60 s, the last: exit 1"
    assert life.want(4.0) == []
    assert Spawn() in life.restart(5.0)
    assert life.state is WorkerState.STARTING


def test_W16_a_worker_that_never_gets_ready_is_killed() -> None:
    life = WorkerLifecycle(LIMITS)
    life.want(0.0)
    effects = life.elapsed(LIMITS.start_deadline_s)
    assert effects[0] == Kill(f"not ready within {LIMITS.start_deadline_s:g} s", dump=True)
    life.exited("signal 9", 21.0)
    assert life.reason.startswith("not ready within")


def test_W11_a_hung_worker_is_killed_and_the_reason_is_not_our_signal() -> None:
    life = ready()
    assert life.beat_lost(5.0)[0] == Kill("hung", dump=True)
    life.exited("signal 9", 5.1)
    assert (life.state, life.reason) == (WorkerState.BACKOFF, "hung")


def test_a_close_has_one_budget_and_then_force() -> None:
    life = ready()
    budget_s = LIMITS.drain_s + LIMITS.flush_s + LIMITS.exit_s
    assert life.unwant("idle", 100.0) == [SendShutdown("idle"), WakeAt(100.0 + budget_s), Publish()]
    assert isinstance(life.elapsed(100.0 + budget_s)[0], Kill)
    life.exited("signal 9", 120.0)
    assert life.state is WorkerState.ASLEEP


def test_W19_a_wish_during_a_close_is_served_after_it() -> None:
    life = ready()
    life.unwant("idle", 1.0)
    assert life.want(1.1) == []
    effects = life.exited("exit 0", 1.2)
    assert Spawn() in effects
    assert life.state is WorkerState.STARTING


def test_killing_is_pressed_until_the_process_is_gone() -> None:
    life = ready()
    life.beat_lost(1.0)
    assert isinstance(life.elapsed(3.0)[0], Kill)
    assert isinstance(life.elapsed(5.0)[0], Kill)


def test_a_fact_that_the_table_does_not_know_tells_the_story() -> None:
    life = ready()
    with pytest.raises(InvalidTransition, match="ASLEEP wanted STARTING -> STARTING became_ready READY"):
        life._move("wanted", WorkerState.STARTING)
