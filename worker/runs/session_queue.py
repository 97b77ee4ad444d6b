"""The prompts of one session in line.

A prompt is *accepted* when its place is reserved, before its row is committed; from then on a cancel finds it. When
it *enters*, the lane decides: cancelled on entry, queued behind the active run, or started. At most one run of a
session is active. A cancel covers everything accepted before it and nothing after: it stores the highest accept
sequence given out as a mark, and what is at or below the mark ends on entry.

At the start of each model step, queued prompts whose run id the client did not choose are folded into the active run
and share its end; the others wait for a turn of their own. When the active run ends, in whatever way, the next one
starts at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from protocol.base.machine import Machine
from protocol.ids import RunId, SessionId


class State(Enum):
    """Of the lane, not of one run: what the active run does."""

    IDLE = "idle"
    ACTIVE = "active"
    CANCELLING = "cancelling"


class Outcome(Enum):
    """How a run ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


@dataclass(slots=True)
class Counter:
    """The accept sequence, one for all lanes of a workspace."""

    last: int = 0

    def next(self) -> int:
        """A number higher than all before."""
        self.last += 1
        return self.last


@dataclass(frozen=True, slots=True)
class Ticket:
    """A reserved place. `keyed`: the client chose the run id, so the prompt is never folded."""

    run_id: RunId
    sequence: int
    keyed: bool = True


@dataclass(frozen=True, slots=True)
class Start:
    """The run is the active one now: execute it."""

    run_id: RunId


@dataclass(frozen=True, slots=True)
class End:
    """Cancelled on entry: store its prompt and a cancelled answer, and its end."""

    run_id: RunId
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Drop:
    """Taken from the queue before it had a turn: store its end, and no messages."""

    run_id: RunId


@dataclass(frozen=True, slots=True)
class Fold:
    """The prompt goes into the running turn as one more user message and shares its end."""

    run_id: RunId
    into: RunId


@dataclass(frozen=True, slots=True)
class CancelActive:
    """Tell the runner, once. The run stays active until it has unwound."""

    run_id: RunId


Effect = Start | End | Drop | Fold | CancelActive


@dataclass(frozen=True, slots=True)
class Parted:
    """A queue divided at the start of a step; each part keeps its order."""

    dropped: list[Ticket] = field(default_factory=list)
    folded: list[Ticket] = field(default_factory=list)
    kept: list[Ticket] = field(default_factory=list)


def is_covered(ticket: Ticket, mark: int) -> bool:
    """Does a cancel with this mark (0 for none) cover the ticket? Sequence 0 means untracked: any mark covers it."""
    return mark > 0 and ticket.sequence <= mark


def part(queue: Sequence[Ticket], mark: int) -> Parted:
    """Divide a queue at the start of a step: what a cancel covers, what is folded, what waits on."""
    parted = Parted()
    for ticket in queue:
        if is_covered(ticket, mark):
            parted.dropped.append(ticket)
        elif ticket.keyed:
            parted.kept.append(ticket)
        else:
            parted.folded.append(ticket)
    return parted


class Lane(Machine[State]):
    """One session's prompts. Every method decides at once; what has to be done comes back as effects, in order."""

    table = {
        State.IDLE: {"started": (State.ACTIVE,)},
        State.ACTIVE: {"cancelled": (State.CANCELLING,), "finished": (State.IDLE, State.ACTIVE)},
        State.CANCELLING: {"finished": (State.IDLE, State.ACTIVE)},
    }

    def __init__(self, session_id: SessionId, counter: Counter | None = None) -> None:
        super().__init__(State.IDLE)
        self.session_id = session_id
        self._counter = counter or Counter()
        self._reserved: dict[int, Ticket] = {}
        self._queue: list[Ticket] = []
        self._active: Ticket | None = None
        self._folded: list[RunId] = []
        self._mark = 0
        self._named: set[int] = set()  # reservations cancelled by their run id

    # --- questions --------------------------------------------------------------------------------------------------

    @property
    def active(self) -> RunId | None:
        """The run that executes, or unwinds after a cancel."""
        return self._active.run_id if self._active else None

    @property
    def queued(self) -> list[RunId]:
        """The waiting runs, in the order in which they will start."""
        return [ticket.run_id for ticket in self._queue]

    @property
    def folded(self) -> list[RunId]:
        """The runs that share the end of the active one."""
        return list(self._folded)

    @property
    def waiting(self) -> int:
        """Places taken that are not active: reserved and queued."""
        return len(self._reserved) + len(self._queue)

    @property
    def mark(self) -> int:
        """The cancel mark; 0 when no cancel is pending."""
        return self._mark

    @property
    def is_busy(self) -> bool:
        """Is a run active?"""
        return self._active is not None

    @property
    def is_empty(self) -> bool:
        """Nothing active, queued or reserved: the lane may be forgotten."""
        return self._active is None and not self._queue and not self._reserved

    # --- facts ------------------------------------------------------------------------------------------------------

    def accept(self, run_id: RunId, *, keyed: bool = True, sequence: int | None = None) -> Ticket:
        """Reserve a place. `sequence` is given for a run that was accepted by an earlier worker."""
        ticket = Ticket(run_id, self._counter.next() if sequence is None else sequence, keyed)
        self._reserved[ticket.sequence] = ticket
        return ticket

    def release(self, ticket: Ticket) -> None:
        """Give the place back without entering; doing so twice changes nothing."""
        self._reserved.pop(ticket.sequence, None)
        self._named.discard(ticket.sequence)
        if not self._reserved:
            self._mark = 0  # a mark is compared, never used up; it goes when nobody is left whom it could cover

    def enter(self, ticket: Ticket) -> list[Effect]:
        """The run is stored: end, queue or start it. A ticket that was released or has entered does nothing."""
        if ticket.sequence not in self._reserved:
            return []
        covered = is_covered(ticket, self._mark) or ticket.sequence in self._named
        self.release(ticket)
        if covered:  # before the question whether the session is busy: a covered run is never queued
            return [End(ticket.run_id, Outcome.CANCELLED)]
        if self._active is not None:
            self._queue.append(ticket)
            return []
        return self._start(ticket, "started")

    def cancel(self) -> list[Effect]:
        """Cancel everything accepted so far. Idle: no effect and no trace."""
        if self._reserved:
            self._mark = max(self._mark, self._counter.last)
        return [*self._cancel_active(), *self.clear()]

    def cancel_run(self, run_id: RunId) -> list[Effect]:
        """Cancel this run only. A folded run is part of another turn by now and goes on with it."""
        if self._active is not None and self._active.run_id == run_id:
            return self._cancel_active()
        for ticket in self._queue:
            if ticket.run_id == run_id:
                self._queue.remove(ticket)
                return [Drop(run_id)]
        for ticket in self._reserved.values():
            if ticket.run_id == run_id:
                self._named.add(ticket.sequence)
        return []

    def clear(self) -> list[Effect]:
        """Drop what waits; the active run and the mark stay."""
        dropped, self._queue = self._queue, []
        return [Drop(ticket.run_id) for ticket in dropped]

    def step(self) -> list[Effect]:
        """The active run begins a model step: fold what may be folded into it."""
        if self._active is None or self.state is State.CANCELLING:
            return []  # what was accepted after the cancel must not go down with the turn
        parted = part(self._queue, self._mark)
        self._queue = parted.kept
        self._folded += [ticket.run_id for ticket in parted.folded]
        drops: list[Effect] = [Drop(ticket.run_id) for ticket in parted.dropped]
        return drops + [Fold(ticket.run_id, self._active.run_id) for ticket in parted.folded]

    def finished(self, run_id: RunId) -> list[Effect]:
        """The active run has ended, in whatever way: the next one starts. Raises InvalidTransition for another run."""
        if self._active is None or self._active.run_id != run_id:
            return self._move(f"finished {run_id}, which is not active", State.IDLE)
        self._active, self._folded = None, []
        parted = part(self._queue, self._mark)
        drops: list[Effect] = [Drop(ticket.run_id) for ticket in parted.dropped]
        self._queue = [ticket for ticket in self._queue if ticket not in parted.dropped]
        if not self._queue:
            return self._move("finished", State.IDLE, drops)
        return drops + self._start(self._queue.pop(0), "finished")

    def _start(self, ticket: Ticket, fact: str) -> list[Effect]:
        self._active = ticket
        return self._move(fact, State.ACTIVE, [Start(ticket.run_id)])

    def _cancel_active(self) -> list[Effect]:
        if self._active is None or self.state is State.CANCELLING:
            return []  # a second cancel adds nothing for the active run
        return self._move("cancelled", State.CANCELLING, [CancelActive(self._active.run_id)])
