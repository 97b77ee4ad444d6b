"""One worker's life: wanted or not; asleep, starting, ready, closing, killing, backoff, failed.

Facts in, effects out. There is at most one process: Spawn is only returned from states without one, and those are
entered by `exited` and `not_started` alone.
"""

from dataclasses import dataclass
from enum import Enum

from protocol.base.machine import Machine
from protocol.limits import Limits
from supervisor.workers.restart import Again, RestartPolicy, Stop


class WorkerState(Enum):
    """Where the process is in its life. ASLEEP, BACKOFF and FAILED have none."""

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
    """Ask the process to end in order."""

    reason: str


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL. With `dump`, ask for the stacks first: it may be stuck."""

    reason: str
    dump: bool = False


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Call `elapsed` at this time; None: no more."""

    at: float | None


@dataclass(frozen=True, slots=True)
class FailCalls:
    """Whoever waits for this process waits in vain."""

    cause: str


@dataclass(frozen=True, slots=True)
class Publish:
    """State or reason changed: tell who looks."""


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
        self.reason = ""  # why the state is what it is, "" when all is well
        self._limits = limits
        self._policy = RestartPolicy(limits)
        self._is_asked_for = False  # the end of this process counts as no death
        self._said_last_word = False

    # --- the will -----------------------------------------------------------------------------------------------------

    def want(self, now: float) -> list[Effect]:
        """A request needs a worker. While one closes, its successor is noted; `failed` needs `restart`."""
        if self.state is WorkerState.FAILED:
            return []
        self.wanted = True
        if self.state is WorkerState.ASLEEP:
            return self._start("wanted", now)
        return []

    def unwant(self, reason: str, now: float) -> list[Effect]:
        """End the worker in order; also forgets a pending restart and a failure."""
        self.wanted = False
        match self.state:
            case WorkerState.STARTING:
                self._is_asked_for = True  # it took no prompt yet: there is nothing to drain
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
        """Somebody asked for a fresh worker by hand; past deaths don't count."""
        self._policy.clear()
        if self.state in (WorkerState.BACKOFF, WorkerState.FAILED):
            self.wanted = True
            return self._start("restarted", now)
        if self.state is WorkerState.READY:
            self.wanted = True
            return self._close("restarted", "restart", now)
        return self.want(now)

    # --- the world ----------------------------------------------------------------------------------------------------

    def adopt(self, now: float) -> list[Effect]:
        """A process of a former supervisor lives; it has the start deadline to say hello."""
        self.wanted = True
        effects: list[Effect] = [WakeAt(now + self._limits.start_deadline_s), Publish()]
        return self._move("adopted", WorkerState.STARTING, effects)

    def born(self, now: float) -> list[Effect]:
        """The process exists; its start deadline runs from here, not from when somebody first wanted it."""
        if self.state is not WorkerState.STARTING:
            return []  # given up while the launcher was at work, or ready already
        return [WakeAt(now + self._limits.start_deadline_s)]

    def became_ready(self, now: float) -> list[Effect]:
        """Recovery is done, calls are answered."""
        if self.state is not WorkerState.STARTING:
            return []  # it was given up meanwhile, or says so again after a reconnect
        self.reason = ""
        self._policy.became_ready(now)
        effects: list[Effect] = [WakeAt(None), Publish()]
        return self._move("became_ready", WorkerState.READY, effects)

    def last_word(self) -> list[Effect]:
        """The process said that it leaves by itself, in order."""
        self._said_last_word = True
        return []

    def beat_lost(self, now: float) -> list[Effect]:
        """Its loop does not beat any more."""
        if self.state in (WorkerState.STARTING, WorkerState.READY):
            return self._kill("beat_lost", "hung", now, dump=True)
        return []  # closing has its own deadline, and the dead don't beat

    def elapsed(self, now: float) -> list[Effect]:
        """The time that WakeAt named has come."""
        match self.state:
            case WorkerState.STARTING:
                late = f"not ready within {self._limits.start_deadline_s:g} s"
                return self._kill("elapsed", late, now, dump=True)
            case WorkerState.CLOSING:
                return self._kill("elapsed", "shutdown overran its budget", now, dump=True)
            case WorkerState.KILLING:
                return self._kill("elapsed", self.reason, now)
            case WorkerState.BACKOFF:
                return self._start("elapsed", now)
            case WorkerState.ASLEEP | WorkerState.READY | WorkerState.FAILED:
                return []  # the timer lost the race

    def not_started(self, reason: str, now: float) -> list[Effect]:
        """The launcher could not make a process."""
        if self.state is not WorkerState.STARTING:
            return self._gone("exited", reason, now)  # given up meanwhile: the same as a process that is gone
        return self._gone("not_started", reason, now)

    def exited(self, cause: str, now: float) -> list[Effect]:
        """The process is gone, and all that it had started."""
        if self.state is WorkerState.KILLING and self.reason:
            cause = self.reason  # not "signal 9": that was us
        return self._gone("exited", cause, now)

    # --- moves ------------------------------------------------------------------------------------------------------

    def _start(self, fact: str, now: float) -> list[Effect]:
        self._is_asked_for = False
        self._said_last_word = False
        # A launcher may first have to warm up a zygote; `born` sets the deadline of the process itself.
        limits = self._limits
        overdue = now + limits.zygote_ready_s + limits.start_deadline_s
        return self._move(fact, WorkerState.STARTING, [Spawn(), WakeAt(overdue), Publish()])

    def _close(self, fact: str, reason: str, now: float) -> list[Effect]:
        limits = self._limits
        self._is_asked_for = True
        self.reason = reason
        overdue = now + limits.drain_s + limits.flush_s + limits.exit_s
        effects: list[Effect] = [SendShutdown(reason), WakeAt(overdue), Publish()]
        return self._move(fact, WorkerState.CLOSING, effects)

    def _kill(self, fact: str, reason: str, now: float, *, dump: bool = False) -> list[Effect]:
        self.reason = reason
        effects: list[Effect] = [Kill(reason, dump), WakeAt(now + self._limits.kill_deadline_s), Publish()]
        return self._move(fact, WorkerState.KILLING, effects)

    def _gone(self, fact: str, cause: str, now: float) -> list[Effect]:
        lost: list[Effect] = [FailCalls(cause), WakeAt(None)]
        if self._is_asked_for or self._said_last_word:
            self.reason = ""
            # One that left by itself is started again by the next request, one that was asked to by who asked.
            if self._is_asked_for and self.wanted:
                return lost + self._start(fact, now)
            self.wanted = False
            return self._move(fact, WorkerState.ASLEEP, [*lost, Publish()])
        if not self.wanted:
            self.reason = cause
            return self._move(fact, WorkerState.ASLEEP, [*lost, Publish()])
        match self._policy.after(cause, now):
            case Again(delay_s):
                self.reason = cause
                return self._move(fact, WorkerState.BACKOFF, [*lost, WakeAt(now + delay_s), Publish()])
            case Stop(reason):
                self.reason = reason
                self.wanted = False
                return self._move(fact, WorkerState.FAILED, [*lost, Publish()])
