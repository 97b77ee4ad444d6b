"""A worker is evicted only when nothing can be lost by it (P11)."""

from dataclasses import replace

import pytest

from supervisor.workspaces.eviction import Eviction, EvictionFacts

IDLE = EvictionFacts(claims=0, streams=0, calls=0, beat=10, open_runs=0, open_questions=0, children=0)


def test_a_worker_is_evicted_after_the_idle_time() -> None:
    eviction = Eviction(idle_s=60, attached_idle_s=900)
    assert not eviction.observed(IDLE, now=0)
    assert not eviction.observed(IDLE, now=59)
    assert eviction.observed(IDLE, now=60)


@pytest.mark.parametrize("field", ["calls", "open_runs", "open_questions", "children"])
def test_P11_anything_open_prevents_the_eviction(field: str) -> None:
    eviction = Eviction(idle_s=0, attached_idle_s=0)
    busy = replace(IDLE, **{field: 1})
    assert not eviction.may_sleep(busy)
    assert not eviction.observed(busy, now=100)
    assert eviction.observed(IDLE, now=100)


@pytest.mark.parametrize("field", ["claims", "streams", "holds_choices"])
def test_with_a_client_or_its_choices_the_idle_time_is_longer(field: str) -> None:
    eviction = Eviction(idle_s=60, attached_idle_s=900)
    facts = replace(IDLE, **{field: 1})
    assert eviction.may_sleep(facts) is (field == "holds_choices")  # what a client may ask for
    assert not eviction.observed(facts, now=0)
    assert not eviction.observed(facts, now=899)
    assert eviction.observed(facts, now=900)


def test_P11_a_worker_with_choices_of_an_attached_client_does_not_sleep() -> None:
    eviction = Eviction(idle_s=0, attached_idle_s=0)
    facts = replace(IDLE, streams=1, holds_choices=True)
    assert not eviction.observed(facts, now=1e9)


def test_work_restarts_the_idle_time() -> None:
    eviction = Eviction(idle_s=60, attached_idle_s=900)
    eviction.observed(IDLE, now=0)
    eviction.observed(replace(IDLE, open_runs=1), now=30)
    assert not eviction.observed(IDLE, now=61)
    assert eviction.observed(IDLE, now=121)


def test_P11_a_heartbeat_from_before_the_last_call_does_not_count() -> None:
    eviction = Eviction(idle_s=0, attached_idle_s=0)
    eviction.called(10)  # a prompt was accepted; beat 11 may have been sent before that
    assert not eviction.observed(replace(IDLE, beat=10), now=0)
    assert not eviction.observed(replace(IDLE, beat=11), now=1)
    assert eviction.observed(replace(IDLE, beat=12), now=2)


def test_a_new_worker_is_not_evicted_before_its_first_heartbeat() -> None:
    eviction = Eviction(idle_s=0, attached_idle_s=0)
    eviction.called(500)
    eviction.started()
    assert not eviction.may_sleep(replace(IDLE, beat=None))
    assert eviction.may_sleep(replace(IDLE, beat=1))
