"""Test the stages of a shutdown and their deadlines."""

import pytest

from protocol.base.machine import InvalidTransition
from worker.runs.drain import AwaitRuns, CancelAll, CancelStarted, Drain, Flush, Leave, Phase, Refuse


def test_a_shutdown_passes_all_stages_with_their_deadlines() -> None:
    drain = Drain()
    assert drain.is_open
    assert drain.shutdown("stop", drain_s=5, flush_s=3, now=10) == [Refuse(), CancelStarted()]
    assert not drain.is_open
    assert drain.cancelled(10.5) == [AwaitRuns(15)]
    assert drain.drained(11) == [Flush(14)]
    assert drain.flushed(12) == [Leave(in_time=True)]
    assert drain.state is Phase.CLOSED
    assert drain.reason == "stop"


def test_what_waits_is_cancelled_only_on_request() -> None:
    drain = Drain()
    effects = drain.shutdown("stop", drain_s=5, flush_s=3, now=10, cancel_queued=True)
    assert effects == [Refuse(), CancelAll()]
    assert drain.cancels_queued
    assert drain.shutdown("again", drain_s=5, flush_s=3, now=11) == []
    assert drain.cancels_queued


def test_S08_a_second_shutdown_request_changes_nothing() -> None:
    drain = Drain()
    drain.shutdown("stop", drain_s=5, flush_s=3, now=10)
    assert drain.shutdown("again", drain_s=0, flush_s=0, now=11) == []
    assert drain.cancelled(11) == [AwaitRuns(15)]
    assert drain.reason == "stop"


def test_an_overrun_is_remembered_and_the_next_stage_still_has_its_budget() -> None:
    drain = Drain()
    drain.shutdown("stop", drain_s=5, flush_s=3, now=10)
    drain.cancelled(10)
    assert drain.overdue(15) == [Flush(18)]
    assert drain.flushed(16) == [Leave(in_time=False)]
    assert drain.overdue(18) == []


def test_a_flush_that_overruns_ends_the_shutdown() -> None:
    drain = Drain()
    drain.shutdown("stop", drain_s=5, flush_s=3, now=10)
    drain.cancelled(10)
    drain.drained(11)
    assert drain.overdue(14) == [Leave(in_time=False)]


def test_stages_cannot_be_skipped() -> None:
    with pytest.raises(InvalidTransition):
        Drain().drained(1)
