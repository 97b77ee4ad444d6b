"""Remembered answers, so that a repeated call gets the same one, and has one effect (Z07, Z08).

A call that still runs is joined: its one answer goes out when it is there. What was answered is kept, the newest
answers up to a count and a size; an answer larger than the whole store is kept as long as it is the newest.
"""

from collections import OrderedDict
from enum import Enum

from protocol.messages import Answer


class Known(Enum):
    """What is known of a call that has no answer yet."""

    NEW = "new"
    RUNNING = "running"


class Replies:
    """The calls of this worker that were answered lately, and those that run."""

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
        """The size of all bodies remembered."""
        return self._bytes

    @property
    def running(self) -> int:
        """How many calls have begun and not ended."""
        return len(self._running)

    def begin(self, call_id: str) -> Known | Answer:
        """A call came. NEW: do it, and say `finished` or `dropped`; RUNNING: it is being done; else its answer."""
        if (answer := self._answers.get(call_id)) is not None:
            self._answers.move_to_end(call_id)
            return answer
        if call_id in self._running:
            return Known.RUNNING
        self._running.add(call_id)
        return Known.NEW

    def finished(self, answer: Answer) -> None:
        """The call was done, and this is its answer from now on."""
        self._running.discard(answer.call_id)
        self._answers[answer.call_id] = answer
        self._bytes += len(answer.body)
        while len(self._answers) > 1 and (len(self._answers) > self._count_max or self._bytes > self._bytes_max):
            _, oldest = self._answers.popitem(last=False)
            self._bytes -= len(oldest.body)

    def dropped(self, call_id: str) -> None:
        """The call was cancelled because nobody waits for it: it has no answer, and would begin anew."""
        self._running.discard(call_id)
