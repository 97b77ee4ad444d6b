"""Decide which events may be sent next: numbered events in order, then the newest snapshot of each key, or its growth.

Numbered events wait here until the supervisor has room for them (credit). Events that do not fit are not lost: they
are in the store, and `hole` returns which must be read again. Snapshots are sent only when no numbered event waits; so
a snapshot never overtakes a row that it builds on, and never follows the later row of its own key, which voids it.

A growing message waits as its source, which is asked for an event only when that event can be sent: what grows
meanwhile is in the same event. Growth is sent when the supervisor has what was sent before; a new connection, a
numbered event of the key and a request of the supervisor end that.
"""

from collections import deque
from typing import Protocol

from protocol.events import Event

SNAPSHOTS_MAX = 256
"""Snapshots that wait; above it the oldest is dropped. The numbered event of its key is sent all the same."""


class SnapshotSource(Protocol):
    """A growing message."""

    @property
    def key(self) -> str:
        """The key of its events."""
        ...

    def next_event(self, *, may_grow: bool) -> Event:
        """Return a whole snapshot, or the growth since the last event that was sent if `may_grow`."""
        ...

    def sent(self) -> None:
        """The event that `next_event` returned last was sent."""
        ...


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
        self._snapshots: dict[str, Event | SnapshotSource] = {}
        self._offered: dict[str, tuple[Event, SnapshotSource]] = {}  # the events that sources made for the last batch
        self._sent: dict[str, SnapshotSource] = {}  # sources of which the supervisor has a snapshot
        self._whole: set[str] = set()  # the keys of those that it asked for again
        self._takes_growth = False

    @property
    def is_drained(self) -> bool:
        """Return whether everything was sent."""
        return self.sent >= self.last and not self._snapshots

    @property
    def _tail(self) -> int:
        return self._waiting[-1].number if self._waiting else self.sent

    def connected(self, after: int, credit: int, *, takes_growth: bool = False) -> None:
        """A supervisor has everything up to `after`, or will fetch it. It has room for `credit` events."""
        self.is_connected = True
        self._takes_growth = takes_growth
        self._sent.clear()
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
                self.withdraw(event.key)
            self._keep(event)

    def with_snapshot(self, snapshot: Event | SnapshotSource) -> None:
        """Keep a snapshot or a source of snapshots; it replaces the one of the same key."""
        self._snapshots.pop(snapshot.key, None)
        if len(self._snapshots) >= SNAPSHOTS_MAX:
            del self._snapshots[next(iter(self._snapshots))]
        self._snapshots[snapshot.key] = snapshot

    def holds(self, source: SnapshotSource) -> bool:
        """Return whether an event of this source waits already."""
        return self._snapshots.get(source.key) is source

    def is_first(self, key: str) -> bool:
        """Return whether no event of this source was sent since the connection or a numbered event of its key."""
        return key not in self._sent

    def withdraw(self, key: str) -> None:
        """Do not send the snapshot of this key that waits, and send the next one whole."""
        self._snapshots.pop(key, None)
        self._sent.pop(key, None)

    def unfit(self, keys: list[str]) -> None:
        """The supervisor could not append to the snapshots of these keys: send them whole."""
        for key in keys:
            if key in self._sent:
                self._whole.add(key)
                self.with_snapshot(self._sent[key])

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
        self._offered.clear()
        for key, snapshot in self._snapshots.items():
            if len(batch) >= count_max:
                break
            event = snapshot if isinstance(snapshot, Event) else self._made(key, snapshot)
            if batch and size + len(event.data) > bytes_max:
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
                continue
            offered = self._offered.get(event.key)
            if offered is not None and offered[0] is event:
                offered[1].sent()
                self._sent[event.key] = offered[1]
                self._whole.discard(event.key)
                del self._snapshots[event.key]
            elif self._snapshots.get(event.key) is event:
                del self._snapshots[event.key]

    def _made(self, key: str, source: SnapshotSource) -> Event:
        may_grow = self._takes_growth and key in self._sent and key not in self._whole
        event = source.next_event(may_grow=may_grow)
        self._offered[key] = (event, source)
        return event

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
