"""Keep the recent events of one workspace, once for all its clients.

Theory of operation. Everything that may be sent to a client is in one log in memory, under positions that only grow:
numbered events, and the supervisor's own remarks (`workspace_state`) that only clients with ids get. A client is a
position in this log (stream.py), not a queue of its own; a slow client costs only the items that it is behind, and
text that several clients need at once is joined once. Snapshots are beside the log (snapshots.py): the newest of each
key, void as soon as a numbered event of that key arrives; they are always newer than every numbered event of their key.

The log also finds the events after a number for clients that resume: in memory, by fetching from the worker, or not
at all (reset).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from protocol.events import EVENTS, Event, EventId
from supervisor.events.snapshots import Snapshots, on_one_line

_COMPACT_AT = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One event as it is sent to clients, encoded once. `head` is the line with the id, for clients with ids."""

    number: int
    head: bytes
    line: bytes
    is_plain: bool  # clients without ids get it, too

    @property
    def size(self) -> int:
        """The bytes that it takes in memory."""
        return len(self.head) + len(self.line)


def encode_event(event: Event, log_id: str) -> Item:
    """Return the SSE text of `event`."""
    head = b"id: %b.%d\n" % (log_id.encode(), event.number) if event.number else b""
    row = EVENTS.get(event.kind)
    return Item(
        event.number, head, b"data: " + on_one_line(event.data) + b"\n\n", is_plain=row is not None and not row.is_own
    )


def join(items: Sequence[Item], wants_ids: bool) -> bytes:
    """Return the text of `items`, for clients with or without ids."""
    if not wants_ids:
        return b"".join([item.line for item in items if item.is_plain])
    return b"".join([part for item in items for part in (item.head, item.line)])


@dataclass(frozen=True, slots=True)
class FromMemory:
    """All events after the cursor are in memory, from this position on."""

    position: int


@dataclass(frozen=True, slots=True)
class AskWorker:
    """The events after this number are no longer in memory: fetch them from the worker."""

    after: int


@dataclass(frozen=True, slots=True)
class CursorLost:
    """This cursor cannot be served, for this reason."""

    reason: str


ReplaySource = FromMemory | AskWorker | CursorLost


class ReplayLog:
    """The log in memory: positions `start <= p < end`, and the newest snapshots. `last` is the newest number."""

    def __init__(
        self, *, kept: int, kept_bytes: int, behind_max: int, behind_max_bytes: int, snapshot_max_bytes: int
    ) -> None:
        self.log_id = ""
        self.last = 0
        self.start = 0
        self.snapshots = Snapshots(bytes_max=snapshot_max_bytes)
        self._kept = kept
        self._kept_bytes = kept_bytes
        self._behind_max = max(kept, behind_max)
        self._behind_max_bytes = max(kept_bytes, behind_max_bytes)
        self._items: list[Item] = []
        self._deleted = 0  # leading items that are void; deleted many at a time
        self._texts: dict[tuple[int, bool], tuple[bytes, int]] = {}  # joined since the last change
        self._bytes = 0
        self._charged = 0  # the same, with an upper bound for each item

    @property
    def end(self) -> int:
        """The position of the next item."""
        return self.start + len(self._items) - self._deleted

    @property
    def kept_bytes(self) -> int:
        """The bytes that the items of the log take now."""
        return self._bytes

    @property
    def is_over(self) -> bool:
        """Return whether more is kept than necessary, so that `trim` should be called."""
        return self.end - self.start > self._kept or self._bytes > self._kept_bytes

    def opened(self, log_id: str, last: int) -> None:
        """Begin with this log, of which nothing is in memory. Positions continue.

        Remarks from before the first log was known stay.
        """
        if self.log_id:
            self.start = self.end
            self._items.clear()
            self._deleted = 0
            self._texts.clear()
            self._bytes = self._charged = 0
            self.snapshots.clear()
        self.log_id = log_id
        self.last = last

    def skipped_to(self, last: int) -> None:
        """Skip the events up to `last`, which no client needs: older cursors are served by the worker."""
        self.opened(self.log_id, last)

    def added(self, event: Event) -> None:
        """Add the next numbered event (`last + 1`)."""
        assert event.number == self.last + 1, (event.number, self.last)
        self.last = event.number
        if event.key:
            self.snapshots.remove(event.key)
        self._keep(encode_event(event, self.log_id))

    def remarked(self, text: bytes) -> None:
        """Add a text without a number that clients with ids get at this position; it is never replayed."""
        self._keep(Item(0, b"", text, False))

    def trim(self, passed: int) -> None:
        """Delete items above the limits: first those before `passed`, then also items that slow clients still need.

        A single event counts against slow clients for a quarter of the limit at most: one very large event must not
        cut all clients.
        """
        while self.start < passed and self.is_over:
            self._delete_first()
        while self.end - self.start > self._behind_max or self._charged > self._behind_max_bytes:
            self._delete_first()

    def find(self, cursor: EventId, known_to: int) -> ReplaySource:
        """Find the events after `cursor`; `known_to` is the highest number that the worker has mentioned."""
        if cursor.log_id != self.log_id:
            return CursorLost("this id is of another event log")
        if cursor.number > max(self.last, known_to):
            return CursorLost("this id is beyond the newest event")
        if cursor.number >= self.last:
            return FromMemory(self.end)
        if cursor.number < self.last - self.numbered:
            return AskWorker(cursor.number)
        # Numbers have no hole: the cursor's successor is this many numbered items from the end.
        position, left = self.end, self.last - cursor.number
        while left:
            position -= 1
            if self._items[position - self.start + self._deleted].number:
                left -= 1
        return FromMemory(position)

    @property
    def numbered(self) -> int:
        """The number of numbered events in memory; they are the newest ones, without a hole."""
        for index in range(self._deleted, len(self._items)):
            if number := self._items[index].number:
                return self.last - number + 1
        return 0

    def items(self, position: int, bytes_max: int) -> list[Item]:
        """Return the items from `position` on: at least one if there is any, then up to `bytes_max` bytes."""
        first = position - self.start + self._deleted
        size = 0
        for index in range(first, len(self._items)):
            size += self._items[index].size
            if size > bytes_max and index > first:
                return self._items[first:index]
        return self._items[first:]

    def text(self, position: int, bytes_max: int, *, wants_ids: bool) -> tuple[bytes, int]:
        """Return the text of `items` and the position after it. Clients at one position share one text."""
        key = (position, wants_ids)
        if (entry := self._texts.get(key)) is None:
            items = self.items(position, bytes_max)
            entry = self._texts[key] = (join(items, wants_ids), position + len(items))
        return entry

    def _keep(self, item: Item) -> None:
        self._texts.clear()
        self._items.append(item)
        self._bytes += item.size
        self._charged += min(item.size, self._behind_max_bytes // 4)

    def _delete_first(self) -> None:
        size = self._items[self._deleted].size
        self._bytes -= size
        self._charged -= min(size, self._behind_max_bytes // 4)
        self._items[self._deleted] = _DELETED
        self._deleted += 1
        self.start += 1
        if self._deleted > _COMPACT_AT:
            del self._items[: self._deleted]
            self._deleted = 0


_DELETED = Item(0, b"", b"", False)
