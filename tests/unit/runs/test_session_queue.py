"""Test the queue of one session: what a cancel covers at each moment, merging, and which run starts next."""

import pytest

from protocol.base.machine import InvalidTransition
from protocol.ids import RunId, SessionId
from worker.runs.session_queue import (
    AcceptCounter,
    CancelActive,
    CancelOnEntry,
    Drop,
    Effect,
    Merge,
    Reservation,
    SessionQueue,
    Start,
    partition,
)

A, B, C, D = RunId("a"), RunId("b"), RunId("c"), RunId("d")


def build_queue() -> SessionQueue:
    return SessionQueue(SessionId("s1"))


def accept_and_enter(queue: SessionQueue, run_id: RunId, has_own_turn: bool = True) -> list[Effect]:
    return queue.enter(queue.accept(run_id, has_own_turn=has_own_turn))


async def test_an_idle_queue_starts_a_run_that_enters() -> None:
    queue = build_queue()
    assert accept_and_enter(queue, A) == [Start(A)]
    assert queue.active == A
    assert queue.is_busy


async def test_C_01_cancel_of_an_idle_queue_leaves_no_trace() -> None:
    queue = build_queue()
    assert queue.cancel() == []
    assert queue.mark == 0
    assert accept_and_enter(queue, A) == [Start(A)]


async def test_C_02_an_accepted_run_is_cancelled_on_entry() -> None:
    queue = build_queue()
    reservation = queue.accept(A)
    assert queue.cancel() == []
    assert queue.mark == 1
    assert queue.enter(reservation) == [CancelOnEntry(A)]
    assert queue.mark == 0
    assert queue.is_empty


async def test_C_03_one_cancel_covers_all_accepted_runs() -> None:
    queue = build_queue()
    reservations = [queue.accept(run_id) for run_id in (A, B, C)]
    queue.cancel()
    assert [effect for reservation in reservations for effect in queue.enter(reservation)] == [
        CancelOnEntry(run) for run in (A, B, C)
    ]
    assert queue.mark == 0


async def test_C_04_a_run_accepted_after_the_cancel_is_never_affected() -> None:
    queue = build_queue()
    first = queue.accept(A)
    queue.cancel()
    later = queue.accept(B)
    assert queue.enter(later) == [Start(B)]  # enters before the run that the cancel covers
    assert queue.finished(B) == []  # its end does not clear the mark that the older run needs
    assert queue.mark == 1
    assert queue.enter(first) == [CancelOnEntry(A)]


async def test_C_05_a_cancel_reaches_the_active_run_and_empties_the_queue() -> None:
    queue = build_queue()
    accept_and_enter(queue, A)
    accept_and_enter(queue, B)
    assert queue.cancel() == [CancelActive(A), Drop(B)]
    assert queue.is_busy  # until the run has unwound
    assert queue.queued == []
    assert queue.mark == 0


async def test_C_06_one_cancel_covers_the_active_and_the_accepted_runs() -> None:
    queue = build_queue()
    accept_and_enter(queue, A)
    reservation = queue.accept(B)
    assert queue.cancel() == [CancelActive(A)]
    assert queue.mark == 2
    assert queue.enter(reservation) == [CancelOnEntry(B)]


async def test_C_07_a_covered_run_that_enters_a_busy_session_is_cancelled_not_queued() -> None:
    queue = build_queue()
    reservation = queue.accept(A)
    queue.cancel()
    accept_and_enter(queue, B)
    assert queue.enter(reservation) == [CancelOnEntry(A)]
    assert queue.queued == []
    assert queue.active == B


async def test_C_08_queued_runs_are_dropped_once_each() -> None:
    queue = build_queue()
    accept_and_enter(queue, A)
    accept_and_enter(queue, B)
    accept_and_enter(queue, C, has_own_turn=False)
    assert queue.cancel() == [CancelActive(A), Drop(B), Drop(C)]
    assert queue.finished(A) == []


async def test_C_09_a_second_cancel_covers_only_the_runs_accepted_since_the_first() -> None:
    queue = build_queue()
    accept_and_enter(queue, A)
    first = queue.accept(B)
    assert queue.cancel() == [CancelActive(A)]
    assert queue.cancel() == []
    between = queue.accept(C)
    assert queue.cancel() == []
    after = queue.accept(D)
    assert queue.enter(first) == [CancelOnEntry(B)]
    assert queue.enter(between) == [CancelOnEntry(C)]
    assert queue.enter(after) == []
    assert queue.queued == [D]
    assert queue.finished(A) == [Start(D)]


async def test_C_10_a_cancel_between_two_runs_covers_the_run_just_taken_from_the_queue() -> None:
    queue = build_queue()
    accept_and_enter(queue, A)
    accept_and_enter(queue, B)
    assert queue.finished(A) == [Start(B)]
    assert queue.cancel() == [CancelActive(B)]


async def test_W_10_a_run_queued_while_a_cancelled_run_unwinds_starts_afterwards() -> None:
    queue = build_queue()
    accept_and_enter(queue, A)
    queue.cancel()
    assert accept_and_enter(queue, B) == []
    assert queue.finished(A) == [Start(B)]


async def test_a_cancel_of_one_run_affects_no_other() -> None:
    queue = build_queue()
    accept_and_enter(queue, A)
    accept_and_enter(queue, B)
    reservation = queue.accept(C)
    assert queue.cancel_run(RunId("unknown")) == []
    assert queue.cancel_run(B) == [Drop(B)]
    assert queue.cancel_run(C) == []
    assert queue.enter(reservation) == [CancelOnEntry(C)]
    assert queue.cancel_run(A) == [CancelActive(A)]
    assert queue.cancel_run(A) == []


async def test_clear_drops_the_queue_and_leaves_the_active_run_and_the_mark() -> None:
    queue = build_queue()
    accept_and_enter(queue, A)
    accept_and_enter(queue, B)
    assert queue.clear() == [Drop(B)]
    assert queue.active == A
    assert queue.mark == 0


async def test_a_merged_run_ends_with_the_active_one() -> None:
    queue = build_queue()
    accept_and_enter(queue, A)
    accept_and_enter(queue, B, has_own_turn=False)
    accept_and_enter(queue, C)
    assert queue.step() == [Merge(B)]
    assert queue.merged == [B]
    assert queue.step() == []
    assert queue.queued == [C]
    assert queue.cancel_run(B) == []
    assert queue.finished(A) == [Start(C)]
    assert queue.merged == []


async def test_nothing_is_merged_into_a_turn_that_is_being_cancelled() -> None:
    queue = build_queue()
    accept_and_enter(queue, A)
    queue.cancel()
    accept_and_enter(queue, B, has_own_turn=False)
    assert queue.step() == []
    assert queue.finished(A) == [Start(B)]


async def test_finishing_a_run_that_is_not_active_is_an_invalid_transition() -> None:
    queue = build_queue()
    accept_and_enter(queue, A)
    with pytest.raises(InvalidTransition, match="not active"):
        queue.finished(B)


async def test_releasing_a_reservation_twice_counts_once() -> None:
    queue = build_queue()
    first, second = queue.accept(A), queue.accept(B)
    queue.release(first)
    queue.release(first)
    assert queue.waiting == 1
    queue.release(second)
    assert queue.waiting == 0
    assert queue.enter(first) == []


async def test_a_partition_with_a_mark_drops_the_runs_that_the_cancel_covers() -> None:
    waiting = [Reservation(RunId(f"r{n}"), n, has_own_turn=False) for n in (1, 2, 3, 0)]
    parts = partition(waiting, 2)
    assert [reservation.sequence for reservation in parts.merged] == [3]
    assert [reservation.sequence for reservation in parts.dropped] == [1, 2, 0]
    assert parts.kept == []


async def test_a_partition_without_a_mark_merges_runs_that_need_no_turn_of_their_own() -> None:
    waiting = [
        Reservation(A, 0, has_own_turn=False),
        Reservation(B, 3),
        Reservation(C, 5, has_own_turn=False),
        Reservation(D, 6),
    ]
    parts = partition(waiting, 0)
    assert [reservation.run_id for reservation in parts.merged] == [A, C]
    assert [reservation.run_id for reservation in parts.kept] == [B, D]


async def test_a_partition_with_a_mark_keeps_later_runs_that_have_their_own_turn() -> None:
    waiting = [Reservation(A, 1), Reservation(B, 1, has_own_turn=False), Reservation(C, 5)]
    parts = partition(waiting, 2)
    assert parts.merged == []
    assert [reservation.run_id for reservation in parts.dropped] == [A, B]
    assert [reservation.run_id for reservation in parts.kept] == [C]


async def test_a_stale_mark_does_not_outlive_the_reservations_it_covers() -> None:
    queue = build_queue()
    reservation = queue.accept(A)
    queue.cancel()
    queue.release(reservation)  # its commit failed
    assert queue.mark == 0
    assert accept_and_enter(queue, B) == [Start(B)]


async def test_queues_of_one_workspace_share_the_accept_sequence() -> None:
    counter = AcceptCounter(41)
    assert SessionQueue(SessionId("s1"), counter).accept(A).sequence == 42
    assert SessionQueue(SessionId("s2"), counter).accept(B).sequence == 43
