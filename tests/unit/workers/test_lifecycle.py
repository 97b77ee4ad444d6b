"""The lifecycle of a worker: the most important sequences, step by step."""

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


def ready_worker(now: float = 0.0) -> WorkerLifecycle:
    worker = WorkerLifecycle(LIMITS)
    worker.want(now)
    worker.became_ready(now)
    return worker


def test_the_first_request_starts_a_process_and_the_second_does_not() -> None:
    worker = WorkerLifecycle(LIMITS)
    launch_s = LIMITS.zygote_ready_s + LIMITS.start_deadline_s
    assert worker.want(10.0) == [Spawn(), WakeAt(10.0 + launch_s), Publish()]
    assert worker.want(11.0) == []


def test_W16_the_start_deadline_runs_from_the_start_of_the_process() -> None:
    worker = WorkerLifecycle(LIMITS)
    worker.want(0.0)
    assert worker.born(50.0) == [WakeAt(50.0 + LIMITS.start_deadline_s)]  # not shortened by the wait for the zygote
    worker.became_ready(51.0)
    assert worker.born(52.0) == []  # it was ready before its start was reported


def test_a_cancelled_start_is_over_when_it_fails() -> None:
    worker = WorkerLifecycle(LIMITS)
    worker.want(0.0)
    worker.unwant("server shuts down", 1.0)
    assert worker.state is WorkerState.KILLING
    worker.not_started("no memory", 2.0)
    assert worker.state is WorkerState.ASLEEP


def test_W04_a_worker_that_died_is_replaced_at_once() -> None:
    worker = ready_worker()
    assert worker.exited("signal 9", 5.0) == [FailCalls("signal 9"), WakeAt(None), WakeAt(5.0), Publish()]
    assert (worker.state, worker.reason) == (WorkerState.BACKOFF, "signal 9")
    assert Spawn() in worker.elapsed(5.0)


def test_W15_an_unannounced_exit_with_code_0_is_a_crash() -> None:
    worker = ready_worker()
    worker.exited("exit 0", 5.0)
    assert (worker.state, worker.reason) == (WorkerState.BACKOFF, "exit 0")


def test_an_announced_exit_is_not_a_crash() -> None:
    worker = ready_worker()
    worker.last_word()
    worker.exited("exit 0", 5.0)
    assert (worker.state, worker.reason, worker.wanted) == (WorkerState.ASLEEP, "", False)


def test_W16_three_crashes_in_a_minute_make_the_workspace_failed() -> None:
    worker = ready_worker()
    for now in (1.0, 2.0):
        worker.exited("exit 1", now)
        worker.elapsed(now + 1.0)
    worker.exited("exit 1", 3.5)
    assert worker.state is WorkerState.FAILED
    assert worker.reason == "3 deaths in 60 s, the last: exit 1"
    assert worker.want(4.0) == []
    assert Spawn() in worker.restart(5.0)
    assert worker.state is WorkerState.STARTING


def test_W16_a_worker_that_does_not_become_ready_is_killed() -> None:
    worker = WorkerLifecycle(LIMITS)
    worker.want(0.0)
    effects = worker.elapsed(LIMITS.start_deadline_s)
    assert effects[0] == Kill(f"not ready within {LIMITS.start_deadline_s:g} s", dump=True)
    worker.exited("signal 9", 21.0)
    assert worker.reason.startswith("not ready within")


def test_W11_a_hung_worker_is_killed_and_the_reason_is_hung() -> None:
    worker = ready_worker()
    assert worker.beat_lost(5.0)[0] == Kill("hung", dump=True)
    worker.exited("signal 9", 5.1)
    assert (worker.state, worker.reason) == (WorkerState.BACKOFF, "hung")


def test_a_close_kills_the_worker_when_its_time_is_over() -> None:
    worker = ready_worker()
    budget_s = LIMITS.drain_s + LIMITS.flush_s + LIMITS.exit_s
    assert worker.unwant("idle", 100.0) == [SendShutdown("idle"), WakeAt(100.0 + budget_s), Publish()]
    assert isinstance(worker.elapsed(100.0 + budget_s)[0], Kill)
    worker.exited("signal 9", 120.0)
    assert worker.state is WorkerState.ASLEEP


def test_W19_a_request_during_a_close_starts_a_worker_after_it() -> None:
    worker = ready_worker()
    worker.unwant("idle", 1.0)
    assert worker.want(1.1) == []
    effects = worker.exited("exit 0", 1.2)
    assert Spawn() in effects
    assert worker.state is WorkerState.STARTING


def test_a_kill_is_repeated_until_the_process_has_exited() -> None:
    worker = ready_worker()
    worker.beat_lost(1.0)
    assert isinstance(worker.elapsed(3.0)[0], Kill)
    assert isinstance(worker.elapsed(5.0)[0], Kill)


def test_a_transition_that_the_table_does_not_allow_reports_the_history() -> None:
    worker = ready_worker()
    with pytest.raises(InvalidTransition, match="ASLEEP wanted STARTING -> STARTING became_ready READY"):
        worker._move("wanted", WorkerState.STARTING)
