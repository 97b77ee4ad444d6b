"""The life of the process that serves the local model: nobody there, starting, serving, ended, held back.

Facts in, effects out. Requests wait in the backlog of the listening socket, so who asks while nobody serves has lost
nothing. Spawn is only returned from LISTENING, which is entered when no process is left.
"""

from dataclasses import dataclass
from enum import Enum

from protocol.base.machine import Machine
from protocol.limits import Limits
from supervisor.workers.restart import Again, RestartPolicy


class LocalModelState(Enum):
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
class WatchListener:
    """Tell of the next request that arrives."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer requests with this reason, for none will be served soon."""

    reason: str


Effect = Spawn | Kill | WakeAt | WatchListener | Refuse


class LocalModelLifecycle(Machine[LocalModelState]):
    """One process at most, started by a request. Times are monotonic seconds."""

    table = {
        LocalModelState.LISTENING: {
            "found": (LocalModelState.LEAVING,),
            "asked": (LocalModelState.STARTING,),
            "closed": (LocalModelState.OVER,),
        },
        LocalModelState.STARTING: {
            "became_ready": (LocalModelState.SERVING,),
            "elapsed": (LocalModelState.KILLING,),
            "exited": (LocalModelState.LISTENING, LocalModelState.BACKOFF, LocalModelState.FAILED),
            "not_started": (LocalModelState.BACKOFF, LocalModelState.FAILED),
            "closed": (LocalModelState.KILLING,),
        },
        LocalModelState.SERVING: {
            "beat_lost": (LocalModelState.KILLING,),
            "exited": (LocalModelState.LISTENING, LocalModelState.BACKOFF, LocalModelState.FAILED),
            "closed": (LocalModelState.KILLING,),
        },
        LocalModelState.KILLING: {
            "elapsed": (LocalModelState.KILLING,),
            "exited": (
                LocalModelState.LISTENING,
                LocalModelState.BACKOFF,
                LocalModelState.FAILED,
                LocalModelState.OVER,
            ),
        },
        LocalModelState.LEAVING: {
            "elapsed": (LocalModelState.KILLING,),
            "exited": (LocalModelState.LISTENING,),
            "closed": (LocalModelState.KILLING,),
        },
        LocalModelState.BACKOFF: {"elapsed": (LocalModelState.LISTENING,), "closed": (LocalModelState.OVER,)},
        LocalModelState.FAILED: {"elapsed": (LocalModelState.LISTENING,), "closed": (LocalModelState.OVER,)},
        LocalModelState.OVER: {},
    }

    def __init__(self, limits: Limits) -> None:
        super().__init__(LocalModelState.LISTENING)
        self.reason = ""  # of the last end that nobody wanted, "" when all is well
        self._limits = limits
        self._policy = RestartPolicy(limits)
        self._is_closed = False
        self._is_former = False  # the process is that of a former supervisor

    def found(self, now: float) -> list[Effect]:
        """A process of a former supervisor lives. It was told to finish; until it has, none is started."""
        self._is_former = True
        return self._move("found", LocalModelState.LEAVING, [WakeAt(now + self._limits.local_model_leave_s)])

    def asked(self, now: float) -> list[Effect]:
        """A request waits."""
        if self.state is not LocalModelState.LISTENING:
            return []  # it is served by who is there, or refused
        return self._move("asked", LocalModelState.STARTING, [WakeAt(now + self._limits.local_model_start_s), Spawn()])

    def became_ready(self, now: float) -> list[Effect]:
        """The model is loaded, requests are taken."""
        if self.state is not LocalModelState.STARTING:
            return []  # given up meanwhile
        self.reason = ""
        self._policy.became_ready(now)
        return self._move("became_ready", LocalModelState.SERVING, [WakeAt(None)])

    def beat_lost(self, now: float) -> list[Effect]:
        """Nothing was heard of it for too long."""
        if self.state is not LocalModelState.SERVING:
            return []
        return self._kill("beat_lost", "hung", now)

    def elapsed(self, now: float) -> list[Effect]:
        """The time that WakeAt named has come."""
        match self.state:
            case LocalModelState.STARTING:
                return self._kill("elapsed", f"not ready within {self._limits.local_model_start_s:g} s", now)
            case LocalModelState.LEAVING:
                return self._kill("elapsed", "did not leave with its supervisor", now)
            case LocalModelState.KILLING:
                return self._kill("elapsed", self.reason, now)
            case LocalModelState.BACKOFF:
                return self._move("elapsed", LocalModelState.LISTENING, [WakeAt(None), WatchListener()])
            case LocalModelState.FAILED:
                self._policy.clear()
                return self._move("elapsed", LocalModelState.LISTENING, [WakeAt(None), WatchListener()])
            case LocalModelState.LISTENING | LocalModelState.SERVING | LocalModelState.OVER:
                return []  # the timer lost the race

    def not_started(self, reason: str, now: float) -> list[Effect]:
        """No process could be made."""
        if self.state is not LocalModelState.STARTING:
            return self.exited(reason, now)
        return self._after_death("not_started", reason, now)

    def exited(self, cause: str, now: float) -> list[Effect]:
        """The process is gone. `cause` is "" when it left in order: nobody had asked it for anything for long."""
        if self._is_closed:
            return self._move("exited", LocalModelState.OVER, [WakeAt(None)])
        if self._is_former or (not cause and self.state is LocalModelState.SERVING):
            self._is_former = False
            return self._move("exited", LocalModelState.LISTENING, [WakeAt(None), WatchListener()])
        if self.state is LocalModelState.KILLING:
            cause = self.reason  # not "signal 9": that was us
        return self._after_death("exited", cause or "ended before it was ready", now)

    def close(self, now: float) -> list[Effect]:
        """The supervisor shuts down: end what is there, start no more."""
        self._is_closed = True
        match self.state:
            case LocalModelState.STARTING | LocalModelState.SERVING | LocalModelState.LEAVING:
                return self._kill("closed", "shutdown", now)
            case LocalModelState.LISTENING | LocalModelState.BACKOFF | LocalModelState.FAILED:
                return self._move("closed", LocalModelState.OVER, [WakeAt(None)])
            case LocalModelState.KILLING | LocalModelState.OVER:
                return []

    def _kill(self, fact: str, reason: str, now: float) -> list[Effect]:
        self.reason = reason
        return self._move(fact, LocalModelState.KILLING, [Kill(reason), WakeAt(now + self._limits.kill_deadline_s)])

    def _after_death(self, fact: str, cause: str, now: float) -> list[Effect]:
        match self._policy.after(cause, now):
            case Again(delay_s):
                self.reason = cause
                return self._move(fact, LocalModelState.BACKOFF, [WakeAt(now + delay_s)])
            case stop:
                self.reason = stop.reason
                pause_s = self._limits.restart_period_s
                return self._move(fact, LocalModelState.FAILED, [Refuse(stop.reason), WakeAt(now + pause_s)])
