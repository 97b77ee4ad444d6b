"""Random facts for the lifecycle of the local model: at most one process, bounded waits, a final end."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protocol.limits import Limits
from supervisor.local_model.lifecycle import (
    Effect,
    Kill,
    LocalModelLifecycle,
    LocalModelState,
    Refuse,
    Spawn,
    WakeAt,
    WatchListener,
)

WITHOUT_PROCESS = (LocalModelState.LISTENING, LocalModelState.BACKOFF, LocalModelState.FAILED, LocalModelState.OVER)


class LocalModelFacts(RuleBasedStateMachine):
    """Applies random facts and performs the effects on a model of process and listener."""

    def __init__(self) -> None:
        super().__init__()
        self.model = LocalModelLifecycle(Limits())
        self.now = 1000.0
        self.has_process = False
        self.was_killed = False
        self.is_closed = False
        self.listener = "watched"  # or "refusing", or "" while the process accepts the connections
        self.timer: float | None = None

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Spawn():
                    assert not self.has_process, "a second process next to the first"
                    assert not self.is_closed, "started after the end"
                    self.has_process, self.was_killed, self.listener = True, False, ""
                case Kill(reason):
                    assert self.has_process
                    assert reason
                    self.was_killed = True
                case WakeAt(at):
                    self.timer = at
                case WatchListener():
                    assert not self.has_process
                    self.listener = "watched"
                case Refuse(reason):
                    assert reason
                    self.listener = "refusing"

    @initialize(has_previous=st.booleans())
    def begin(self, has_previous: bool) -> None:
        if has_previous:
            self.has_process, self.listener = True, ""
            self.perform(self.model.previous_found(self.now))

    @rule()
    def requested(self) -> None:
        self.perform(self.model.requested(self.now))

    @precondition(lambda self: self.has_process)
    @rule()
    def ready(self) -> None:
        self.perform(self.model.became_ready(self.now))

    @rule()
    def beat_lost(self) -> None:
        self.perform(self.model.beat_lost(self.now))

    @precondition(lambda self: self.has_process)
    @rule(cause=st.sampled_from(["", "signal 9", "exit code 1"]))
    def exits(self, cause: str) -> None:
        self.has_process = False
        self.perform(self.model.exited(cause, self.now))

    @precondition(lambda self: self.model.state is LocalModelState.STARTING)
    @rule()
    def cannot_start(self) -> None:
        self.has_process = False
        self.perform(self.model.not_started("no memory", self.now))

    @rule(seconds=st.floats(0.01, 100))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        if self.timer is not None and self.timer <= self.now:
            self.timer = None
            self.perform(self.model.elapsed(self.now))

    @rule()
    def elapsed_too_late(self) -> None:
        if self.model.state in (LocalModelState.LISTENING, LocalModelState.SERVING, LocalModelState.OVER):
            assert self.model.elapsed(self.now) == []

    @rule()
    def close(self) -> None:
        self.is_closed = True
        self.perform(self.model.close(self.now))
        assert self.model.state in (LocalModelState.KILLING, LocalModelState.OVER)

    @invariant()
    def state_and_process_agree(self) -> None:
        assert self.has_process == (self.model.state not in WITHOUT_PROCESS)

    @invariant()
    def no_request_waits_for_ever(self) -> None:
        """A timer is set in each temporary state; the listener is watched where a request starts the process."""
        if self.model.state in (
            LocalModelState.STARTING,
            LocalModelState.KILLING,
            LocalModelState.LEAVING,
            LocalModelState.BACKOFF,
            LocalModelState.FAILED,
        ):
            assert self.timer is not None
        if self.model.state is LocalModelState.LISTENING:
            assert self.listener == "watched"
        if self.model.state is LocalModelState.FAILED:
            assert self.listener == "refusing"
            assert self.model.reason

    @invariant()
    def the_process_ends_after_a_close(self) -> None:
        if self.is_closed:
            assert self.model.state in (LocalModelState.KILLING, LocalModelState.OVER)
            assert self.was_killed or not self.has_process


TestLocalModelFacts = LocalModelFacts.TestCase
TestLocalModelFacts.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_repeated_crashes_lead_to_a_pause_and_then_a_new_attempt() -> None:
    limits = Limits()
    model = LocalModelLifecycle(limits)
    for _ in range(limits.restart_intensity):
        model.requested(0.0)
        model.exited("exit code 1", 0.0)
        if model.state is LocalModelState.BACKOFF:
            model.elapsed(0.0)
    assert model.state is LocalModelState.FAILED
    assert "exit code 1" in model.reason
    assert model.requested(0.0) == []
    model.elapsed(limits.restart_period_s)
    assert Spawn() in model.requested(limits.restart_period_s)
    model.exited("exit code 1", limits.restart_period_s)
    assert model.state is LocalModelState.BACKOFF, "the pause counts as a fresh start"


def test_an_orderly_exit_is_not_a_crash() -> None:
    model = LocalModelLifecycle(Limits())
    for _ in range(10):
        assert Spawn() in model.requested(0.0)
        model.became_ready(0.0)
        model.exited("", 0.0)
        assert (model.state, model.reason) == (LocalModelState.LISTENING, "")
