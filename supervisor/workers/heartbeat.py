"""Decide whether a worker's loop is alive (fresh, late or lost), allowing for pauses of the supervisor itself."""

from enum import Enum

from protocol.limits import Limits


class HeartbeatState(Enum):
    """The age of the last beat, in three steps."""

    FRESH = "fresh"
    LATE = "late"
    LOST = "lost"


class HeartbeatWatch:
    """The beats of one worker process. Times are monotonic seconds."""

    def __init__(self, limits: Limits, now: float) -> None:
        self._interval_s = limits.heartbeat_interval_s
        self._lost_s = limits.heartbeat_lost_s
        self._last_beat = now
        self._last_look = now

    def beat(self, now: float) -> None:
        """Record a sign of life of the worker's loop."""
        self._last_beat = now

    def look(self, now: float) -> HeartbeatState:
        """Return the state now; to be called about every interval.

        A call that comes much later means that the supervisor itself was paused: a suspended machine, a stopped
        process. Beats that came meanwhile lie unread, so the pause does not count against the worker.
        """
        paused_s = now - self._last_look - self._interval_s
        self._last_look = now
        if paused_s > self._interval_s:
            self._last_beat = min(now, self._last_beat + paused_s)
        silent_s = now - self._last_beat
        if silent_s > self._lost_s:
            return HeartbeatState.LOST
        return HeartbeatState.LATE if silent_s > 2 * self._interval_s else HeartbeatState.FRESH
