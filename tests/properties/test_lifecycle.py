"""Random facts for the lifecycle of a worker: at most one process, no work lost, no request forgotten."""

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

WITHOUT_PROCESS = (WorkerState.ASLEEP, WorkerState.BACKOFF, WorkerState.FAILED)


class LifecycleFacts(RuleBasedStateMachine):
    """Applies random facts and performs the effects on a model of the process."""

    def __init__(self) -> None:
        super().__init__()
        self.worker = WorkerLifecycle(Limits())
        self.now = 1000.0
        self.has_process = False
        self.was_ended = False
        self.timer: float | None = None

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Spawn():
                    assert not self.has_process, "a second process next to the first"
                    self.has_process = True
                    self.was_ended = False
                case SendShutdown() | Kill():
                    assert self.has_process
                    self.was_ended = True
                case WakeAt(at):
                    self.timer = at
                case FailCalls():
                    assert not self.has_process
                case _:
                    pass

    @rule()
    def want(self) -> None:
        self.perform(self.worker.want(self.now))
        if self.worker.state is not WorkerState.FAILED:
            assert self.worker.wanted

    @rule()
    def unwant(self) -> None:
        self.perform(self.worker.unwant("test", self.now))
        assert not self.worker.wanted
        assert self.worker.state in (WorkerState.ASLEEP, WorkerState.CLOSING, WorkerState.KILLING)

    @rule()
    def restart(self) -> None:
        self.perform(self.worker.restart(self.now))
        assert self.worker.wanted

    @precondition(lambda self: self.has_process)
    @rule()
    def born(self) -> None:
        self.perform(self.worker.born(self.now))

    @precondition(lambda self: self.has_process)
    @rule()
    def ready(self) -> None:
        self.perform(self.worker.became_ready(self.now))

    @precondition(lambda self: self.has_process)
    @rule()
    def last_word(self) -> None:
        self.perform(self.worker.last_word())

    @rule()
    def beat_lost(self) -> None:
        self.perform(self.worker.beat_lost(self.now))

    @precondition(lambda self: self.has_process)
    @rule(cause=st.sampled_from(["signal 9", "exit 0", "exit 1"]))
    def exits(self, cause: str) -> None:
        self.has_process = False
        self.perform(self.worker.exited(cause, self.now))

    @precondition(lambda self: self.has_process)
    @rule()
    def cannot_start(self) -> None:
        self.has_process = False
        self.perform(self.worker.not_started("no memory", self.now))

    @rule(seconds=st.floats(0.01, 100))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        if self.timer is not None and self.timer <= self.now:
            self.timer = None
            self.perform(self.worker.elapsed(self.now))

    @invariant()
    def state_and_process_agree(self) -> None:
        assert self.has_process == (self.worker.state not in WITHOUT_PROCESS)

    @invariant()
    def an_ending_worker_got_a_shutdown_or_a_kill(self) -> None:
        if self.worker.state in (WorkerState.CLOSING, WorkerState.KILLING):
            assert self.was_ended

    @invariant()
    def no_temporary_state_lasts_for_ever(self) -> None:
        """A timer is set in each state that must not last."""
        if self.worker.state in (WorkerState.STARTING, WorkerState.CLOSING, WorkerState.KILLING, WorkerState.BACKOFF):
            assert self.timer is not None

    @invariant()
    def a_request_is_served_or_refused_with_a_reason(self) -> None:
        if self.worker.wanted:
            assert self.worker.state is not WorkerState.FAILED
        if self.worker.state is WorkerState.FAILED:
            assert self.worker.reason


TestLifecycleFacts = LifecycleFacts.TestCase
TestLifecycleFacts.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
