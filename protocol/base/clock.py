"""Provide two clocks behind one interface: monotonic for deadlines, wall for timestamps that are stored or shown."""

import time
from typing import Protocol


class Clock(Protocol):
    """The source of time of an object."""

    def now(self) -> float:
        """Return monotonic seconds, for deadlines and durations; changes of the wall clock have no effect (H01)."""
        ...

    def wall(self) -> float:
        """Return seconds since the Unix epoch, only to be stored or shown."""
        ...


class SystemClock:
    """The clocks of this machine; `now` is the same clock that the asyncio loop uses."""

    def now(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()
