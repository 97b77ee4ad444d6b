"""Decide which events may be sent next: numbered events in order, then the newest snapshot of each key.

Numbered events wait here until the supervisor has room for them (credit). Events that do not fit are not lost: they
are in the store, and `hole` returns which must be read again. Snapshots are sent only when no numbered event waits; so
a snapshot never overtakes a row that it builds on, and never follows the later row of its own key, which voids it.
"""

from collections import deque

from protocol.events import Event

SNAPSHOTS_MAX = 256
"""Snapshots that wait; above it the oldest is dropped. The numbered event of its key is sent all the same."""


class Window:
    """The sending side of one event log. While it is not connected, it only counts the log's numbers."""

    def __init__(self, *, count_max: int, bytes_max: int) -> None:
        self.is_connected = False
        self.last = 0  # the newest committed number
        self.sent = 0  # everything up to here was sent over this connection, or before it
        self._credit = 0
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._waiting: deque[Event] = deque()  # without a hole, from `sent` + 1
        self._bytes = 0
        self._snapshots: dict[str, Event] = {}

    @property
    def is_drained(self) -> bool:
        """Return whether everything was sent."""
        return self.sent >= self.last and not self._snapshots

    @property
    def _tail(self) -> int:
        return self._waiting[-1].number if self._waiting else self.sent

    def connected(self, after: int, credit: int) -> None:
        """A supervisor has everything up to `after`, or will fetch it. It has room for `credit` events."""
        self.is_connected = True
        self.last = max(self.last, after)
        self.sent = after
        self._credit = credit
        self._clear()

    def disconnected(self) -> None:
        """The connection is closed. The waiting events are in the store."""
        self.is_connected = False
        self._credit = 0
        self._clear()

    def credited(self, more: int) -> None:
        """The supervisor has room for `more` events."""
        if self.is_connected:
            self._credit += more

    def committed(self, events: list[Event]) -> None:
        """These events were stored, in this order."""
        for event in events:
            self.last = max(self.last, event.number)
            if event.key:
                self._snapshots.pop(event.key, None)
            self._keep(event)

    def with_snapshot(self, snapshot: Event) -> None:
        """Keep a snapshot; it replaces the one of the same key."""
        self._snapshots.pop(snapshot.key, None)
        if len(self._snapshots) >= SNAPSHOTS_MAX:
            del self._snapshots[next(iter(self._snapshots))]
        self._snapshots[snapshot.key] = snapshot

    def hole(self) -> tuple[int, int] | None:
        """Return what must be read from the store before anything else can be sent: after which number, how many."""
        if not self.is_connected or self._waiting or self.sent >= self.last:
            return None
        return self.sent, min(self.last - self.sent, self._count_max)

    def filled(self, events: list[Event]) -> bool:
        """Add events that were read for a hole. Return False when none of them fits."""
        before = self._tail
        for event in events:
            self._keep(event)
        return self._tail > before

    def skipped(self) -> None:
        """The store has deleted the events of the hole; the supervisor finds out by the numbers."""
        self._clear()
        self.sent = self.last

    def next_batch(self, count_max: int, bytes_max: int) -> list[Event]:
        """Return the events that may be sent now, in order: at least one, if any may. `went` removes them."""
        batch: list[Event] = []
        size = 0
        if not self.is_connected:
            return batch
        for event in self._waiting:
            if len(batch) >= min(count_max, self._credit) or (batch and size + len(event.data) > bytes_max):
                return batch
            batch.append(event)
            size += len(event.data)
        if self._tail < self.last:
            return batch  # a hole: snapshots come after it
        for event in self._snapshots.values():
            if len(batch) >= count_max or (batch and size + len(event.data) > bytes_max):
                break
            batch.append(event)
            size += len(event.data)
        return batch

    def went(self, batch: list[Event]) -> None:
        """Remove the batch that `next_batch` returned last, because it was sent."""
        for event in batch:
            if event.number:
                self._waiting.popleft()
                self._bytes -= len(event.data)
                self._credit -= 1
                self.sent = event.number
            elif self._snapshots.get(event.key) is event:
                del self._snapshots[event.key]

    def _keep(self, event: Event) -> None:
        if not self.is_connected or event.number != self._tail + 1:
            return
        if self._waiting and (len(self._waiting) >= self._count_max or self._bytes + len(event.data) > self._bytes_max):
            return
        self._waiting.append(event)
        self._bytes += len(event.data)

    def _clear(self) -> None:
        self._waiting.clear()
        self._bytes = 0
