"""The two clocks behind one small interface: monotonic for deadlines, wall for stamps that are stored or shown."""

import time
from typing import Protocol


class Clock(Protocol):
    """Where an object gets its time from."""

    def now(self) -> float:
        """Monotonic seconds, for deadlines and durations; unaffected by changes of the wall clock (H01)."""
        ...

    def wall(self) -> float:
        """Seconds since the Unix epoch, only to be stored or shown."""
        ...


class SystemClock:
    """The clocks of this machine; `now` is the same clock that the asyncio loop uses."""

    def now(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()
