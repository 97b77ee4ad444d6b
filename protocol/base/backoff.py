"""Compute delays that grow with each attempt."""

from dataclasses import dataclass
from typing import Protocol

_EXPONENT_MAX = 64
"""Far beyond any maximum in use; a larger one would overflow a float after days of attempts."""


class Random(Protocol):
    """The one method of `random.Random` that jitter needs."""

    def random(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Backoff:
    """A geometric curve of delays in seconds: `first_s`, `first_s * factor`, … up to `max_s`."""

    first_s: float
    max_s: float
    factor: float = 2.0
    jitter: float = 0.0
    """The share of a delay that is random: with 0.5 a delay is between half of its value and the whole."""

    def delay_s(self, attempt: int, random: Random | None = None) -> float:
        """Return the delay before retry number `attempt`, counted from 0. Without `random` there is no jitter."""
        delay_s = min(self.max_s, self.first_s * self.factor ** min(attempt, _EXPONENT_MAX))
        return delay_s if random is None else delay_s * (1.0 - self.jitter * random.random())
