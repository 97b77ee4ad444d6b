"""A worker sleeps only when nothing can be lost by it (P11)."""

from dataclasses import replace

import pytest

from supervisor.workspaces.eviction import Eviction, Facts

IDLE = Facts(claims=0, streams=0, calls=0, beat=10, open_runs=0, open_questions=0, children=0)


def test_sleeps_after_being_idle_for_long_enough() -> None:
    eviction = Eviction(idle_s=60)
    assert not eviction.observed(IDLE, now=0)
    assert not eviction.observed(IDLE, now=59)
    assert eviction.observed(IDLE, now=60)


@pytest.mark.parametrize("what", ["claims", "streams", "calls", "open_runs", "open_questions", "children"])
def test_P11_anything_open_keeps_it_awake(what: str) -> None:
    eviction = Eviction(idle_s=0)
    busy = replace(IDLE, **{what: 1})
    assert not eviction.may_sleep(busy)
    assert not eviction.observed(busy, now=100)
    assert eviction.observed(IDLE, now=100)


def test_work_in_between_starts_the_wait_again() -> None:
    eviction = Eviction(idle_s=60)
    eviction.observed(IDLE, now=0)
    eviction.observed(replace(IDLE, open_runs=1), now=30)
    assert not eviction.observed(IDLE, now=61)
    assert eviction.observed(IDLE, now=121)


def test_P11_beat_from_before_the_last_call_proves_nothing() -> None:
    eviction = Eviction(idle_s=0)
    eviction.called(10)  # a prompt was accepted; beat 11 may have been sent before that
    assert not eviction.observed(replace(IDLE, beat=10), now=0)
    assert not eviction.observed(replace(IDLE, beat=11), now=1)
    assert eviction.observed(replace(IDLE, beat=12), now=2)


def test_new_worker_has_to_be_heard_first() -> None:
    eviction = Eviction(idle_s=0)
    eviction.called(500)
    eviction.started()
    assert not eviction.may_sleep(replace(IDLE, beat=None))
    assert eviction.may_sleep(replace(IDLE, beat=1))
