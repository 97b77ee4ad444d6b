"""One worker's life: wanted or not; asleep, starting, ready, closing, killing, backoff, failed.

Facts in, effects out. There is at most one process: Spawn is only returned from states without one, and those are
entered by `exited` and `not_started` alone.
"""

from dataclasses import dataclass
from enum import Enum

from protocol.base.machine import Machine
from protocol.limits import Limits
from supervisor.workers.restart import Again, RestartPolicy, Stop


class State(Enum):
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


class WorkerLifecycle(Machine[State]):
    """The life of one workspace's worker. Times are monotonic seconds."""

    table = {
        State.ASLEEP: {"wanted": (State.STARTING,), "adopted": (State.STARTING,)},
        State.STARTING: {
            "became_ready": (State.READY,),
            "unwanted": (State.KILLING,),
            "beat_lost": (State.KILLING,),
            "elapsed": (State.KILLING,),
            "exited": (State.STARTING, State.ASLEEP, State.BACKOFF, State.FAILED),
            "not_started": (State.ASLEEP, State.BACKOFF, State.FAILED),
        },
        State.READY: {
            "unwanted": (State.CLOSING,),
            "restarted": (State.CLOSING,),
            "beat_lost": (State.KILLING,),
            "exited": (State.ASLEEP, State.STARTING, State.BACKOFF, State.FAILED),
        },
        State.CLOSING: {
            "elapsed": (State.KILLING,),
            "exited": (State.ASLEEP, State.STARTING),
        },
        State.KILLING: {
            "elapsed": (State.KILLING,),
            "exited": (State.ASLEEP, State.STARTING, State.BACKOFF, State.FAILED),
        },
        State.BACKOFF: {
            "elapsed": (State.STARTING,),
            "restarted": (State.STARTING,),
            "unwanted": (State.ASLEEP,),
        },
        State.FAILED: {"restarted": (State.STARTING,), "unwanted": (State.ASLEEP,)},
    }

    def __init__(self, limits: Limits) -> None:
        super().__init__(State.ASLEEP)
        self.wanted = False
        self.reason = ""  # why the state is what it is, "" when all is well
        self._limits = limits
        self._policy = RestartPolicy(limits)
        self._is_asked_for = False  # the end of this process counts as no death
        self._said_last_word = False

    # --- the will -----------------------------------------------------------------------------------------------------

    def want(self, now: float) -> list[Effect]:
        """A request needs a worker. While one closes, its successor is noted; `failed` needs `restart`."""
        if self.state is State.FAILED:
            return []
        self.wanted = True
        if self.state is State.ASLEEP:
            return self._start("wanted", now)
        return []

    def unwant(self, reason: str, now: float) -> list[Effect]:
        """End the worker in order; also forgets a pending restart and a failure."""
        self.wanted = False
        match self.state:
            case State.STARTING:
                self._is_asked_for = True  # it took no prompt yet: there is nothing to drain
                return self._kill("unwanted", reason, now)
            case State.READY:
                return self._close("unwanted", reason, now)
            case State.BACKOFF | State.FAILED:
                self.reason = ""
                effects: list[Effect] = [WakeAt(None), Publish()]
                return self._move("unwanted", State.ASLEEP, effects)
            case State.ASLEEP | State.CLOSING | State.KILLING:
                return []

    def restart(self, now: float) -> list[Effect]:
        """Somebody asked for a fresh worker by hand; past deaths don't count."""
        self._policy.clear()
        if self.state in (State.BACKOFF, State.FAILED):
            self.wanted = True
            return self._start("restarted", now)
        if self.state is State.READY:
            self.wanted = True
            return self._close("restarted", "restart", now)
        return self.want(now)

    # --- the world ----------------------------------------------------------------------------------------------------

    def adopt(self, now: float) -> list[Effect]:
        """A process of a former supervisor lives; it has the start deadline to say hello."""
        self.wanted = True
        effects: list[Effect] = [WakeAt(now + self._limits.start_deadline_s), Publish()]
        return self._move("adopted", State.STARTING, effects)

    def born(self, now: float) -> list[Effect]:
        """The process exists; its start deadline runs from here, not from when somebody first wanted it."""
        if self.state is not State.STARTING:
            return []  # given up while the launcher was at work, or ready already
        return [WakeAt(now + self._limits.start_deadline_s)]

    def became_ready(self, now: float) -> list[Effect]:
        """Recovery is done, calls are answered."""
        if self.state is not State.STARTING:
            return []  # it was given up meanwhile, or says so again after a reconnect
        self.reason = ""
        self._policy.became_ready(now)
        effects: list[Effect] = [WakeAt(None), Publish()]
        return self._move("became_ready", State.READY, effects)

    def last_word(self) -> list[Effect]:
        """The process said that it leaves by itself, in order."""
        self._said_last_word = True
        return []

    def beat_lost(self, now: float) -> list[Effect]:
        """Its loop does not beat any more."""
        if self.state in (State.STARTING, State.READY):
            return self._kill("beat_lost", "hung", now, dump=True)
        return []  # closing has its own deadline, and the dead don't beat

    def elapsed(self, now: float) -> list[Effect]:
        """The time that WakeAt named has come."""
        match self.state:
            case State.STARTING:
                late = f"not ready within {self._limits.start_deadline_s:g} s"
                return self._kill("elapsed", late, now, dump=True)
            case State.CLOSING:
                return self._kill("elapsed", "shutdown overran its budget", now, dump=True)
            case State.KILLING:
                return self._kill("elapsed", self.reason, now)
            case State.BACKOFF:
                return self._start("elapsed", now)
            case State.ASLEEP | State.READY | State.FAILED:
                return []  # the timer lost the race

    def not_started(self, reason: str, now: float) -> list[Effect]:
        """The launcher could not make a process."""
        if self.state is not State.STARTING:
            return self._gone("exited", reason, now)  # given up meanwhile: the same as a process that is gone
        return self._gone("not_started", reason, now)

    def exited(self, cause: str, now: float) -> list[Effect]:
        """The process is gone, and all that it had started."""
        if self.state is State.KILLING and self.reason:
            cause = self.reason  # not "signal 9": that was us
        return self._gone("exited", cause, now)

    # --- moves ------------------------------------------------------------------------------------------------------

    def _start(self, fact: str, now: float) -> list[Effect]:
        self._is_asked_for = False
        self._said_last_word = False
        # A launcher may first have to warm up a zygote; `born` sets the deadline of the process itself.
        limits = self._limits
        overdue = now + limits.zygote_ready_s + limits.start_deadline_s
        return self._move(fact, State.STARTING, [Spawn(), WakeAt(overdue), Publish()])

    def _close(self, fact: str, reason: str, now: float) -> list[Effect]:
        limits = self._limits
        self._is_asked_for = True
        self.reason = reason
        overdue = now + limits.drain_s + limits.flush_s + limits.exit_s
        effects: list[Effect] = [SendShutdown(reason), WakeAt(overdue), Publish()]
        return self._move(fact, State.CLOSING, effects)

    def _kill(self, fact: str, reason: str, now: float, *, dump: bool = False) -> list[Effect]:
        self.reason = reason
        effects: list[Effect] = [Kill(reason, dump), WakeAt(now + self._limits.kill_deadline_s), Publish()]
        return self._move(fact, State.KILLING, effects)

    def _gone(self, fact: str, cause: str, now: float) -> list[Effect]:
        lost: list[Effect] = [FailCalls(cause), WakeAt(None)]
        if self._is_asked_for or self._said_last_word:
            self.reason = ""
            # One that left by itself is started again by the next request, one that was asked to by who asked.
            if self._is_asked_for and self.wanted:
                return lost + self._start(fact, now)
            self.wanted = False
            return self._move(fact, State.ASLEEP, [*lost, Publish()])
        if not self.wanted:
            self.reason = cause
            return self._move(fact, State.ASLEEP, [*lost, Publish()])
        match self._policy.after(cause, now):
            case Again(delay_s):
                self.reason = cause
                return self._move(fact, State.BACKOFF, [*lost, WakeAt(now + delay_s), Publish()])
            case Stop(reason):
                self.reason = reason
                self.wanted = False
                return self._move(fact, State.FAILED, [*lost, Publish()])
