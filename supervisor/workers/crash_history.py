"""Keep the last crashes of one workspace's workers, with cause, memory and last lines of output, for operators."""

from collections import deque
from dataclasses import dataclass
from itertools import islice

_KEPT = 16
"""Crashes kept per workspace. Each holds up to 4 KiB of output."""


@dataclass(frozen=True, slots=True)
class Crash:
    """One end of a worker process that was not requested."""

    at_wall: float
    generation: int
    pid: int
    cause: str
    lifetime_s: float
    peak_rss_bytes: int  # 0 when unknown
    log_tail: str


class CrashHistory:
    """The last crashes, and how many there were since the supervisor started."""

    def __init__(self) -> None:
        self._crashes: deque[Crash] = deque(maxlen=_KEPT)
        self.total = 0

    def add(self, crash: Crash) -> None:
        """Record a crash; the oldest one is dropped when the history is full."""
        self._crashes.append(crash)
        self.total += 1

    def newest(self, count: int | None = None) -> list[Crash]:
        """Return up to `count` crashes (None: all that are kept), newest first."""
        return list(islice(reversed(self._crashes), count))
