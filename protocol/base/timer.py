"""Call back once at a time of the clock: performs the wake-ups that state machines ask for."""

import asyncio
from collections.abc import Callable

from protocol.base.clock import Clock


class Timer:
    """Calls back once, at the time that was set last. Its owner cancels it in the end."""

    def __init__(self, clock: Clock, ring: Callable[[], None]) -> None:
        """`ring` is called on the loop; it may set the timer again."""
        self._clock = clock
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None

    def set(self, at: float | None) -> None:
        """Call back at this time of the clock instead of an earlier setting, at once if it is past; None: never."""
        self.cancel()
        if at is not None:
            delay_s = max(0.0, at - self._clock.now())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._due)

    def cancel(self) -> None:
        """Do not call back. Does nothing when nothing was set; needs no running loop."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> None:
        self._timer = None
        self._ring()
