"""Random facts against the life of a worker: one process at most, no work lost, no wish forgotten."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from protocol.limits import Limits
from supervisor.workers.lifecycle import (
    Effect,
    FailCalls,
    Kill,
    SendShutdown,
    Spawn,
    WakeAt,
    WorkerLifecycle,
    WorkerState,
)

PROCESSLESS = (WorkerState.ASLEEP, WorkerState.BACKOFF, WorkerState.FAILED)


class LifecycleFacts(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.life = WorkerLifecycle(Limits())
        self.now = 1000.0
        self.has_process = False
        self.was_told_to_end = False
        self.alarm: float | None = None

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Spawn():
                    assert not self.has_process, "a second process beside the first"
                    self.has_process = True
                    self.was_told_to_end = False
                case SendShutdown() | Kill():
                    assert self.has_process
                    self.was_told_to_end = True
                case WakeAt(at):
                    self.alarm = at
                case FailCalls():
                    assert not self.has_process
                case _:
                    pass

    @rule()
    def want(self) -> None:
        self.perform(self.life.want(self.now))
        if self.life.state is not WorkerState.FAILED:
            assert self.life.wanted

    @rule()
    def unwant(self) -> None:
        self.perform(self.life.unwant("test", self.now))
        assert not self.life.wanted
        assert self.life.state in (WorkerState.ASLEEP, WorkerState.CLOSING, WorkerState.KILLING)

    @rule()
    def restart(self) -> None:
        self.perform(self.life.restart(self.now))
        assert self.life.wanted

    @precondition(lambda self: self.has_process)
    @rule()
    def born(self) -> None:
        self.perform(self.life.born(self.now))

    @precondition(lambda self: self.has_process)
    @rule()
    def ready(self) -> None:
        self.perform(self.life.became_ready(self.now))

    @precondition(lambda self: self.has_process)
    @rule()
    def last_word(self) -> None:
        self.perform(self.life.last_word())

    @rule()
    def beat_lost(self) -> None:
        self.perform(self.life.beat_lost(self.now))

    @precondition(lambda self: self.has_process)
    @rule(cause=st.sampled_from(["signal 9", "exit 0", "exit 1"]))
    def exits(self, cause: str) -> None:
        self.has_process = False
        self.perform(self.life.exited(cause, self.now))

    @precondition(lambda self: self.has_process)
    @rule()
    def cannot_start(self) -> None:
        self.has_process = False
        self.perform(self.life.not_started("no memory", self.now))

    @rule(seconds=st.floats(0.01, 100))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        if self.alarm is not None and self.alarm <= self.now:
            self.alarm = None
            self.perform(self.life.elapsed(self.now))

    @invariant()
    def state_and_process_agree(self) -> None:
        assert self.has_process == (self.life.state not in PROCESSLESS)

    @invariant()
    def whoever_is_ending_was_told_to(self) -> None:
        if self.life.state in (WorkerState.CLOSING, WorkerState.KILLING):
            assert self.was_told_to_end

    @invariant()
    def nobody_waits_for_ever(self) -> None:
        """In every state that must not last, a timer runs."""
        if self.life.state in (WorkerState.STARTING, WorkerState.CLOSING, WorkerState.KILLING, WorkerState.BACKOFF):
            assert self.alarm is not None

    @invariant()
    def a_wish_is_served_or_refused_aloud(self) -> None:
        if self.life.wanted:
            assert self.life.state is not WorkerState.FAILED
        if self.life.state is WorkerState.FAILED:
            assert self.life.reason


TestLifecycleFacts = LifecycleFacts.TestCase
TestLifecycleFacts.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
