"""Decide over the life of one worker: asleep, starting, ready, closing, killing, backoff, failed; wanted or not.

Methods take facts and return effects. There is at most one process: Spawn is returned only in states without one, and
these are entered only by `exited` and `not_started`.
"""

from dataclasses import dataclass
from enum import Enum

from protocol.base.machine import Machine
from protocol.limits import Limits
from supervisor.workers.restart import Again, RestartPolicy, Stop


class WorkerState(Enum):
    """The state of the process. In ASLEEP, BACKOFF and FAILED there is none."""

    ASLEEP = "asleep"
    STARTING = "starting"
    READY = "ready"
    CLOSING = "closing"
    KILLING = "killing"
    BACKOFF = "backoff"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a process."""


@dataclass(frozen=True, slots=True)
class SendShutdown:
    """Request an orderly end of the process."""

    reason: str


@dataclass(frozen=True, slots=True)
class Kill:
    """Send SIGKILL. With `dump`, let the process write its stacks first: it may be stuck."""

    reason: str
    dump: bool = False


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Call `elapsed` at this time; None cancels."""

    at: float | None


@dataclass(frozen=True, slots=True)
class FailCalls:
    """Fail all calls to this process."""

    cause: str


@dataclass(frozen=True, slots=True)
class Publish:
    """State or reason changed: report it to clients."""


Effect = Spawn | SendShutdown | Kill | WakeAt | FailCalls | Publish


class WorkerLifecycle(Machine[WorkerState]):
    """The life of one workspace's worker. Times are monotonic seconds."""

    table = {
        WorkerState.ASLEEP: {"wanted": (WorkerState.STARTING,), "adopted": (WorkerState.STARTING,)},
        WorkerState.STARTING: {
            "became_ready": (WorkerState.READY,),
            "unwanted": (WorkerState.KILLING,),
            "beat_lost": (WorkerState.KILLING,),
            "elapsed": (WorkerState.KILLING,),
            "exited": (WorkerState.STARTING, WorkerState.ASLEEP, WorkerState.BACKOFF, WorkerState.FAILED),
            "not_started": (WorkerState.ASLEEP, WorkerState.BACKOFF, WorkerState.FAILED),
        },
        WorkerState.READY: {
            "unwanted": (WorkerState.CLOSING,),
            "restarted": (WorkerState.CLOSING,),
            "beat_lost": (WorkerState.KILLING,),
            "exited": (WorkerState.ASLEEP, WorkerState.STARTING, WorkerState.BACKOFF, WorkerState.FAILED),
        },
        WorkerState.CLOSING: {
            "elapsed": (WorkerState.KILLING,),
            "exited": (WorkerState.ASLEEP, WorkerState.STARTING),
        },
        WorkerState.KILLING: {
            "elapsed": (WorkerState.KILLING,),
            "exited": (WorkerState.ASLEEP, WorkerState.STARTING, WorkerState.BACKOFF, WorkerState.FAILED),
        },
        WorkerState.BACKOFF: {
            "elapsed": (WorkerState.STARTING,),
            "restarted": (WorkerState.STARTING,),
            "unwanted": (WorkerState.ASLEEP,),
        },
        WorkerState.FAILED: {"restarted": (WorkerState.STARTING,), "unwanted": (WorkerState.ASLEEP,)},
    }

    def __init__(self, limits: Limits) -> None:
        super().__init__(WorkerState.ASLEEP)
        self.wanted = False
        self.reason = ""  # of the state; "" when all is well
        self._limits = limits
        self._policy = RestartPolicy(limits)
        self._is_end_requested = False  # then the end of this process is no crash
        self._announced_exit = False

    # --- requests -----------------------------------------------------------------------------------------------------

    def want(self, now: float) -> list[Effect]:
        """Start a worker, or the next one while one closes. In `failed` only `restart` helps."""
        if self.state is WorkerState.FAILED:
            return []
        self.wanted = True
        if self.state is WorkerState.ASLEEP:
            return self._start("wanted", now)
        return []

    def unwant(self, reason: str, now: float) -> list[Effect]:
        """End the worker in order; a pending restart and a failure are forgotten too."""
        self.wanted = False
        match self.state:
            case WorkerState.STARTING:
                self._is_end_requested = True  # it accepted no prompt yet: there is nothing to drain
                return self._kill("unwanted", reason, now)
            case WorkerState.READY:
                return self._close("unwanted", reason, now)
            case WorkerState.BACKOFF | WorkerState.FAILED:
                self.reason = ""
                effects: list[Effect] = [WakeAt(None), Publish()]
                return self._move("unwanted", WorkerState.ASLEEP, effects)
            case WorkerState.ASLEEP | WorkerState.CLOSING | WorkerState.KILLING:
                return []

    def restart(self, now: float) -> list[Effect]:
        """Replace the worker, as an operator requested. Earlier crashes do not count."""
        self._policy.clear()
        if self.state in (WorkerState.BACKOFF, WorkerState.FAILED):
            self.wanted = True
            return self._start("restarted", now)
        if self.state is WorkerState.READY:
            self.wanted = True
            return self._close("restarted", "restart", now)
        return self.want(now)

    # --- facts --------------------------------------------------------------------------------------------------------

    def adopt(self, now: float) -> list[Effect]:
        """Take over a process of the previous supervisor; it has the start deadline to say hello."""
        self.wanted = True
        effects: list[Effect] = [WakeAt(now + self._limits.start_deadline_s), Publish()]
        return self._move("adopted", WorkerState.STARTING, effects)

    def born(self, now: float) -> list[Effect]:
        """The process exists: its start deadline runs from here, not from the first request for it."""
        if self.state is not WorkerState.STARTING:
            return []  # abandoned while the launcher started it, or ready already
        return [WakeAt(now + self._limits.start_deadline_s)]

    def became_ready(self, now: float) -> list[Effect]:
        """Recovery is done: calls are answered."""
        if self.state is not WorkerState.STARTING:
            return []  # abandoned meanwhile, or reported again after a reconnect
        self.reason = ""
        self._policy.became_ready(now)
        effects: list[Effect] = [WakeAt(None), Publish()]
        return self._move("became_ready", WorkerState.READY, effects)

    def last_word(self) -> list[Effect]:
        """The process announced that it exits by itself, in order."""
        self._announced_exit = True
        return []

    def beat_lost(self, now: float) -> list[Effect]:
        """Heartbeats have stopped."""
        if self.state in (WorkerState.STARTING, WorkerState.READY):
            return self._kill("beat_lost", "hung", now, dump=True)
        return []  # closing has its own deadline; in the other states there is no heartbeat

    def elapsed(self, now: float) -> list[Effect]:
        """The time of WakeAt was reached."""
        match self.state:
            case WorkerState.STARTING:
                reason = f"not ready within {self._limits.start_deadline_s:g} s"
                return self._kill("elapsed", reason, now, dump=True)
            case WorkerState.CLOSING:
                return self._kill("elapsed", "shutdown overran its budget", now, dump=True)
            case WorkerState.KILLING:
                return self._kill("elapsed", self.reason, now)
            case WorkerState.BACKOFF:
                return self._start("elapsed", now)
            case WorkerState.ASLEEP | WorkerState.READY | WorkerState.FAILED:
                return []  # the timer lost a race

    def not_started(self, reason: str, now: float) -> list[Effect]:
        """The launcher could not start a process."""
        if self.state is not WorkerState.STARTING:
            return self._ended("exited", reason, now)  # abandoned meanwhile: the same as a process that exited
        return self._ended("not_started", reason, now)

    def exited(self, cause: str, now: float) -> list[Effect]:
        """The process has exited, and everything that it had started has ended."""
        if self.state is WorkerState.KILLING and self.reason:
            cause = self.reason  # not "signal 9": the supervisor sent it
        return self._ended("exited", cause, now)

    # --- moves ------------------------------------------------------------------------------------------------------

    def _start(self, fact: str, now: float) -> list[Effect]:
        self._is_end_requested = False
        self._announced_exit = False
        # The launcher may have to warm up a zygote first; `born` sets the deadline of the process itself.
        limits = self._limits
        overdue = now + limits.zygote_ready_s + limits.start_deadline_s
        return self._move(fact, WorkerState.STARTING, [Spawn(), WakeAt(overdue), Publish()])

    def _close(self, fact: str, reason: str, now: float) -> list[Effect]:
        limits = self._limits
        self._is_end_requested = True
        self.reason = reason
        overdue = now + limits.drain_s + limits.flush_s + limits.exit_s
        effects: list[Effect] = [SendShutdown(reason), WakeAt(overdue), Publish()]
        return self._move(fact, WorkerState.CLOSING, effects)

    def _kill(self, fact: str, reason: str, now: float, *, dump: bool = False) -> list[Effect]:
        self.reason = reason
        effects: list[Effect] = [Kill(reason, dump), WakeAt(now + self._limits.kill_deadline_s), Publish()]
        return self._move(fact, WorkerState.KILLING, effects)

    def _ended(self, fact: str, cause: str, now: float) -> list[Effect]:
        first: list[Effect] = [FailCalls(cause), WakeAt(None)]
        if self._is_end_requested or self._announced_exit:
            self.reason = ""
            # After a requested restart the next one starts now; after an exit by itself, with the next request.
            if self._is_end_requested and self.wanted:
                return first + self._start(fact, now)
            self.wanted = False
            return self._move(fact, WorkerState.ASLEEP, [*first, Publish()])
        if not self.wanted:
            self.reason = cause
            return self._move(fact, WorkerState.ASLEEP, [*first, Publish()])
        match self._policy.after(cause, now):
            case Again(delay_s):
                self.reason = cause
                return self._move(fact, WorkerState.BACKOFF, [*first, WakeAt(now + delay_s), Publish()])
            case Stop(reason):
                self.reason = reason
                self.wanted = False
                return self._move(fact, WorkerState.FAILED, [*first, Publish()])
