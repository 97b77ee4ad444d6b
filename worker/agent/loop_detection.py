"""Detect a model that repeats the same calls with the same results."""

import hashlib
from collections import Counter, deque
from collections.abc import Mapping, Sequence

from protocol.api.message import ToolCallData, ToolResultData

WINDOW_STEPS = 10
REPEATS_MAX = 5


class LoopDetector:
    """Compares the steps of one turn."""

    def __init__(self) -> None:
        self._signatures: deque[bytes | None] = deque(maxlen=WINDOW_STEPS)

    def step(self, calls: Sequence[ToolCallData], results: Mapping[str, ToolResultData]) -> bool:
        """Add a finished step; True when one signature occurs more than 5 times in the last 10 steps."""
        self._signatures.append(signature(calls, results) if calls else None)
        if len(self._signatures) < WINDOW_STEPS:
            return False
        counts = Counter(one for one in self._signatures if one is not None)
        return any(count > REPEATS_MAX for count in counts.values())


def signature(calls: Sequence[ToolCallData], results: Mapping[str, ToolResultData]) -> bytes:
    """Return a SHA-256 of name, input and result of each call, in order."""
    digest = hashlib.sha256()
    for call in calls:
        result = results.get(call.id)
        for text in (call.name, call.input, (result.content or result.data) if result else ""):
            digest.update(text.encode())
            digest.update(b"\0")
    return digest.digest()
