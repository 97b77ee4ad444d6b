"""Decide whether a worker may sleep: nothing open, queued, asked or running, for long enough.

With a client attached it takes longer: the client keeps its stream, and its next request wakes the worker. It also
takes longer when the worker holds what the next one would not know, such as a model that a client chose. With both it
does not sleep.

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
    holds_choices: bool = False  # the worker holds what the next one would not know


class Eviction:
    """The idle time of one worker. `now` is monotonic, in seconds."""

    def __init__(self, *, idle_s: float, attached_idle_s: float) -> None:
        self._idle_s = idle_s
        self._attached_idle_s = max(idle_s, attached_idle_s)
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
        """Return whether nothing would be lost, and no client notice, if the worker went to sleep at this moment."""
        return not (facts.claims or facts.streams) and self._has_nothing_open(facts)

    def idle_time_s(self, facts: EvictionFacts) -> float | None:
        """Return how long the worker has to be idle before it sleeps; None: it does not sleep as things are."""
        is_attached = bool(facts.claims or facts.streams)
        if (is_attached and facts.holds_choices) or not self._has_nothing_open(facts):
            return None
        return self._attached_idle_s if is_attached or facts.holds_choices else self._idle_s

    def observed(self, facts: EvictionFacts, now: float) -> bool:
        """Record the present facts; return True when the worker was idle for long enough and may sleep."""
        idle_time_s = self.idle_time_s(facts)
        if idle_time_s is None:
            self._idle_since = None
            return False
        if self._idle_since is None:
            self._idle_since = now
        return now - self._idle_since >= idle_time_s

    def _has_nothing_open(self, facts: EvictionFacts) -> bool:
        if not self.is_reported(facts):
            return False
        return not (facts.open_runs or facts.open_questions or facts.children)
