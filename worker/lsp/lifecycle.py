"""The states of one language server: started when it is wanted, restarted after a failure, but not too eagerly."""

from dataclasses import dataclass
from enum import Enum

from protocol.base.machine import Machine

DELAYS_S = (0.0, 2.0, 8.0, 30.0, 60.0)
"""How long a server is left alone after so many failures in a row. A single crash costs nothing."""
FAILED_START = 2  # a start that fails counts as so many: it would fail again, and each try costs its whole timeout
GOOD_LIFE_S = 60.0
"""After so long in readiness earlier failures are forgotten."""


class ServerState(Enum):
    """The values are the numbers of the API (http-api 3.11)."""

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


class ServerLife(Machine[ServerState]):
    """One language server: who wants it starts it, however often it has died."""

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
        """Somebody has a use for it at monotonic time `now`."""
        if self.state in (ServerState.STARTING, ServerState.READY, ServerState.DISABLED):
            return []
        if self.state is ServerState.ERROR and now < self.retry_at:
            return []
        self.error = ""
        return self._move("wanted", ServerState.STARTING, [Launch()])

    def started(self, now: float) -> list[Effect]:
        """It has said what it can do."""
        self._ready_at = now
        return self._move("started", ServerState.READY, [])

    def failed(self, reason: str, now: float) -> list[Effect]:
        """It did not start, it died, or what it sends cannot be read."""
        if self.state is ServerState.READY:
            self._failures = 1 if now - self._ready_at >= GOOD_LIFE_S else self._failures + 1
        else:
            self._failures = max(self._failures + 1, FAILED_START)
        self.retry_at = now + DELAYS_S[min(self._failures, len(DELAYS_S)) - 1]
        self.error = reason
        return self._move("failed", ServerState.ERROR, [End()])

    def stop(self) -> list[Effect]:
        """Nobody wants it for now; the next use starts it again, failures are forgotten."""
        self._failures = 0
        self.retry_at = 0.0
        if self.state in (ServerState.STOPPED, ServerState.DISABLED):
            return []
        had_process = self.state in (ServerState.STARTING, ServerState.READY)
        self.error = ""
        return self._move("stop", ServerState.STOPPED, [End()] if had_process else [])
