"""Decide whether a worker may sleep: no client, and nothing open, queued, asked or running.

The worker reports its open runs only in heartbeats. A call that ended after the last heartbeat may have opened one, so
a worker counts as idle only after a heartbeat that was sent later than its last call.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EvictionFacts:
    """The present numbers of one workspace with a ready worker."""

    claims: int
    streams: int
    calls: int  # in flight
    beat: int | None  # the sequence number of the newest heartbeat, None before the first
    open_runs: int
    open_questions: int
    children: int


class Eviction:
    """The idle time of one worker. `now` is monotonic, in seconds."""

    def __init__(self, *, idle_s: float) -> None:
        self._idle_s = idle_s
        self._idle_since: float | None = None
        self._beat_needed = 0

    def called(self, beat: int | None) -> None:
        """Record that a call ended now; `beat` is the newest heartbeat received.

        The one after it may have been sent before the end of the call, hence two more are needed.
        """
        self._idle_since = None
        self._beat_needed = (beat or 0) + 2

    def started(self) -> None:
        """Record that a new worker starts; its heartbeats are numbered from the beginning."""
        self._idle_since = None
        self._beat_needed = 1

    def is_reported(self, facts: EvictionFacts) -> bool:
        """Return whether the newest heartbeat was sent after the last call had ended."""
        return not facts.calls and facts.beat is not None and facts.beat >= self._beat_needed

    def may_sleep(self, facts: EvictionFacts) -> bool:
        """Return whether nothing would be lost if the worker went to sleep at this moment."""
        if facts.claims or facts.streams or not self.is_reported(facts):
            return False
        return not (facts.open_runs or facts.open_questions or facts.children)

    def observed(self, facts: EvictionFacts, now: float) -> bool:
        """Record the present facts; return True when the worker was idle for long enough and may sleep."""
        if not self.may_sleep(facts):
            self._idle_since = None
            return False
        if self._idle_since is None:
            self._idle_since = now
        return now - self._idle_since >= self._idle_s
