"""The life of the process that serves the local model: nobody there, starting, serving, ended, held back.

Facts in, effects out. Requests wait in the backlog of the listening socket, so who asks while nobody serves has lost
nothing. Spawn is only returned from LISTENING, which is entered when no process is left.
"""

from dataclasses import dataclass
from enum import Enum

from protocol.base.machine import Machine
from protocol.limits import Limits
from supervisor.workers.restart import Again, RestartPolicy


class State(Enum):
    """LISTENING, BACKOFF, FAILED and OVER have no process."""

    LISTENING = "listening"
    STARTING = "starting"
    SERVING = "serving"
    KILLING = "killing"
    LEAVING = "leaving"
    BACKOFF = "backoff"
    FAILED = "failed"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a process."""


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL, and say why."""

    reason: str


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Call `elapsed` at this time; None: no more."""

    at: float | None


@dataclass(frozen=True, slots=True)
class Attend:
    """Tell of the next request that arrives."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer requests with this reason, for none will be served soon."""

    reason: str


Effect = Spawn | Kill | WakeAt | Attend | Refuse


class LocalModelLifecycle(Machine[State]):
    """One process at most, started by a request. Times are monotonic seconds."""

    table = {
        State.LISTENING: {"found": (State.LEAVING,), "asked": (State.STARTING,), "closed": (State.OVER,)},
        State.STARTING: {
            "became_ready": (State.SERVING,),
            "elapsed": (State.KILLING,),
            "exited": (State.LISTENING, State.BACKOFF, State.FAILED),
            "not_started": (State.BACKOFF, State.FAILED),
            "closed": (State.KILLING,),
        },
        State.SERVING: {
            "beat_lost": (State.KILLING,),
            "exited": (State.LISTENING, State.BACKOFF, State.FAILED),
            "closed": (State.KILLING,),
        },
        State.KILLING: {
            "elapsed": (State.KILLING,),
            "exited": (State.LISTENING, State.BACKOFF, State.FAILED, State.OVER),
        },
        State.LEAVING: {"elapsed": (State.KILLING,), "exited": (State.LISTENING,), "closed": (State.KILLING,)},
        State.BACKOFF: {"elapsed": (State.LISTENING,), "closed": (State.OVER,)},
        State.FAILED: {"elapsed": (State.LISTENING,), "closed": (State.OVER,)},
        State.OVER: {},
    }

    def __init__(self, limits: Limits) -> None:
        super().__init__(State.LISTENING)
        self.reason = ""  # of the last end that nobody wanted, "" when all is well
        self._limits = limits
        self._policy = RestartPolicy(limits)
        self._is_closed = False
        self._is_former = False  # the process is that of a former supervisor

    def found(self, now: float) -> list[Effect]:
        """A process of a former supervisor lives. It was told to finish; until it has, none is started."""
        self._is_former = True
        return self._move("found", State.LEAVING, [WakeAt(now + self._limits.local_model_leave_s)])

    def asked(self, now: float) -> list[Effect]:
        """A request waits."""
        if self.state is not State.LISTENING:
            return []  # it is served by who is there, or refused
        return self._move("asked", State.STARTING, [WakeAt(now + self._limits.local_model_start_s), Spawn()])

    def became_ready(self, now: float) -> list[Effect]:
        """The model is loaded, requests are taken."""
        if self.state is not State.STARTING:
            return []  # given up meanwhile
        self.reason = ""
        self._policy.became_ready(now)
        return self._move("became_ready", State.SERVING, [WakeAt(None)])

    def beat_lost(self, now: float) -> list[Effect]:
        """Nothing was heard of it for too long."""
        if self.state is not State.SERVING:
            return []
        return self._kill("beat_lost", "hung", now)

    def elapsed(self, now: float) -> list[Effect]:
        """The time that WakeAt named has come."""
        match self.state:
            case State.STARTING:
                return self._kill("elapsed", f"not ready within {self._limits.local_model_start_s:g} s", now)
            case State.LEAVING:
                return self._kill("elapsed", "did not leave with its supervisor", now)
            case State.KILLING:
                return self._kill("elapsed", self.reason, now)
            case State.BACKOFF:
                return self._move("elapsed", State.LISTENING, [WakeAt(None), Attend()])
            case State.FAILED:
                self._policy.clear()
                return self._move("elapsed", State.LISTENING, [WakeAt(None), Attend()])
            case State.LISTENING | State.SERVING | State.OVER:
                return []  # the timer lost the race

    def not_started(self, reason: str, now: float) -> list[Effect]:
        """No process could be made."""
        if self.state is not State.STARTING:
            return self.exited(reason, now)
        return self._after_death("not_started", reason, now)

    def exited(self, cause: str, now: float) -> list[Effect]:
        """The process is gone. `cause` is "" when it left in order: nobody had asked it for anything for long."""
        if self._is_closed:
            return self._move("exited", State.OVER, [WakeAt(None)])
        if self._is_former or (not cause and self.state is State.SERVING):
            self._is_former = False
            return self._move("exited", State.LISTENING, [WakeAt(None), Attend()])
        if self.state is State.KILLING:
            cause = self.reason  # not "signal 9": that was us
        return self._after_death("exited", cause or "ended before it was ready", now)

    def close(self, now: float) -> list[Effect]:
        """The supervisor shuts down: end what is there, start no more."""
        self._is_closed = True
        match self.state:
            case State.STARTING | State.SERVING | State.LEAVING:
                return self._kill("closed", "shutdown", now)
            case State.LISTENING | State.BACKOFF | State.FAILED:
                return self._move("closed", State.OVER, [WakeAt(None)])
            case State.KILLING | State.OVER:
                return []

    def _kill(self, fact: str, reason: str, now: float) -> list[Effect]:
        self.reason = reason
        return self._move(fact, State.KILLING, [Kill(reason), WakeAt(now + self._limits.kill_deadline_s)])

    def _after_death(self, fact: str, cause: str, now: float) -> list[Effect]:
        match self._policy.after(cause, now):
            case Again(delay_s):
                self.reason = cause
                return self._move(fact, State.BACKOFF, [WakeAt(now + delay_s)])
            case stop:
                self.reason = stop.reason
                pause_s = self._limits.restart_period_s
                return self._move(fact, State.FAILED, [Refuse(stop.reason), WakeAt(now + pause_s)])
