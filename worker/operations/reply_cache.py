"""Cache the answers of calls, so that a repeated call gets the same one and has one effect (Z07, Z08).

A repetition of a call that still runs starts nothing: the one answer goes out when the call ends. The newest answers
are kept, up to a count and a size; an answer larger than the whole cache is kept while it is the newest.
"""

from collections import OrderedDict
from enum import Enum

from protocol.messages import Answer


class CachedReply(Enum):
    """The state of a call that has no answer yet."""

    NEW = "new"
    RUNNING = "running"


class ReplyCache:
    """The calls of this worker that run, and the latest answers."""

    def __init__(self, *, count_max: int, bytes_max: int) -> None:
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._running: set[str] = set()
        self._answers: OrderedDict[str, Answer] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._answers)

    @property
    def kept_bytes(self) -> int:
        """The size of all cached bodies."""
        return self._bytes

    @property
    def running(self) -> int:
        """How many calls have begun and not ended."""
        return len(self._running)

    def begin(self, call_id: str) -> CachedReply | Answer:
        """Register a call. NEW: run it, then call `finished` or `dropped`; RUNNING: do nothing; an answer: send it."""
        if (answer := self._answers.get(call_id)) is not None:
            self._answers.move_to_end(call_id)
            return answer
        if call_id in self._running:
            return CachedReply.RUNNING
        self._running.add(call_id)
        return CachedReply.NEW

    def finished(self, answer: Answer) -> None:
        """Cache the answer of a call that has ended."""
        self._running.discard(answer.call_id)
        self._answers[answer.call_id] = answer
        self._bytes += len(answer.body)
        while len(self._answers) > 1 and (len(self._answers) > self._count_max or self._bytes > self._bytes_max):
            _, oldest = self._answers.popitem(last=False)
            self._bytes -= len(oldest.body)

    def dropped(self, call_id: str) -> None:
        """Forget a call that was cancelled because its caller left. A repetition runs it again."""
        self._running.discard(call_id)
