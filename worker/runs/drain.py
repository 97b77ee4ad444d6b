"""The shutdown of a worker: refuse, cancel, wait, flush, leave; each stage has a deadline (P9).

Facts come from whoever runs the shutdown; `overdue` is told when the deadline of the present stage has passed. The
budgets travel in the `Shutdown` message, so the supervisor counts the same ones.
"""

from dataclasses import dataclass
from enum import Enum

from protocol.base.machine import Machine


class Phase(Enum):
    """How far the shutdown is."""

    OPEN = "open"
    CLOSING = "closing"
    DRAINING = "draining"
    FLUSHING = "flushing"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Refuse:
    """From now on no prompt is accepted."""


@dataclass(frozen=True, slots=True)
class CancelAll:
    """Cancel every run, queued ones included."""


@dataclass(frozen=True, slots=True)
class AwaitRuns:
    """Wait until every run has ended, at the latest until `deadline`."""

    deadline: float


@dataclass(frozen=True, slots=True)
class Flush:
    """Bring everything that is not stored or sent on its way, at the latest until `deadline`."""

    deadline: float


@dataclass(frozen=True, slots=True)
class Leave:
    """Say the last word and exit. `in_time`: no stage overran its budget."""

    in_time: bool


Effect = Refuse | CancelAll | AwaitRuns | Flush | Leave


class Drain(Machine[Phase]):
    """One shutdown. A second request while it goes on changes nothing, so that asking thrice is never worse (S08)."""

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
        self._flush_s = 0.0
        self._deadline = 0.0
        self._in_time = True

    @property
    def is_open(self) -> bool:
        """May prompts be accepted?"""
        return self.state is Phase.OPEN

    def shutdown(self, reason: str, *, drain_s: float, flush_s: float, now: float) -> list[Effect]:
        """Begin. Ignored when it has begun already."""
        if self.state is not Phase.OPEN:
            return []
        self.reason, self._flush_s = reason, flush_s
        self._deadline = now + drain_s
        return self._move("shutdown", Phase.CLOSING, [Refuse(), CancelAll()])

    def cancelled(self, now: float) -> list[Effect]:
        """Every run was told."""
        return self._move("cancelled", Phase.DRAINING, [AwaitRuns(self._deadline)])

    def drained(self, now: float) -> list[Effect]:
        """Every run has ended."""
        return self._move("drained", Phase.FLUSHING, [Flush(now + self._flush_s)])

    def flushed(self, now: float) -> list[Effect]:
        """All is stored, and sent as far as somebody listens."""
        return self._move("flushed", Phase.CLOSED, [Leave(self._in_time)])

    def overdue(self, now: float) -> list[Effect]:
        """The deadline of this stage has passed: go on without what is missing."""
        if self.state is Phase.CLOSED:
            return []  # the timer lost the race
        self._in_time = False
        if self.state is Phase.FLUSHING:
            return self._move("overdue", Phase.CLOSED, [Leave(False)])
        return self._move("overdue", Phase.FLUSHING, [Flush(now + self._flush_s)])
