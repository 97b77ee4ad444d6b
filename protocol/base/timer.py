"""One wake-up on the loop: what a state machine's `at` becomes."""

import asyncio
from collections.abc import Callable

from protocol.base.clock import Clock


class Alarm:
    """Rings once at the time that was set last. Whoever makes it cancels it in the end."""

    def __init__(self, clock: Clock, ring: Callable[[], None]) -> None:
        """`ring` is called on the loop; it may set the alarm anew."""
        self._clock = clock
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None

    def set(self, at: float | None) -> None:
        """Ring at this time of the clock instead of the one before, at once if it is over; None: no more."""
        self.cancel()
        if at is not None:
            delay_s = max(0.0, at - self._clock.now())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._due)

    def cancel(self) -> None:
        """Do not ring. Also fine when nothing was set, and where no loop runs any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> None:
        self._timer = None
        self._ring()
