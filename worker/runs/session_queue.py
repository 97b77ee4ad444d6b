"""Decide which prompt of a session runs next, and what a cancel covers.

A prompt is *accepted* when it gets its reservation, before its row is committed; from then on a cancel finds it. When
it *enters*, the queue decides: cancelled on entry, queued behind the active run, or started. At most one run of a
session is active. A cancel covers everything accepted before it and nothing after it: it stores the highest accept
sequence given out so far as a mark, and a reservation at or below the mark ends on entry.

At the start of each model step, queued prompts that need no turn of their own are merged into the active run and share
its end; the others wait for their turn. When the active run ends, in whatever way, the next one starts at once.

A worker that closes holds its queues: the active run is cancelled, no other starts, and what waits or still enters
stays accepted on disk, for the next worker.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from protocol.base.machine import Machine
from protocol.ids import RunId, SessionId


class QueueState(Enum):
    """The state of the whole queue: what its active run does."""

    IDLE = "idle"
    ACTIVE = "active"
    CANCELLING = "cancelling"
    HOLDING = "holding"  # the active run unwinds, and no other starts
    HELD = "held"


@dataclass(slots=True)
class AcceptCounter:
    """The accept sequence, shared by all queues of a workspace."""

    last: int = 0

    def next(self) -> int:
        """Return a number higher than all before."""
        self.last += 1
        return self.last


@dataclass(frozen=True, slots=True)
class Reservation:
    """A place in the queue. `has_own_turn`: the prompt is never merged into the turn of another one."""

    run_id: RunId
    sequence: int
    has_own_turn: bool = True


@dataclass(frozen=True, slots=True)
class Start:
    """Execute this run: it is the active one now."""

    run_id: RunId


@dataclass(frozen=True, slots=True)
class CancelOnEntry:
    """A cancel came before the run entered: store its prompt, a cancelled answer, and its end."""

    run_id: RunId


@dataclass(frozen=True, slots=True)
class Drop:
    """The run was taken from the queue before it had a turn: store its end, and no messages."""

    run_id: RunId


@dataclass(frozen=True, slots=True)
class Merge:
    """Add the prompt to the active turn as one more user message; its run shares the end of the active one."""

    run_id: RunId


@dataclass(frozen=True, slots=True)
class CancelActive:
    """Cancel the runner, once. The run stays active until it has unwound."""

    run_id: RunId


Effect = Start | CancelOnEntry | Drop | Merge | CancelActive


@dataclass(frozen=True, slots=True)
class PartitionedQueue:
    """A queue divided at the start of a step; each part keeps its order."""

    dropped: list[Reservation] = field(default_factory=list)
    merged: list[Reservation] = field(default_factory=list)
    kept: list[Reservation] = field(default_factory=list)


def is_covered(reservation: Reservation, mark: int) -> bool:
    """Return whether a cancel with this mark (0 for none) covers the reservation.

    Sequence 0 means untracked: any mark covers it.
    """
    return mark > 0 and reservation.sequence <= mark


def partition(queue: Sequence[Reservation], mark: int) -> PartitionedQueue:
    """Divide a queue at the start of a step: covered by a cancel, to be merged, or still waiting."""
    parts = PartitionedQueue()
    for reservation in queue:
        if is_covered(reservation, mark):
            parts.dropped.append(reservation)
        elif reservation.has_own_turn:
            parts.kept.append(reservation)
        else:
            parts.merged.append(reservation)
    return parts


class SessionQueue(Machine[QueueState]):
    """The prompts of one session. Every method decides at once and returns what has to be done as effects, in order."""

    table = {
        QueueState.IDLE: {"started": (QueueState.ACTIVE,), "held": (QueueState.HELD,)},
        QueueState.ACTIVE: {
            "cancelled": (QueueState.CANCELLING,),
            "finished": (QueueState.IDLE, QueueState.ACTIVE),
            "held": (QueueState.HOLDING,),
        },
        QueueState.CANCELLING: {
            "finished": (QueueState.IDLE, QueueState.ACTIVE),
            "held": (QueueState.HOLDING,),
        },
        QueueState.HOLDING: {"finished": (QueueState.HELD,)},
        QueueState.HELD: {},
    }

    def __init__(self, session_id: SessionId, counter: AcceptCounter | None = None) -> None:
        super().__init__(QueueState.IDLE)
        self.session_id = session_id
        self._counter = counter or AcceptCounter()
        self._reserved: dict[int, Reservation] = {}
        self._queue: list[Reservation] = []
        self._active: Reservation | None = None
        self._merged: list[RunId] = []
        self._mark = 0
        self._cancelled_by_id: set[int] = set()  # sequences of reservations that were cancelled by their run id

    # --- state ------------------------------------------------------------------------------------------------------

    @property
    def active(self) -> RunId | None:
        """The run that executes, or unwinds after a cancel."""
        return self._active.run_id if self._active else None

    @property
    def queued(self) -> list[RunId]:
        """The waiting runs, in the order in which they will start."""
        return [reservation.run_id for reservation in self._queue]

    @property
    def merged(self) -> list[RunId]:
        """The runs that share the end of the active one."""
        return list(self._merged)

    @property
    def waiting(self) -> int:
        """The number of reserved and queued runs; the active one does not count."""
        return len(self._reserved) + len(self._queue)

    @property
    def mark(self) -> int:
        """The cancel mark; 0 when no cancel is pending."""
        return self._mark

    @property
    def is_busy(self) -> bool:
        """Return whether a run is active."""
        return self._active is not None

    @property
    def held(self) -> list[RunId]:
        """The waiting runs that this worker will not start any more; empty while the queue is not held."""
        return self.queued if self.state in (QueueState.HOLDING, QueueState.HELD) else []

    @property
    def is_empty(self) -> bool:
        """Return whether nothing is active, queued or reserved, so that the queue may be forgotten."""
        return self._active is None and not self._queue and not self._reserved

    # --- facts ------------------------------------------------------------------------------------------------------

    def accept(self, run_id: RunId, *, has_own_turn: bool = True, sequence: int | None = None) -> Reservation:
        """Reserve a place. `sequence` is given for a run that was accepted by an earlier worker."""
        reservation = Reservation(run_id, self._counter.next() if sequence is None else sequence, has_own_turn)
        self._reserved[reservation.sequence] = reservation
        return reservation

    def release(self, reservation: Reservation) -> None:
        """Give the place back without entering; a second call changes nothing."""
        self._reserved.pop(reservation.sequence, None)
        self._cancelled_by_id.discard(reservation.sequence)
        if not self._reserved:
            self._mark = 0  # a mark is compared, never used up; without reservations there is nothing it could cover

    def enter(self, reservation: Reservation) -> list[Effect]:
        """The run is stored: end, queue or start it. A reservation that was released or has entered does nothing."""
        if reservation.sequence not in self._reserved:
            return []
        is_cancelled = is_covered(reservation, self._mark) or reservation.sequence in self._cancelled_by_id
        self.release(reservation)
        if is_cancelled:  # before the question whether the session is busy: a covered run is never queued
            return [CancelOnEntry(reservation.run_id)]
        if self._active is not None or self.state is QueueState.HELD:
            self._queue.append(reservation)
            return []
        return self._start(reservation, "started")

    def cancel(self) -> list[Effect]:
        """Cancel everything accepted so far. An idle queue has no effects and keeps no mark."""
        if self._reserved:
            self._mark = max(self._mark, self._counter.last)
        return [*self._cancel_active(), *self.clear()]

    def hold(self) -> list[Effect]:
        """Cancel the active run, and start no other: what waits or enters later stays as it is. For ever."""
        match self.state:
            case QueueState.IDLE:
                return self._move("held", QueueState.HELD)
            case QueueState.ACTIVE:
                assert self._active is not None
                return self._move("held", QueueState.HOLDING, [CancelActive(self._active.run_id)])
            case QueueState.CANCELLING:
                return self._move("held", QueueState.HOLDING)
            case QueueState.HOLDING | QueueState.HELD:
                return []

    def cancel_run(self, run_id: RunId) -> list[Effect]:
        """Cancel this run only. A merged run is part of another turn and continues with it."""
        if self._active is not None and self._active.run_id == run_id:
            return self._cancel_active()
        for reservation in self._queue:
            if reservation.run_id == run_id:
                self._queue.remove(reservation)
                return [Drop(run_id)]
        for reservation in self._reserved.values():
            if reservation.run_id == run_id:
                self._cancelled_by_id.add(reservation.sequence)
        return []

    def clear(self) -> list[Effect]:
        """Drop the queued runs; the active run and the mark stay."""
        dropped, self._queue = self._queue, []
        return [Drop(reservation.run_id) for reservation in dropped]

    def step(self) -> list[Effect]:
        """The active run begins a model step: merge the queued prompts that need no turn of their own."""
        if self.state is not QueueState.ACTIVE:
            return []  # a prompt that was accepted after the cancel must not end with this turn
        parts = partition(self._queue, self._mark)
        self._queue = parts.kept
        self._merged += [reservation.run_id for reservation in parts.merged]
        drops: list[Effect] = [Drop(reservation.run_id) for reservation in parts.dropped]
        return drops + [Merge(reservation.run_id) for reservation in parts.merged]

    def finished(self, run_id: RunId) -> list[Effect]:
        """The active run has ended, in whatever way: start the next. Raises InvalidTransition for another run."""
        if self._active is None or self._active.run_id != run_id:
            return self._move(f"finished {run_id}, which is not active", QueueState.IDLE)
        self._active, self._merged = None, []
        parts = partition(self._queue, self._mark)
        drops: list[Effect] = [Drop(reservation.run_id) for reservation in parts.dropped]
        self._queue = [reservation for reservation in self._queue if reservation not in parts.dropped]
        if self.state is QueueState.HOLDING:
            return self._move("finished", QueueState.HELD, drops)
        if not self._queue:
            return self._move("finished", QueueState.IDLE, drops)
        return drops + self._start(self._queue.pop(0), "finished")

    def _start(self, reservation: Reservation, fact: str) -> list[Effect]:
        self._active = reservation
        return self._move(fact, QueueState.ACTIVE, [Start(reservation.run_id)])

    def _cancel_active(self) -> list[Effect]:
        if self._active is None or self.state is not QueueState.ACTIVE:
            return []  # a second cancel adds nothing for the active run
        return self._move("cancelled", QueueState.CANCELLING, [CancelActive(self._active.run_id)])
