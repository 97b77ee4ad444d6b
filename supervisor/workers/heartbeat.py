"""Is the worker's loop alive? Fresh, late or lost, forgiving a pause of our own."""

from enum import Enum

from protocol.limits import Limits


class HeartbeatState(Enum):
    """What the last beat means now."""

    FRESH = "fresh"
    LATE = "late"
    LOST = "lost"


class HeartbeatWatch:
    """Judges the beats of one worker process. Times are monotonic seconds."""

    def __init__(self, limits: Limits, now: float) -> None:
        self._interval_s = limits.heartbeat_interval_s
        self._lost_s = limits.heartbeat_lost_s
        self._last_beat = now
        self._last_look = now

    def beat(self, now: float) -> None:
        """The worker's loop spoke."""
        self._last_beat = now

    def look(self, now: float) -> HeartbeatState:
        """Judge; to be called about every interval.

        When we were not called for much longer than that, we were the ones who slept (H01, a suspended machine, a
        stopped supervisor): beats that came meanwhile lie unread, so the worker gets that time back.
        """
        slept_s = now - self._last_look - self._interval_s
        self._last_look = now
        if slept_s > self._interval_s:
            self._last_beat = min(now, self._last_beat + slept_s)
        silent_s = now - self._last_beat
        if silent_s > self._lost_s:
            return HeartbeatState.LOST
        return HeartbeatState.LATE if silent_s > 2 * self._interval_s else HeartbeatState.FRESH
