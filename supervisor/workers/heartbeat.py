"""Decide whether a worker's loop is alive, allowing for pauses of the supervisor itself."""

from protocol.limits import Limits


class HeartbeatWatch:
    """The heartbeats of one worker process. Times are monotonic seconds.

    A worker is lost when it is silent for `heartbeat_lost_s` longer than its last heartbeat announced. An idle worker
    announces long intervals; but once it has to answer a message, its silence counts from there.
    """

    def __init__(self, limits: Limits, now: float) -> None:
        self._interval_s = limits.heartbeat_interval_s
        self._lost_s = limits.heartbeat_lost_s
        self._lost_at = now + self._lost_s
        self._look_at = self._lost_at

    @property
    def look_at(self) -> float:
        """Return when to call `is_lost` next."""
        return self._look_at

    def beat(self, now: float, interval_s: float = 0.0) -> None:
        """Record a sign of life of the worker's loop; the next one comes within `interval_s`, by default at once."""
        self._lost_at = now + self._lost_s + max(0.0, interval_s - self._interval_s)

    def expect(self, now: float) -> bool:
        """Expect heartbeats at short intervals from now on; return whether `look_at` is earlier than before."""
        self._lost_at = min(self._lost_at, now + self._lost_s)
        is_earlier = self._lost_at < self._look_at
        self._look_at = min(self._look_at, self._lost_at)
        return is_earlier

    def is_lost(self, now: float) -> bool:
        """Return whether the worker counts as hung; to be called at `look_at`.

        A call that comes much later means that the supervisor itself was paused: a suspended machine, a stopped
        process. Heartbeats that came meanwhile lie unread, so the pause does not count against the worker.
        """
        paused_s = now - self._look_at
        if paused_s > self._interval_s:
            self._lost_at = max(self._lost_at + paused_s, now) + self._interval_s
        self._look_at = max(self._lost_at, now + self._interval_s)
        return now >= self._lost_at
