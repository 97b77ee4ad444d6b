"""The last deaths of one workspace's workers, with cause and last lines of output, for status and log."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

_KEPT = 16


@dataclass(frozen=True, slots=True)
class Death:
    """One death that nobody asked for."""

    at_wall: float
    generation: int
    pid: int
    cause: str
    after_s: float  # how long it had lived
    max_rss_bytes: int
    tail: str


class Deaths:
    """The last few, oldest first."""

    def __init__(self) -> None:
        self._ring: deque[Death] = deque(maxlen=_KEPT)
        self.total = 0

    def add(self, death: Death) -> None:
        """Remember one more."""
        self._ring.append(death)
        self.total += 1

    def __iter__(self) -> Iterator[Death]:
        return iter(self._ring)

    @property
    def last(self) -> Death | None:
        """The newest, if there was any."""
        return self._ring[-1] if self._ring else None
