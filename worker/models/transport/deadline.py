"""End a wait that lasts too long, with one timer for the many waits of a response.

A timer per read would cost more than the read. The deadline only moves a time; the timer looks at it when it fires and
waits again for the rest. Time counts only while something is awaited: a slow consumer is not the provider's fault.
"""

import asyncio
from collections.abc import Callable

RECHECK_S = 1.0
"""How often a passed deadline is checked again while nothing is awaited."""


class DeadlinePassed(Exception):
    """A wait for a response took too long."""


class Deadline:
    """The deadline of the waits for one response. Needs a running loop."""

    def __init__(self, seconds: float) -> None:
        """The first wait must end `seconds` from now."""
        self._loop = asyncio.get_running_loop()
        self._at = self._loop.time() + seconds
        self._expire: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.is_waiting = False

    def start(self, expire: Callable[[], None]) -> None:
        """Begin to watch; `expire` is called once when the deadline passes during a wait."""
        self._expire = expire
        self._timer = self._loop.call_at(self._at, self._check)

    def move(self, seconds: float) -> None:
        """Let the next wait end `seconds` from now."""
        self._at = self._loop.time() + seconds
        timer = self._timer
        if timer is not None and timer.when() > self._at + RECHECK_S:
            timer.cancel()
            self._timer = self._loop.call_at(self._at, self._check)

    def stop(self) -> None:
        """End watching."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        rest = self._at - self._loop.time()
        if rest > 0 or not self.is_waiting:
            self._timer = self._loop.call_later(max(rest, 0.0) or RECHECK_S, self._check)
            return
        self._timer = None
        if self._expire is not None:
            self._expire()
