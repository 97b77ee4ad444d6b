"""Random facts against the lane: no prompt is lost, each ends once, one at most is active, cancels know their past."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from protocol.ids import RunId, SessionId
from worker.runs.session_queue import CancelActive, Drop, Effect, End, Fold, Lane, Start, Ticket


class Lanes(RuleBasedStateMachine):
    """Plays dispatcher, runner and clients."""

    tickets = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.lane = Lane(SessionId("s1"))
        self.accepted: dict[str, int] = {}  # run id -> sequence
        self.released: set[str] = set()
        self.ended: dict[str, str] = {}
        self.active: str | None = None
        self.folded: set[str] = set()
        self.told_to_stop: set[str] = set()
        self.cancels: list[int] = []  # the last sequence given out before each cancel
        self.named: set[str] = set()
        self.cleared: set[str] = set()

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Start(run_id):
                    assert self.active is None
                    self.active = run_id
                case End(run_id) | Drop(run_id):
                    self.end(run_id, "cancelled")
                case Fold(run_id, host):
                    assert host == self.active
                    assert run_id.startswith("free")
                    self.folded.add(run_id)
                case CancelActive(run_id):
                    assert run_id == self.active
                    assert run_id not in self.told_to_stop
                    self.told_to_stop.add(run_id)

    def end(self, run_id: str, how: str) -> None:
        assert run_id not in self.ended
        self.ended[run_id] = how
        if how == "cancelled" and run_id not in self.named | self.cleared:
            assert any(self.accepted[run_id] <= mark for mark in self.cancels), "a cancel touched a later run"

    @rule(target=tickets, keyed=st.booleans())
    def accept(self, keyed: bool) -> Ticket:
        run_id = RunId(f"{'keyed' if keyed else 'free'}{len(self.accepted)}")
        ticket = self.lane.accept(run_id, keyed=keyed)
        self.accepted[run_id] = ticket.sequence
        return ticket

    @rule(ticket=consumes(tickets))
    def enter(self, ticket: Ticket) -> None:
        self.perform(self.lane.enter(ticket))

    @rule(ticket=consumes(tickets))
    def fail_to_store(self, ticket: Ticket) -> None:
        self.lane.release(ticket)
        self.released.add(ticket.run_id)

    @rule()
    def cancel(self) -> None:
        was_empty = self.lane.is_empty
        self.cancels.append(max(self.accepted.values(), default=0))
        effects = self.lane.cancel()
        self.perform(effects)
        if was_empty:
            assert effects == []
            assert self.lane.mark == 0

    @rule(which=st.integers(min_value=0, max_value=30))
    def cancel_run(self, which: int) -> None:
        names = list(self.accepted)
        if names:
            run_id = names[which % len(names)]
            self.named.add(run_id)
            effects = self.lane.cancel_run(RunId(run_id))
            assert all(effect.run_id == run_id for effect in effects)
            self.perform(effects)

    @rule()
    def clear(self) -> None:
        self.cleared |= set(self.lane.queued)
        self.perform(self.lane.clear())

    @rule()
    def step(self) -> None:
        self.perform(self.lane.step())

    @rule()
    def finish(self) -> None:
        if self.active is None:
            return
        run_id, self.active = self.active, None
        folded = self.lane.folded
        effects = self.lane.finished(RunId(run_id))
        how = "stopped" if run_id in self.told_to_stop else "completed"
        for ended in (run_id, *folded):
            self.end(ended, how)
            self.folded.discard(ended)
        self.perform(effects)

    @invariant()
    def nothing_is_lost(self) -> None:
        places = [*self.lane.queued, *self.lane.folded, *([self.lane.active] if self.lane.active else [])]
        assert len(places) == len(set(places))
        open_runs = set(self.accepted) - set(self.ended) - self.released
        assert set(places) <= open_runs
        assert len(open_runs) == len(places) + self.lane.waiting - len(self.lane.queued)
        assert self.lane.active == self.active

    @invariant()
    def an_idle_lane_has_no_queue_and_no_mark(self) -> None:
        if self.lane.active is None:
            assert self.lane.queued == []
        if self.lane.is_empty:
            assert self.lane.mark == 0


TestLanes = Lanes.TestCase
TestLanes.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
