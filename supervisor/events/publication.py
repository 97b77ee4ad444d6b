"""Decide when clients without deltas see a growing message again: the whole of it, so the longer it is, the later."""

import asyncio
from collections.abc import Callable

from protocol.base.clock import Clock
from protocol.limits import Limits
from supervisor.events.snapshots import Snapshots

_REST = 3
"""The pause after a delivery is at least this many times as long as it took: other work needs the loop, too."""


class Publication:
    """Publishes the growth of one workspace's snapshots. `on_published` is called when that happens later."""

    def __init__(self, snapshots: Snapshots, *, limits: Limits, clock: Clock, on_published: Callable[[], None]) -> None:
        self._snapshots = snapshots
        self._limits = limits
        self._clock = clock
        self._on_published = on_published
        self._next_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def grown(self) -> None:
        """Publish what has grown, now or when that is due."""
        if not self._snapshots.has_unpublished or self._timer is not None:
            return
        now = self._clock.now()
        if now >= self._next_at:
            self._publish(now)
        else:
            self._timer = asyncio.get_running_loop().call_later(self._next_at - now, self._due)

    def delivered(self, took_s: float) -> None:
        """The last events were sent to the clients, which took this long."""
        self._next_at = max(self._next_at, self._clock.now() + _REST * took_s)

    def close(self) -> None:
        """Publish nothing more."""
        if self._timer is not None:
            self._timer.cancel()

    def _due(self) -> None:
        self._timer = None
        self._publish(self._clock.now())
        self._on_published()

    def _publish(self, now: float) -> None:
        pause_s = self._snapshots.publish() / self._limits.snapshot_bytes_per_s
        if pause_s > self._limits.snapshot_interval_s:  # the worker keeps shorter ones
            self._next_at = now + pause_s
