"""The state machine of a worker's shutdown: refuse, cancel, wait, flush, leave; each stage has a deadline (P9).

Only runs that have begun are cancelled. What waits stays accepted for the next worker, unless the request says that it
is cancelled too.

`worker/shutdown.py` performs the effects and reports the facts, `overdue` when the deadline of the current stage has
passed. The budgets travel in the `Shutdown` message, so the supervisor uses the same ones.
"""

from dataclasses import dataclass
from enum import Enum

from protocol.base.machine import Machine


class Phase(Enum):
    """The stage of the shutdown."""

    OPEN = "open"
    CLOSING = "closing"
    DRAINING = "draining"
    FLUSHING = "flushing"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Refuse:
    """Accept no more prompts."""


@dataclass(frozen=True, slots=True)
class CancelAll:
    """Cancel every run, queued ones included."""


@dataclass(frozen=True, slots=True)
class CancelStarted:
    """Cancel the runs that have begun, and start no other."""


@dataclass(frozen=True, slots=True)
class AwaitRuns:
    """Wait until every cancelled run has ended, at the latest until `deadline`."""

    deadline: float


@dataclass(frozen=True, slots=True)
class Flush:
    """Store and send everything that is still in memory, at the latest until `deadline`."""

    deadline: float


@dataclass(frozen=True, slots=True)
class Leave:
    """Send the last word and exit. `in_time`: no stage overran its budget."""

    in_time: bool


Effect = Refuse | CancelAll | CancelStarted | AwaitRuns | Flush | Leave


class Drain(Machine[Phase]):
    """One shutdown. A second request during it changes nothing (S08)."""

    table = {
        Phase.OPEN: {"shutdown": (Phase.CLOSING,)},
        Phase.CLOSING: {"cancelled": (Phase.DRAINING,), "overdue": (Phase.FLUSHING,)},
        Phase.DRAINING: {"drained": (Phase.FLUSHING,), "overdue": (Phase.FLUSHING,)},
        Phase.FLUSHING: {"flushed": (Phase.CLOSED,), "overdue": (Phase.CLOSED,)},
        Phase.CLOSED: {},
    }

    def __init__(self) -> None:
        super().__init__(Phase.OPEN)
        self.reason = ""
        self.cancels_queued = False
        self._flush_s = 0.0
        self._deadline = 0.0
        self._in_time = True

    @property
    def is_open(self) -> bool:
        """Whether prompts may be accepted."""
        return self.state is Phase.OPEN

    def shutdown(
        self, reason: str, *, drain_s: float, flush_s: float, now: float, cancel_queued: bool = False
    ) -> list[Effect]:
        """Begin the shutdown. Ignored when it has begun already."""
        if self.state is not Phase.OPEN:
            return []
        self.reason, self._flush_s = reason, flush_s
        self.cancels_queued = cancel_queued
        self._deadline = now + drain_s
        effects: list[Effect] = [Refuse(), CancelAll() if cancel_queued else CancelStarted()]
        return self._move("shutdown", Phase.CLOSING, effects)

    def cancelled(self, now: float) -> list[Effect]:
        """The runs were cancelled, though they may not have ended."""
        return self._move("cancelled", Phase.DRAINING, [AwaitRuns(self._deadline)])

    def drained(self, now: float) -> list[Effect]:
        """Every cancelled run has ended."""
        return self._move("drained", Phase.FLUSHING, [Flush(now + self._flush_s)])

    def flushed(self, now: float) -> list[Effect]:
        """Everything is stored, and sent if a supervisor is connected."""
        return self._move("flushed", Phase.CLOSED, [Leave(self._in_time)])

    def overdue(self, now: float) -> list[Effect]:
        """The deadline of this stage has passed: continue with the next one."""
        if self.state is Phase.CLOSED:
            return []  # the timer came too late
        self._in_time = False
        if self.state is Phase.FLUSHING:
            return self._move("overdue", Phase.CLOSED, [Leave(False)])
        return self._move("overdue", Phase.FLUSHING, [Flush(now + self._flush_s)])
