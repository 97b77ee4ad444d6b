"""Delay curve and restart intensity: again after this long, or not any more and why.

The rule of Erlang's supervisors: so many deaths within a period mean that starting again does not help.
"""

from collections import deque
from dataclasses import dataclass

from protocol.exit_codes import HOPELESS
from protocol.limits import Limits

_FIRST_DELAY_S = 0.25


@dataclass(frozen=True, slots=True)
class Again:
    """Start another one after this delay."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class Stop:
    """Start no more until somebody asks for it."""

    reason: str


class RestartPolicy:
    """Remembers the deaths of one workspace's workers. Times are monotonic seconds."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._deaths: deque[float] = deque()
        self._streak = 0  # deaths since the last long healthy time
        self._ready_at: float | None = None

    def became_ready(self, now: float) -> None:
        """A worker is up; from here its health counts."""
        self._ready_at = now

    def after(self, cause: str, now: float) -> Again | Stop:
        """Decide what follows a death that nobody asked for."""
        limits = self._limits
        if cause in HOPELESS:
            self.clear()
            return Stop(cause)
        if self._ready_at is not None and now - self._ready_at >= limits.restart_healthy_s:
            self._streak = 0
        self._ready_at = None
        self._streak += 1
        self._deaths.append(now)
        while self._deaths and now - self._deaths[0] > limits.restart_period_s:
            self._deaths.popleft()
        if len(self._deaths) >= limits.restart_intensity:
            return Stop(f"{len(self._deaths)} deaths in {limits.restart_period_s:g} s, the last: {cause}")
        if self._streak == 1:
            return Again(limits.restart_delay_s)
        return Again(min(limits.restart_delay_s_max, _FIRST_DELAY_S * 2 ** (self._streak - 2)))

    def clear(self) -> None:
        """Somebody asked for a restart by hand: the past does not count."""
        self._deaths.clear()
        self._streak = 0
        self._ready_at = None
