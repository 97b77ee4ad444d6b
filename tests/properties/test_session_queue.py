"""Random facts for the queue of a session: no prompt is lost, each ends once, at most one is active.

A cancellation covers only prompts that were accepted before it.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from protocol.ids import RunId, SessionId
from worker.runs.session_queue import CancelActive, CancelOnEntry, Drop, Effect, Merge, Reservation, SessionQueue, Start


class Queues(RuleBasedStateMachine):
    """Acts as dispatcher, runner and clients."""

    reservations = Bundle("reservations")

    def __init__(self) -> None:
        super().__init__()
        self.queue = SessionQueue(SessionId("s1"))
        self.accepted: dict[str, int] = {}  # run id -> sequence
        self.released: set[str] = set()
        self.ended: dict[str, str] = {}
        self.active: str | None = None
        self.merged: set[str] = set()
        self.cancelled: set[str] = set()
        self.cancels: list[int] = []  # the last assigned sequence before each cancellation
        self.cancelled_by_id: set[str] = set()
        self.cleared: set[str] = set()
        self.is_held = False
        self.steps = 0

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Start(run_id):
                    assert self.active is None
                    assert not self.is_held, "a held queue started a run"
                    self.active = run_id
                case CancelOnEntry(run_id) | Drop(run_id):
                    self.end(run_id, "cancelled")
                case Merge(run_id):
                    assert self.active is not None
                    assert run_id.startswith("free")
                    self.merged.add(run_id)
                case CancelActive(run_id):
                    assert run_id == self.active
                    assert run_id not in self.cancelled
                    self.cancelled.add(run_id)

    def end(self, run_id: str, outcome: str) -> None:
        assert run_id not in self.ended
        self.ended[run_id] = outcome
        if outcome == "cancelled" and run_id not in self.cancelled_by_id | self.cleared:
            assert any(self.accepted[run_id] <= mark for mark in self.cancels), "a cancel touched a later run"

    @rule(target=reservations, has_own_turn=st.booleans())
    def accept(self, has_own_turn: bool) -> Reservation:
        run_id = RunId(f"{'own' if has_own_turn else 'free'}{len(self.accepted)}")
        reservation = self.queue.accept(run_id, has_own_turn=has_own_turn)
        self.accepted[run_id] = reservation.sequence
        return reservation

    @rule(reservation=consumes(reservations))
    def enter(self, reservation: Reservation) -> None:
        self.perform(self.queue.enter(reservation))

    @rule(reservation=consumes(reservations))
    def fail_to_store(self, reservation: Reservation) -> None:
        self.queue.release(reservation)
        self.released.add(reservation.run_id)

    @rule()
    def cancel(self) -> None:
        was_empty = self.queue.is_empty
        self.cancels.append(max(self.accepted.values(), default=0))
        effects = self.queue.cancel()
        self.perform(effects)
        if was_empty:
            assert effects == []
            assert self.queue.mark == 0

    @precondition(lambda self: self.steps > 10)
    @rule()
    def hold(self) -> None:
        waiting = self.queue.queued
        effects = self.queue.hold()
        assert all(isinstance(effect, CancelActive) for effect in effects)
        self.perform(effects)
        self.is_held = True
        assert self.queue.queued == self.queue.held == waiting

    @rule(index=st.integers(min_value=0, max_value=30))
    def cancel_run(self, index: int) -> None:
        names = list(self.accepted)
        if names:
            run_id = names[index % len(names)]
            self.cancelled_by_id.add(run_id)
            effects = self.queue.cancel_run(RunId(run_id))
            assert all(effect.run_id == run_id for effect in effects)
            self.perform(effects)

    @rule()
    def clear(self) -> None:
        self.cleared |= set(self.queue.queued)
        self.perform(self.queue.clear())

    @rule()
    def step(self) -> None:
        self.perform(self.queue.step())

    @rule()
    def finish(self) -> None:
        if self.active is None:
            return
        run_id, self.active = self.active, None
        merged = self.queue.merged
        effects = self.queue.finished(RunId(run_id))
        outcome = "stopped" if run_id in self.cancelled else "completed"
        for ended in (run_id, *merged):
            self.end(ended, outcome)
            self.merged.discard(ended)
        self.perform(effects)

    @invariant()
    def count_step(self) -> None:
        self.steps += 1

    @invariant()
    def nothing_is_lost(self) -> None:
        present = [*self.queue.queued, *self.queue.merged, *([self.queue.active] if self.queue.active else [])]
        assert len(present) == len(set(present))
        open_runs = set(self.accepted) - set(self.ended) - self.released
        assert set(present) <= open_runs
        assert len(open_runs) == len(present) + self.queue.waiting - len(self.queue.queued)
        assert self.queue.active == self.active

    @invariant()
    def an_idle_queue_has_no_runs_and_no_mark(self) -> None:
        if self.queue.active is None and not self.is_held:
            assert self.queue.queued == []
        if self.queue.is_empty:
            assert self.queue.mark == 0


TestQueues = Queues.TestCase
TestQueues.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
