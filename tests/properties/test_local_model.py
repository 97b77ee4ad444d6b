"""Random facts against the life of the local model's process: one at most, nobody waits for ever, an end is an end."""

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

PROCESSLESS = (LocalModelState.LISTENING, LocalModelState.BACKOFF, LocalModelState.FAILED, LocalModelState.OVER)


class LocalModelFacts(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.life = LocalModelLifecycle(Limits())
        self.now = 1000.0
        self.has_process = False
        self.was_killed = False
        self.is_closed = False
        self.hears = "attends"  # or "refuses", or "" while the process takes the connections
        self.alarm: float | None = None

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Spawn():
                    assert not self.has_process, "a second process beside the first"
                    assert not self.is_closed, "started after the end"
                    self.has_process, self.was_killed, self.hears = True, False, ""
                case Kill(reason):
                    assert self.has_process
                    assert reason
                    self.was_killed = True
                case WakeAt(at):
                    self.alarm = at
                case WatchListener():
                    assert not self.has_process
                    self.hears = "attends"
                case Refuse(reason):
                    assert reason
                    self.hears = "refuses"

    @initialize(has_previous=st.booleans())
    def begin(self, has_previous: bool) -> None:
        if has_previous:
            self.has_process, self.hears = True, ""
            self.perform(self.life.previous_found(self.now))

    @rule()
    def requested(self) -> None:
        self.perform(self.life.requested(self.now))

    @precondition(lambda self: self.has_process)
    @rule()
    def ready(self) -> None:
        self.perform(self.life.became_ready(self.now))

    @rule()
    def beat_lost(self) -> None:
        self.perform(self.life.beat_lost(self.now))

    @precondition(lambda self: self.has_process)
    @rule(cause=st.sampled_from(["", "signal 9", "exit code 1"]))
    def exits(self, cause: str) -> None:
        self.has_process = False
        self.perform(self.life.exited(cause, self.now))

    @precondition(lambda self: self.life.state is LocalModelState.STARTING)
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

    @rule()
    def elapsed_too_late(self) -> None:
        if self.life.state in (LocalModelState.LISTENING, LocalModelState.SERVING, LocalModelState.OVER):
            assert self.life.elapsed(self.now) == []

    @rule()
    def close(self) -> None:
        self.is_closed = True
        self.perform(self.life.close(self.now))
        assert self.life.state in (LocalModelState.KILLING, LocalModelState.OVER)

    @invariant()
    def state_and_process_agree(self) -> None:
        assert self.has_process == (self.life.state not in PROCESSLESS)

    @invariant()
    def whoever_waits_will_hear(self) -> None:
        """In every state that must not last, a timer runs; where one waits for a request, requests are seen."""
        if self.life.state in (
            LocalModelState.STARTING,
            LocalModelState.KILLING,
            LocalModelState.LEAVING,
            LocalModelState.BACKOFF,
            LocalModelState.FAILED,
        ):
            assert self.alarm is not None
        if self.life.state is LocalModelState.LISTENING:
            assert self.hears == "attends"
        if self.life.state is LocalModelState.FAILED:
            assert self.hears == "refuses"
            assert self.life.reason

    @invariant()
    def after_the_close_everything_ends(self) -> None:
        if self.is_closed:
            assert self.life.state in (LocalModelState.KILLING, LocalModelState.OVER)
            assert self.was_killed or not self.has_process


TestLocalModelFacts = LocalModelFacts.TestCase
TestLocalModelFacts.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_deaths_in_a_row_end_in_a_pause_and_then_a_new_chance() -> None:
    limits = Limits()
    life = LocalModelLifecycle(limits)
    for _ in range(limits.restart_intensity):
        life.requested(0.0)
        life.exited("exit code 1", 0.0)
        if life.state is LocalModelState.BACKOFF:
            life.elapsed(0.0)
    assert life.state is LocalModelState.FAILED
    assert "exit code 1" in life.reason
    assert life.requested(0.0) == []
    life.elapsed(limits.restart_period_s)
    assert Spawn() in life.requested(limits.restart_period_s)
    life.exited("exit code 1", limits.restart_period_s)
    assert life.state is LocalModelState.BACKOFF, "the pause counts as a fresh start"


def test_leaving_in_order_is_no_death() -> None:
    life = LocalModelLifecycle(Limits())
    for _ in range(10):
        assert Spawn() in life.requested(0.0)
        life.became_ready(0.0)
        life.exited("", 0.0)
        assert (life.state, life.reason) == (LocalModelState.LISTENING, "")
