"""Is the model's context nearly full, so that the conversation must be summarised before the next request (5.6)?"""

from collections.abc import Sequence

from protocol.api.message import Message
from worker.agent.usage import estimate

LARGE_WINDOW = 200_000
LARGE_RESERVE = 20_000
SMALL_SHARE = 5  # a fifth of a smaller window


def reserve(window: int) -> int:
    """How many tokens of a window are kept free."""
    return LARGE_RESERVE if window > LARGE_WINDOW else window // SMALL_SHARE


class Budget:
    """Counts what the next request will hold: what the provider counted in the last one, and a guess for the rest."""

    def __init__(self, window: int) -> None:
        """`window` in tokens; 0 is unknown, and never full."""
        self._window = window
        self._counted = 0
        self._guessed = 0

    def begin(self, counted: int, history: Sequence[Message]) -> None:
        """A turn begins; `counted` is what the session's last request and its answer had, 0 when nobody knows."""
        self._counted = counted
        self._guessed = estimate(history[-1:] if counted else history)

    def add(self, messages: Sequence[Message]) -> None:
        """These go into the next request too."""
        self._guessed += estimate(messages)

    def measured(self, tokens: int) -> None:
        """The last request and its answer had so many tokens."""
        self._counted, self._guessed = tokens, 0

    @property
    def used(self) -> int:
        """Tokens of the next request."""
        return self._counted + self._guessed

    @property
    def is_full(self) -> bool:
        """Is less free than is to be kept free?"""
        return self.would_fill(self.used)

    def would_fill(self, tokens: int) -> bool:
        """Would so many tokens leave less free than is to be kept free?"""
        return self._window > 0 and self._window - tokens <= reserve(self._window)
