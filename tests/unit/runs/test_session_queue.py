"""The lane of one session: cancel windows C1 to C10, folding, hand-off, and the scenarios of 1.13."""

import pytest

from protocol.base.machine import InvalidTransition
from protocol.ids import RunId, SessionId
from worker.runs.session_queue import (
    AcceptCounter,
    CancelActive,
    Drop,
    End,
    Merge,
    Outcome,
    SessionQueue,
    Start,
    Ticket,
    partition,
)

A, B, C, D = RunId("a"), RunId("b"), RunId("c"), RunId("d")
CANCELLED = Outcome.CANCELLED


def build_lane() -> SessionQueue:
    return SessionQueue(SessionId("s1"))


def entered(lane: SessionQueue, run_id: RunId, keyed: bool = True):  # type: ignore[no-untyped-def]
    return lane.enter(lane.accept(run_id, keyed=keyed))


def test_an_idle_lane_starts_what_enters() -> None:
    lane = build_lane()
    assert entered(lane, A) == [Start(A)]
    assert lane.active == A
    assert lane.is_busy


def test_C_01_cancel_of_an_idle_lane_leaves_no_trace() -> None:
    lane = build_lane()
    assert lane.cancel() == []
    assert lane.mark == 0
    assert entered(lane, A) == [Start(A)]


def test_C_02_an_accepted_run_is_cancelled_on_entry() -> None:
    lane = build_lane()
    ticket = lane.accept(A)
    assert lane.cancel() == []
    assert lane.mark == 1
    assert lane.enter(ticket) == [End(A, CANCELLED)]
    assert lane.mark == 0
    assert lane.is_empty


def test_C_03_one_cancel_covers_all_that_are_accepted() -> None:
    lane = build_lane()
    tickets = [lane.accept(run_id) for run_id in (A, B, C)]
    lane.cancel()
    assert [effect for ticket in tickets for effect in lane.enter(ticket)] == [End(run, CANCELLED) for run in (A, B, C)]
    assert lane.mark == 0


def test_C_04_a_run_accepted_after_the_cancel_is_never_affected() -> None:
    lane = build_lane()
    first = lane.accept(A)
    lane.cancel()
    later = lane.accept(B)
    assert lane.enter(later) == [Start(B)]  # enters before the covered one
    assert lane.finished(B) == []  # and running it to its end does not clear the mark the older one needs
    assert lane.mark == 1
    assert lane.enter(first) == [End(A, CANCELLED)]


def test_C_05_cancel_reaches_the_active_run_and_empties_the_queue() -> None:
    lane = build_lane()
    entered(lane, A)
    entered(lane, B)
    assert lane.cancel() == [CancelActive(A), Drop(B)]
    assert lane.is_busy  # until the run has unwound
    assert lane.queued == []
    assert lane.mark == 0


def test_C_06_active_and_accepted_in_the_same_cancel() -> None:
    lane = build_lane()
    entered(lane, A)
    ticket = lane.accept(B)
    assert lane.cancel() == [CancelActive(A)]
    assert lane.mark == 2
    assert lane.enter(ticket) == [End(B, CANCELLED)]


def test_C_07_a_covered_run_that_enters_a_busy_session_is_cancelled_not_queued() -> None:
    lane = build_lane()
    ticket = lane.accept(A)
    lane.cancel()
    entered(lane, B)
    assert lane.enter(ticket) == [End(A, CANCELLED)]
    assert lane.queued == []
    assert lane.active == B


def test_C_08_queued_runs_are_dropped_once_each() -> None:
    lane = build_lane()
    entered(lane, A)
    entered(lane, B)
    entered(lane, C, keyed=False)
    assert lane.cancel() == [CancelActive(A), Drop(B), Drop(C)]
    assert lane.finished(A) == []


def test_C_09_a_second_cancel_covers_only_what_came_in_between() -> None:
    lane = build_lane()
    entered(lane, A)
    first = lane.accept(B)
    assert lane.cancel() == [CancelActive(A)]
    assert lane.cancel() == []
    between = lane.accept(C)
    assert lane.cancel() == []
    after = lane.accept(D)
    assert lane.enter(first) == [End(B, CANCELLED)]
    assert lane.enter(between) == [End(C, CANCELLED)]
    assert lane.enter(after) == []
    assert lane.queued == [D]
    assert lane.finished(A) == [Start(D)]


def test_C_10_a_cancel_during_the_hand_off_finds_the_run_that_was_taken_from_the_queue() -> None:
    lane = build_lane()
    entered(lane, A)
    entered(lane, B)
    assert lane.finished(A) == [Start(B)]
    assert lane.cancel() == [CancelActive(B)]


def test_W_10_a_run_queued_while_a_cancelled_one_unwinds_starts_afterwards() -> None:
    lane = build_lane()
    entered(lane, A)
    lane.cancel()
    assert entered(lane, B) == []
    assert lane.finished(A) == [Start(B)]


def test_cancel_of_one_run_touches_no_other() -> None:
    lane = build_lane()
    entered(lane, A)
    entered(lane, B)
    ticket = lane.accept(C)
    assert lane.cancel_run(RunId("unknown")) == []
    assert lane.cancel_run(B) == [Drop(B)]
    assert lane.cancel_run(C) == []
    assert lane.enter(ticket) == [End(C, CANCELLED)]
    assert lane.cancel_run(A) == [CancelActive(A)]
    assert lane.cancel_run(A) == []


def test_clear_drops_the_queue_and_leaves_the_active_run_and_the_mark() -> None:
    lane = build_lane()
    entered(lane, A)
    entered(lane, B)
    assert lane.clear() == [Drop(B)]
    assert lane.active == A
    assert lane.mark == 0


def test_a_folded_run_ends_with_its_host() -> None:
    lane = build_lane()
    entered(lane, A)
    entered(lane, B, keyed=False)
    entered(lane, C)
    assert lane.step() == [Merge(B, A)]
    assert lane.folded == [B]
    assert lane.step() == []
    assert lane.queued == [C]
    assert lane.cancel_run(B) == []
    assert lane.finished(A) == [Start(C)]
    assert lane.folded == []


def test_nothing_is_folded_into_a_turn_that_is_being_cancelled() -> None:
    lane = build_lane()
    entered(lane, A)
    lane.cancel()
    entered(lane, B, keyed=False)
    assert lane.step() == []
    assert lane.finished(A) == [Start(B)]


def test_the_end_of_a_run_that_is_not_active_is_a_bug_and_says_so() -> None:
    lane = build_lane()
    entered(lane, A)
    with pytest.raises(InvalidTransition, match="not active"):
        lane.finished(B)


def test_a_place_is_given_back_once_however_often_it_is_released() -> None:
    lane = build_lane()
    first, second = lane.accept(A), lane.accept(B)
    lane.release(first)
    lane.release(first)
    assert lane.waiting == 1
    lane.release(second)
    assert lane.waiting == 0
    assert lane.enter(first) == []


def test_partition_with_a_mark() -> None:
    queue = [Ticket(RunId(f"r{n}"), n, keyed=False) for n in (1, 2, 3, 0)]
    parted = partition(queue, 2)
    assert [ticket.sequence for ticket in parted.folded] == [3]
    assert [ticket.sequence for ticket in parted.dropped] == [1, 2, 0]
    assert parted.kept == []


def test_partition_without_a_mark() -> None:
    queue = [Ticket(A, 0, keyed=False), Ticket(B, 3), Ticket(C, 5, keyed=False), Ticket(D, 6)]
    parted = partition(queue, 0)
    assert [ticket.run_id for ticket in parted.folded] == [A, C]
    assert [ticket.run_id for ticket in parted.kept] == [B, D]


def test_partition_with_keyed_runs_and_a_mark() -> None:
    queue = [Ticket(A, 1), Ticket(B, 1, keyed=False), Ticket(C, 5)]
    parted = partition(queue, 2)
    assert parted.folded == []
    assert [ticket.run_id for ticket in parted.dropped] == [A, B]
    assert [ticket.run_id for ticket in parted.kept] == [C]


def test_a_stale_mark_does_not_outlive_the_places_it_covers() -> None:
    lane = build_lane()
    ticket = lane.accept(A)
    lane.cancel()
    lane.release(ticket)  # its commit failed
    assert lane.mark == 0
    assert entered(lane, B) == [Start(B)]


def test_lanes_of_one_workspace_share_the_accept_sequence() -> None:
    counter = AcceptCounter(41)
    assert SessionQueue(SessionId("s1"), counter).accept(A).sequence == 42
    assert SessionQueue(SessionId("s2"), counter).accept(B).sequence == 43
