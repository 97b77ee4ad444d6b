"""Time the heartbeats of a worker: short intervals while anything happens, long ones while it is idle."""

import asyncio
from collections.abc import Callable

from protocol.base.clock import Clock
from protocol.limits import Limits

_QUIET_BEATS = 3
"""So many heartbeats follow the last traffic at the short interval. The supervisor needs two to see that nothing runs,
and that no event was lost."""


class Heartbeats:
    """Calls `beat` again and again, from the loop itself: when the loop hangs, the heartbeats stop (W12)."""

    def __init__(
        self, *, limits: Limits, clock: Clock, is_busy: Callable[[], bool], beat: Callable[[float, float], None]
    ) -> None:
        """`beat(loop_lag_s, interval_s)` sends one; the next follows after `interval_s`, or earlier."""
        self._interval_s = limits.heartbeat_interval_s
        self._idle_interval_s = max(limits.heartbeat_interval_s, limits.heartbeat_idle_interval_s)
        self._clock = clock
        self._is_busy = is_busy
        self._beat = beat
        self._timer: asyncio.TimerHandle | None = None
        self._due_at = 0.0
        self._quiet = 0  # heartbeats since the last traffic
        self._is_slow = False

    def start(self) -> None:
        """Begin with the short interval."""
        self._schedule(self._interval_s)

    def stir(self) -> None:
        """Note that a message came or went: the next heartbeats follow at the short interval."""
        self._quiet = 0
        if self._is_slow and self._timer is not None:
            self._timer.cancel()
            self._is_slow = False
            self._schedule(self._interval_s)

    def stop(self) -> None:
        """Send no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self, interval_s: float) -> None:
        self._due_at = self._clock.now() + interval_s
        self._timer = asyncio.get_running_loop().call_later(interval_s, self._due)

    def _due(self) -> None:
        lag_s = max(0.0, self._clock.now() - self._due_at)
        self._quiet = 0 if self._is_busy() else self._quiet + 1
        self._is_slow = self._quiet >= _QUIET_BEATS
        interval_s = self._idle_interval_s if self._is_slow else self._interval_s
        self._schedule(interval_s)
        self._beat(round(lag_s, 4), interval_s)
