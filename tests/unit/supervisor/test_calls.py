"""Calls in flight: which effects follow from which facts."""

import pytest

from protocol.errors import LimitReached
from protocol.operations import Operation
from supervisor.routing.calls import Calls, Expire, Send, SendCancel

PLAIN = Operation("plain", is_safe=False)
BOUND = Operation("bound", is_safe=True, is_bound=True)


def opened(
    calls: Calls, call_id: str = "a", operation: Operation = PLAIN, body: bytes = b"", now: float = 0.0
) -> list[object]:
    return list(calls.opened(call_id, operation, {}, body, timeout_s=10.0, now=now))


def test_a_call_is_sent_again_halfway_and_expires() -> None:
    calls = Calls(count_max=5, bytes_max=100)
    [send] = opened(calls)
    flight = calls.get("a")
    assert flight is not None
    assert send == Send(flight)
    assert calls.due("a", 4.9) == []
    assert calls.due("a", 5.0) == [Send(flight)]
    assert calls.due("a", 9.9) == []
    assert calls.due("a", 10.0) == [Expire(flight)]
    assert calls.due("a", 11.0) == []
    assert calls.answered("a") is None


def test_Z07_the_same_id_is_one_call_with_two_waiters() -> None:
    calls = Calls(count_max=1, bytes_max=100)
    opened(calls, operation=BOUND)
    assert opened(calls, operation=BOUND) == []
    assert calls.abandoned("a") == []
    assert calls.abandoned("a") == [SendCancel("a")]
    assert len(calls) == 0


def test_only_bound_calls_are_cancelled() -> None:
    calls = Calls(count_max=5, bytes_max=100)
    opened(calls)
    assert calls.abandoned("a") == []
    assert calls.abandoned("a") == []
    opened(calls, "b", BOUND)
    flight = calls.get("b")
    assert flight is not None
    calls.due("b", 5.0)
    assert calls.due("b", 10.0) == [Expire(flight), SendCancel("b")]


def test_calls_are_bounded_by_count_and_by_bytes_but_a_single_one_always_passes() -> None:
    calls = Calls(count_max=2, bytes_max=100)
    opened(calls, "big", body=b"x" * 1000)
    with pytest.raises(LimitReached) as caught:
        opened(calls, "b", body=b"x")
    assert caught.value.code == "too_many_calls"
    calls.answered("big")
    opened(calls, "a")
    opened(calls, "b")
    with pytest.raises(LimitReached):
        opened(calls, "c")


def test_after_a_reconnect_all_open_calls_are_sent_again_in_order() -> None:
    calls = Calls(count_max=5, bytes_max=100)
    for call_id in "abc":
        opened(calls, call_id)
    calls.answered("b")
    assert [effect.flight.call_id for effect in calls.reconnected() if isinstance(effect, Send)] == ["a", "c"]


def test_the_loss_of_a_worker_ends_all_its_calls() -> None:
    calls = Calls(count_max=3, bytes_max=6)
    for _ in range(2):  # count and bytes are zero again after the first loss
        for call_id in "abc":
            opened(calls, call_id, body=b"12")
        assert [flight.call_id for flight in calls.lost()] == ["a", "b", "c"]
        assert len(calls) == 0
