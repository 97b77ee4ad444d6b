"""Send committed events in order, and the newest snapshot of each key, as credit and socket allow.

The events of one iteration of the event loop are sent in one batch; the first event after a pause is sent at once.
Snapshots that follow each other closely wait a few milliseconds, so that several share a batch. Growing messages are
sent every `snapshot_interval_s`, and long ones that must be sent whole less often. The workers of a machine send them
at the same moments, so that the supervisor wakes once for all of them.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from protocol.base.clock import Clock
from protocol.base.logs import fields
from protocol.base.tasks import TaskOwner
from protocol.errors import BulkheadError
from protocol.events import Event
from protocol.limits import Limits
from worker.events.window import SnapshotSource, Window

SNAPSHOT_PAUSE_S = 0.01
"""The minimum time between two batches that hold only snapshots."""
_FETCH_PAUSE_S = 0.5


class Publisher:
    """Send the events of this worker. All methods are for the event loop; none blocks."""

    def __init__(self, *, limits: Limits, clock: Clock, log: logging.Logger) -> None:
        self._limits = limits
        self._clock = clock
        self._log = log
        self._send: Callable[[list[Event]], bool]
        self._fetch: Callable[[int, int], Awaitable[list[Event]]]
        self._window = Window(count_max=limits.event_window, bytes_max=8 * limits.event_batch_max_bytes)
        self._tasks = TaskOwner("publisher", log)
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0
        self._sent_at = 0.0  # of a batch that held only snapshots
        self._grow_at = 0.0  # when growing messages may be sent next
        self._fetching = False
        self._changed = asyncio.Event()

    def bind(self, *, send: Callable[[list[Event]], bool], fetch: Callable[[int, int], Awaitable[list[Event]]]) -> None:
        """Set both ends, which need the publisher themselves. Call once, before the first `connected`.

        `send` takes a batch, or returns False and `writable` is called later. `fetch(after, count)` reads the store; it
        raises BulkheadError, code `reset` when the events are no longer kept.
        """
        self._send = send
        self._fetch = fetch

    @property
    def last_number(self) -> int:
        """The newest number that was committed, or given to `connected`."""
        return self._window.last

    # --- from the store and the runs --------------------------------------------------------------------------------

    def committed(self, events: list[Event]) -> None:
        """Send numbered events, which come in commit order after their commit."""
        self._window.committed(events)
        self._schedule(0.0)

    def snapshot(self, event: Event) -> None:
        """Send the newest snapshot of its key; it replaces an older one that was not sent yet."""
        self._window.with_snapshot(event)
        self._schedule(max(0.0, self._sent_at + SNAPSHOT_PAUSE_S - self._clock.now()))

    def grow(self, source: SnapshotSource) -> None:
        """Send what has changed in this growing message: its first text at once, more at the next interval."""
        if self._window.holds(source):
            return  # it will be in the event that waits
        self._window.with_snapshot(source)
        is_first = self._window.is_first(source.key)
        self._schedule(0.0 if is_first else max(0.0, self._grow_at - self._clock.now()))

    def hurry(self) -> None:
        """Send what waits for the next interval now."""
        self._schedule(0.0)

    def withdraw(self, key: str) -> None:
        """Send no snapshot of this key until `grow` or `snapshot` is called again."""
        self._window.withdraw(key)

    async def drain(self, timeout_s: float) -> bool:
        """Wait until the socket has everything. Return False after `timeout_s` seconds or without a supervisor."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self._window.is_drained:
                    if not self._window.is_connected:
                        return False
                    self._changed.clear()
                    self._schedule(0.0)
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Stop sending."""
        self._window.disconnected()
        self._changed.set()
        if self._timer is not None:
            self._timer.cancel()
        await self._tasks.close()

    # --- called by the link (worker.link.interfaces.EventSource) ------------------------------------------------------

    def connected(self, last_number: int, credit: int, *, takes_growth: bool = False) -> None:
        """Send the events after `last_number`, the end of the log as a supervisor knows it."""
        self._window.connected(last_number, credit, takes_growth=takes_growth)
        self._schedule(0.0)

    def credit(self, more: int) -> None:
        """The supervisor has room for `more` numbered events."""
        self._window.credited(more)
        self._schedule(0.0)

    def unfit(self, keys: list[str]) -> None:
        """The supervisor could not append to the snapshots of these keys: send them whole with the next interval."""
        self._window.unfit(keys)
        self._schedule(max(0.0, self._grow_at - self._clock.now()))

    def disconnected(self) -> None:
        """The connection is closed."""
        self._window.disconnected()
        self._changed.set()

    def writable(self) -> None:
        """The socket takes messages again."""
        self._schedule(0.0)

    # --- sending ----------------------------------------------------------------------------------------------------

    def _schedule(self, delay_s: float) -> None:
        at = self._clock.now() + delay_s if delay_s > 0 else 0.0
        if self._timer is not None:
            if at >= self._timer_at:
                return
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer_at = at
        self._timer = loop.call_later(delay_s, self._flush) if delay_s > 0 else loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._timer = None
        limits = self._limits
        while batch := self._window.next_batch(limits.event_batch_max, limits.event_batch_max_bytes):
            if not self._send(batch):
                break
            self._window.went(batch)
            if batch[-1].is_snapshot:
                self._snapshots_sent(batch)
            if self._window.is_drained:
                break
        if self._window.hole() is not None and not self._fetching:
            self._fetching = True
            self._tasks.start(self._fill(), "fill")
        self._changed.set()

    def _snapshots_sent(self, batch: list[Event]) -> None:
        now = self._clock.now()
        if batch[0].is_snapshot:  # else the first snapshot of an answer would not be sent at once
            self._sent_at = now
        interval_s = self._limits.snapshot_interval_s
        size = sum([len(event.data) for event in batch if event.is_snapshot])
        pause_s = size / self._limits.snapshot_bytes_per_s
        # The next multiple of the interval: the clock is the same for all workers.
        self._grow_at = max(now + pause_s, (now // interval_s + 1) * interval_s) if interval_s > 0 else now + pause_s

    async def _fill(self) -> None:
        try:
            hole = self._window.hole()
            if hole is None:
                return
            try:
                filled = self._window.filled(await self._fetch(*hole))
            except BulkheadError as error:
                if error.code != "reset":
                    self._log.warning("cannot read events", extra=fields(after=hole[0], reason=error.message))
                    await asyncio.sleep(_FETCH_PAUSE_S)
                    return
                filled = False
            if not filled and self._window.hole() == hole:
                self._window.skipped()
        finally:
            self._fetching = False
            self._schedule_unless_closed()

    def _schedule_unless_closed(self) -> None:
        if self._window.is_connected:
            self._schedule(0.0)
