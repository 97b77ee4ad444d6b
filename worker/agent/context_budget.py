"""Decide whether the model's context is nearly full, so that the conversation must be summarised first."""

from collections.abc import Sequence

from protocol.api.message import Message
from worker.agent.usage import estimate

LARGE_WINDOW = 200_000
LARGE_RESERVE = 20_000
SMALL_SHARE = 5  # of a smaller window a fifth is reserved


def reserve(window: int) -> int:
    """Return how many tokens of a window are kept free."""
    return LARGE_RESERVE if window > LARGE_WINDOW else window // SMALL_SHARE


class ContextBudget:
    """Estimates the size of the next request: the provider's count of the last one, and an estimate for the rest."""

    def __init__(self, window: int) -> None:
        """`window` is in tokens; 0 means unknown, and is never full."""
        self._window = window
        self._counted = 0
        self._estimated = 0

    def begin(self, counted: int, history: Sequence[Message]) -> None:
        """Begin a turn. `counted` are the tokens of the session's last request and its answer, 0 when unknown."""
        self._counted = counted
        self._estimated = estimate(history[-1:] if counted else history)

    def add(self, messages: Sequence[Message]) -> None:
        """Add messages that the next request will contain as well."""
        self._estimated += estimate(messages)

    def measured(self, tokens: int) -> None:
        """Set the tokens of the last request and its answer, as the provider counted them."""
        self._counted, self._estimated = tokens, 0

    @property
    def used(self) -> int:
        """Return the tokens of the next request."""
        return self._counted + self._estimated

    @property
    def is_full(self) -> bool:
        """Return whether the next request leaves less free than the reserve."""
        return self.would_fill(self.used)

    def would_fill(self, tokens: int) -> bool:
        """Return whether a request of this size leaves less free than the reserve."""
        return self._window > 0 and self._window - tokens <= reserve(self._window)
