"""Decide when one language server runs: it starts on first use, and restarts after a failure with increasing delays."""

from dataclasses import dataclass
from enum import Enum

from protocol.base.machine import Machine

DELAYS_S = (0.0, 2.0, 8.0, 30.0, 60.0)
"""Delay before a restart by the number of failures in a row. A single crash causes no delay."""
FAILED_START = 2
"""How many failures a failed start counts for: the next start will probably fail too, after its whole timeout."""
STABLE_S = 60.0
"""A server that was ready for this long has its earlier failures forgotten."""


class ServerState(Enum):
    """The states of a server. The values appear in the API."""

    UNSTARTED = 0
    STARTING = 1
    READY = 2
    ERROR = 3
    STOPPED = 4
    DISABLED = 5


@dataclass(frozen=True, slots=True)
class Launch:
    """Start a process."""


@dataclass(frozen=True, slots=True)
class End:
    """End the process."""


Effect = Launch | End


class ServerLifecycle(Machine[ServerState]):
    """Tracks one language server: a use starts it, however often it has failed, but not before its delay is over."""

    table = {
        ServerState.UNSTARTED: {
            "wanted": (ServerState.STARTING,),
            "stop": (ServerState.STOPPED,),
            "disable": (ServerState.DISABLED,),
        },
        ServerState.STARTING: {
            "started": (ServerState.READY,),
            "failed": (ServerState.ERROR,),
            "stop": (ServerState.STOPPED,),
        },
        ServerState.READY: {"failed": (ServerState.ERROR,), "stop": (ServerState.STOPPED,)},
        ServerState.ERROR: {"wanted": (ServerState.STARTING,), "stop": (ServerState.STOPPED,)},
        ServerState.STOPPED: {"wanted": (ServerState.STARTING,)},
        ServerState.DISABLED: {},
    }

    def __init__(self, *, is_disabled: bool = False) -> None:
        super().__init__(ServerState.UNSTARTED)
        self.error = ""
        self._failures = 0
        self._ready_at = 0.0
        self.retry_at = 0.0
        if is_disabled:
            self._move("disable", ServerState.DISABLED)

    def wanted(self, now: float) -> list[Effect]:
        """Start it for a use at monotonic time `now`, unless it runs, is disabled or is in its delay."""
        if self.state in (ServerState.STARTING, ServerState.READY, ServerState.DISABLED):
            return []
        if self.state is ServerState.ERROR and now < self.retry_at:
            return []
        self.error = ""
        return self._move("wanted", ServerState.STARTING, [Launch()])

    def started(self, now: float) -> list[Effect]:
        """Record that it has answered `initialize`."""
        self._ready_at = now
        return self._move("started", ServerState.READY, [])

    def failed(self, reason: str, now: float) -> list[Effect]:
        """Record that it did not start, exited, or sent unreadable output."""
        if self.state is ServerState.READY:
            self._failures = 1 if now - self._ready_at >= STABLE_S else self._failures + 1
        else:
            self._failures = max(self._failures + 1, FAILED_START)
        self.retry_at = now + DELAYS_S[min(self._failures, len(DELAYS_S)) - 1]
        self.error = reason
        return self._move("failed", ServerState.ERROR, [End()])

    def stop(self) -> list[Effect]:
        """Stop it until the next use, and forget its failures."""
        self._failures = 0
        self.retry_at = 0.0
        if self.state in (ServerState.STOPPED, ServerState.DISABLED):
            return []
        had_process = self.state in (ServerState.STARTING, ServerState.READY)
        self.error = ""
        return self._move("stop", ServerState.STOPPED, [End()] if had_process else [])
