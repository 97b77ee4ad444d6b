"""Decide when the process of the local model is started, killed, restarted or given up.

Takes facts, returns effects. A request that arrives without a process waits in the backlog of the listening socket.
Spawn is only returned from LISTENING, which is only entered when no process is left.
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
    """Send SIGKILL; `reason` is for the log."""

    reason: str


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Call `elapsed` at this time; None cancels the timer."""

    at: float | None


@dataclass(frozen=True, slots=True)
class WatchListener:
    """Call `requested` when the next connection arrives."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer requests with 503 and this reason, because none will be served soon."""

    reason: str


Effect = Spawn | Kill | WakeAt | WatchListener | Refuse


class LocalModelLifecycle(Machine[LocalModelState]):
    """State machine of at most one process, started by the first request. Times are monotonic seconds."""

    table = {
        LocalModelState.LISTENING: {
            "previous_found": (LocalModelState.LEAVING,),
            "requested": (LocalModelState.STARTING,),
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
        self.reason = ""  # of the last unexpected end, "" while the model is healthy
        self._limits = limits
        self._policy = RestartPolicy(limits)
        self._is_closed = False
        self._is_previous = False  # the process belongs to the previous supervisor

    def previous_found(self, now: float) -> list[Effect]:
        """Wait for the end of the previous supervisor's process, which is finishing; start none before that."""
        self._is_previous = True
        return self._move("previous_found", LocalModelState.LEAVING, [WakeAt(now + self._limits.local_model_leave_s)])

    def requested(self, now: float) -> list[Effect]:
        """Start the process: a request is waiting in the backlog."""
        if self.state is not LocalModelState.LISTENING:
            return []  # the running process serves it, or it is refused
        deadline = now + self._limits.local_model_start_s
        return self._move("requested", LocalModelState.STARTING, [WakeAt(deadline), Spawn()])

    def became_ready(self, now: float) -> list[Effect]:
        """Record that the model is loaded and requests are served."""
        if self.state is not LocalModelState.STARTING:
            return []  # given up in the meantime
        self.reason = ""
        self._policy.became_ready(now)
        return self._move("became_ready", LocalModelState.SERVING, [WakeAt(None)])

    def beat_lost(self, now: float) -> list[Effect]:
        """Kill the process: it sent no heartbeat for too long."""
        if self.state is not LocalModelState.SERVING:
            return []
        return self._kill("beat_lost", "hung", now)

    def elapsed(self, now: float) -> list[Effect]:
        """Handle the time that the last WakeAt named."""
        match self.state:
            case LocalModelState.STARTING:
                return self._kill("elapsed", f"not ready within {self._limits.local_model_start_s:g} s", now)
            case LocalModelState.LEAVING:
                return self._kill("elapsed", "did not exit after its supervisor", now)
            case LocalModelState.KILLING:
                return self._kill("elapsed", self.reason, now)
            case LocalModelState.BACKOFF:
                return self._move("elapsed", LocalModelState.LISTENING, [WakeAt(None), WatchListener()])
            case LocalModelState.FAILED:
                self._policy.clear()
                return self._move("elapsed", LocalModelState.LISTENING, [WakeAt(None), WatchListener()])
            case LocalModelState.LISTENING | LocalModelState.SERVING | LocalModelState.OVER:
                return []  # the timer fired too late

    def not_started(self, reason: str, now: float) -> list[Effect]:
        """Handle that no process could be started."""
        if self.state is not LocalModelState.STARTING:
            return self.exited(reason, now)
        return self._after_failure("not_started", reason, now)

    def exited(self, cause: str, now: float) -> list[Effect]:
        """Handle the end of the process. `cause` is "" for a regular exit, after it was idle for long enough."""
        if self._is_closed:
            return self._move("exited", LocalModelState.OVER, [WakeAt(None)])
        if self._is_previous or (not cause and self.state is LocalModelState.SERVING):
            self._is_previous = False
            return self._move("exited", LocalModelState.LISTENING, [WakeAt(None), WatchListener()])
        if self.state is LocalModelState.KILLING:
            cause = self.reason  # why it was killed, instead of "signal 9"
        return self._after_failure("exited", cause or "ended before it was ready", now)

    def close(self, now: float) -> list[Effect]:
        """End the process and start no other: the supervisor shuts down."""
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

    def _after_failure(self, fact: str, cause: str, now: float) -> list[Effect]:
        match self._policy.after(cause, now):
            case Again(delay_s):
                self.reason = cause
                return self._move(fact, LocalModelState.BACKOFF, [WakeAt(now + delay_s)])
            case stop:
                self.reason = stop.reason
                pause_s = self._limits.restart_period_s
                return self._move(fact, LocalModelState.FAILED, [Refuse(stop.reason), WakeAt(now + pause_s)])
