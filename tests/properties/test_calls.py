"""Random facts for calls in flight: each call ends once, and none is kept for ever."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from protocol.errors import LimitReached
from protocol.operations import Operation
from supervisor.routing.calls import Calls, Effect, Expire, Send, SendCancel

IDS = st.sampled_from(["a", "b", "c", "d"])
OPERATIONS = st.sampled_from([Operation("plain", is_safe=False), Operation("bound", is_safe=True, is_bound=True)])


class CallsUnderFacts(RuleBasedStateMachine):
    """Opens, answers and abandons calls, and compares with a model of the waiting callers."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = Calls(count_max=3, bytes_max=10)
        self.now = 0.0
        self.waiters: dict[str, int] = {}  # the model: callers that wait for each call
        self.sizes: dict[str, int] = {}
        self.sends: dict[str, int] = {}

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(flight):
                    assert flight.call_id in self.waiters
                    self.sends[flight.call_id] = self.sends.get(flight.call_id, 0) + 1
                case Expire(flight):
                    assert self.now >= flight.deadline
                    self.end(flight.call_id)
                case SendCancel(call_id):
                    assert call_id not in self.waiters

    def end(self, call_id: str) -> None:
        del self.waiters[call_id]
        del self.sizes[call_id]
        self.sends.pop(call_id)

    @rule(call_id=IDS, operation=OPERATIONS, size=st.integers(0, 8))
    def open(self, call_id: str, operation: Operation, size: int) -> None:
        is_known = call_id in self.waiters
        is_full = not is_known and (len(self.waiters) >= 3 or (self.waiters and sum(self.sizes.values()) + size > 10))
        try:
            effects = self.calls.opened(call_id, operation, {}, b"x" * size, timeout_s=10.0, now=self.now)
        except LimitReached:
            assert is_full
            return
        assert not is_full
        self.waiters[call_id] = self.waiters.get(call_id, 0) + 1
        self.sizes.setdefault(call_id, size)
        assert bool(effects) != is_known
        self.perform(effects)

    @rule(call_id=IDS)
    def answer(self, call_id: str) -> None:
        flight = self.calls.answered(call_id)
        assert (flight is not None) == (call_id in self.waiters)
        if flight is not None:
            self.end(call_id)

    @rule(call_id=IDS)
    @precondition(lambda self: self.waiters)
    def abandon(self, call_id: str) -> None:
        if call_id not in self.waiters:
            assert self.calls.abandoned(call_id) == []
            return
        self.waiters[call_id] -= 1
        if not self.waiters[call_id]:
            self.end(call_id)
        self.perform(self.calls.abandoned(call_id))

    @rule(seconds=st.sampled_from([0.0, 1.0, 5.0, 20.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for call_id in list(self.waiters):
            for _ in range(2):  # a late timer finds both of its times due
                self.perform(self.calls.due(call_id, self.now))
            if call_id in self.waiters:
                flight = self.calls.get(call_id)
                assert flight is not None
                assert flight.again_at > self.now

    @rule()
    def reconnect(self) -> None:
        effects = self.calls.reconnected()
        assert len(effects) == len(self.waiters)
        self.perform(effects)

    @rule()
    def lose(self) -> None:
        assert {flight.call_id for flight in self.calls.lost()} == set(self.waiters)
        for call_id in list(self.waiters):
            self.end(call_id)

    @invariant()
    def agree(self) -> None:
        assert len(self.calls) == len(self.waiters)


CallsUnderFacts.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestCalls = CallsUnderFacts.TestCase
