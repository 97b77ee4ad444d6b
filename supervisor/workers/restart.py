"""Decide after a crash whether to start again, and after which delay.

The rule of Erlang's supervisors: a certain number of crashes within a period means that starting again does not help.
"""

from collections import deque
from dataclasses import dataclass

from protocol.base.backoff import Backoff
from protocol.exit_codes import HOPELESS
from protocol.limits import Limits


@dataclass(frozen=True, slots=True)
class Again:
    """Start another one after this delay."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class Stop:
    """Do not start again until a restart is requested."""

    reason: str


class RestartPolicy:
    """The recent crashes of one workspace's workers. Times are monotonic seconds."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._backoff = Backoff(first_s=limits.restart_delay_next_s, max_s=limits.restart_delay_s_max)
        self._crashes: deque[float] = deque()
        self._streak = 0  # crashes since a worker was last healthy for `restart_healthy_s`
        self._ready_at: float | None = None

    def became_ready(self, now: float) -> None:
        """Record that a worker is ready; its healthy time counts from here."""
        self._ready_at = now

    def after(self, cause: str, now: float) -> Again | Stop:
        """Record a crash and decide what follows."""
        limits = self._limits
        if cause in HOPELESS:
            self.clear()
            return Stop(cause)
        if self._ready_at is not None and now - self._ready_at >= limits.restart_healthy_s:
            self._streak = 0
        self._ready_at = None
        self._streak += 1
        self._crashes.append(now)
        while self._crashes and now - self._crashes[0] > limits.restart_period_s:
            self._crashes.popleft()
        if len(self._crashes) >= limits.restart_intensity:
            return Stop(f"{len(self._crashes)} deaths in {limits.restart_period_s:g} s, the last: {cause}")
        if self._streak == 1:
            return Again(limits.restart_delay_s)
        return Again(self._backoff.delay_s(self._streak - 2))

    def clear(self) -> None:
        """Forget all crashes: a restart was requested."""
        self._crashes.clear()
        self._streak = 0
        self._ready_at = None
