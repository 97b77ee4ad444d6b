"""May this worker sleep now: nobody here, nothing open, queued, asked or running (P11).

The worker tells its open runs only with its heartbeats. A call that ended after the last beat may have opened one, so
a worker counts as idle only after a beat that was sent later than its last call.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EvictionFacts:
    """What is known of one workspace with a ready worker."""

    claims: int
    streams: int
    calls: int  # in flight
    beat: int | None  # the sequence number of the newest heartbeat, None before the first
    open_runs: int
    open_questions: int
    children: int


class Eviction:
    """Watches one worker. `now` is monotonic, in seconds."""

    def __init__(self, *, idle_s: float) -> None:
        self._idle_s = idle_s
        self._idle_since: float | None = None
        self._beat_needed = 0

    def called(self, beat: int | None) -> None:
        """A call ended now, `beat` being the newest heartbeat heard. The beat under way may be older than the call."""
        self._idle_since = None
        self._beat_needed = (beat or 0) + 2

    def started(self) -> None:
        """A new worker is here; its heartbeats count from the beginning."""
        self._idle_since = None
        self._beat_needed = 1

    def may_sleep(self, facts: EvictionFacts) -> bool:
        """Would nothing be lost if the worker went to sleep at this moment?"""
        if facts.claims or facts.streams or facts.calls:
            return False
        if facts.beat is None or facts.beat < self._beat_needed:
            return False
        return not (facts.open_runs or facts.open_questions or facts.children)

    def observed(self, facts: EvictionFacts, now: float) -> bool:
        """Look at the worker; True when it has had nothing to do for long enough and may sleep."""
        if not self.may_sleep(facts):
            self._idle_since = None
            return False
        if self._idle_since is None:
            self._idle_since = now
        return now - self._idle_since >= self._idle_s
