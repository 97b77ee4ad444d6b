"""Keep the newest snapshot of each key of one workspace, and append to those that grow.

Theory of operation. A snapshot that grows is its head, its tail, and text in between to which each event of the worker
adds. Clients that asked for deltas get the added text. The others get the whole snapshot: it is made when the first of
them takes it, once for all of them, and growth counts as a change for them only when it is published (`publish`).

Every change has a version. A client has the version up to which it has read, and gets what is newer. A delta is of use
only to a client that has the version before it; others get the whole snapshot first.
"""

from collections import deque
from typing import NamedTuple, cast

import msgspec

from protocol.api.message import MessageDelta
from protocol.events import EVENTS, Event, event_data

SNAPSHOTS_MAX = 1024
"""Snapshots of one workspace; above it the oldest is dropped. The numbered event of its key is sent all the same."""
DELTAS_MAX = 256
"""Deltas kept of one snapshot; a client that is further behind gets the whole snapshot."""


class _Delta(NamedTuple):
    version: int
    event: Event


class Snapshot:
    """The newest snapshot of one key."""

    __slots__ = ("_deltas", "_deltas_from", "_head", "_line", "_line_of", "_tail", "is_own", "published", "version")

    def __init__(self, event: Event, version: int) -> None:
        row = EVENTS.get(event.kind)
        self.is_own = row is None or row.is_own  # only for clients with ids
        self.version = version  # of the last change
        self.published = version  # of the last change that clients without deltas are to see
        data = on_one_line(event.data)
        head_bytes = len(data) - event.tail_bytes if event.tail_bytes else 0
        self._head = bytearray(data[:head_bytes])  # empty: it cannot grow
        self._tail = data[head_bytes:]
        self._line = b""  # the whole snapshot as text for clients, of the version `_line_of`
        self._line_of = 0
        self._deltas: deque[_Delta] = deque()
        self._deltas_from = version  # what a client must have to continue with the first delta

    @property
    def size(self) -> int:
        """Return the bytes of the whole snapshot."""
        return len(self._head) + len(self._tail)

    def grow(self, event: Event, version: int) -> bool:
        """Append the text of `event`. Return False if it does not continue this snapshot."""
        growth = event.growth
        if growth is None or not self._head or growth.base != len(self._head):
            return False
        if b"\n" in event.data or b"\r" in event.data:
            return False  # not escaped: it would end the line
        self._head += event.data
        if growth.tail:
            self._tail = on_one_line(growth.tail)
        self.version = version
        self._deltas.append(_Delta(version, event))
        if len(self._deltas) > DELTAS_MAX:
            self._deltas_from = self._deltas.popleft().version
        return True

    def whole(self) -> bytes:
        """Return the whole snapshot for clients, at least as new as what is published."""
        return self._whole(self.published)

    def text_after(self, version: int, lines: dict[int, bytes]) -> bytes:
        """Return what a client with deltas that has read up to `version` needs. `lines` keeps encoded deltas."""
        text = b""
        if version < self._deltas_from:
            text = self._whole(self._deltas_from)
            version = self._line_of
        newer = []
        for delta in reversed(self._deltas):
            if delta.version <= version:
                break
            line = lines.get(delta.version)
            if line is None:
                line = lines[delta.version] = _delta_line(delta.event)
            newer.append(line)
        return text + b"".join(reversed(newer))

    def _whole(self, version_min: int) -> bytes:
        if not self._line or self._line_of < version_min:
            self._line = b"".join((b"data: ", self._head, self._tail, b"\n\n"))
            self._line_of = self.version
        return self._line


class Snapshots:
    """The snapshots of one workspace, the one that changed last at the end."""

    def __init__(self, *, bytes_max: int) -> None:
        """`bytes_max` limits the size to which a snapshot can grow."""
        self.version = 0  # of the last change of any snapshot
        self._bytes_max = bytes_max
        self._by_key: dict[str, Snapshot] = {}
        self._unpublished: dict[str, Snapshot] = {}
        self._texts: dict[tuple[int, bool, bool], bytes] = {}  # joined since the last change
        self._lines: dict[int, bytes] = {}  # encoded deltas by their version, as long as a client may share them

    @property
    def has_unpublished(self) -> bool:
        """Return whether a snapshot has grown since it was published."""
        return bool(self._unpublished)

    def replace(self, event: Event) -> None:
        """Keep a whole snapshot; it replaces the one of the same key, and is published at once."""
        self.remove(event.key)
        if len(self._by_key) >= SNAPSHOTS_MAX:
            self.remove(next(iter(self._by_key)))
        self._by_key[event.key] = Snapshot(event, self._next_version())

    def grow(self, event: Event) -> bool:
        """Append to the snapshot of the same key. Return False if there is none that `event` continues."""
        snapshot = self._by_key.get(event.key)
        if snapshot is None or snapshot.size + len(event.data) > self._bytes_max:
            return False
        if not snapshot.grow(event, self.version + 1):
            return False
        self._next_version()
        del self._by_key[event.key]
        self._by_key[event.key] = self._unpublished[event.key] = snapshot
        return True

    def publish(self) -> int:
        """Let clients without deltas see what has grown. Return the size of these snapshots, in bytes."""
        size = 0
        for key, snapshot in self._unpublished.items():
            snapshot.version = snapshot.published = self._next_version()
            size += snapshot.size
            del self._by_key[key]
            self._by_key[key] = snapshot
        self._unpublished.clear()
        return size

    def remove(self, key: str) -> None:
        """Remove the snapshot of this key, if there is one."""
        if self._by_key.pop(key, None) is not None:
            self._unpublished.pop(key, None)
            self._forget_texts()

    def clear(self) -> None:
        """Remove all snapshots."""
        self._by_key.clear()
        self._unpublished.clear()
        self._forget_texts()

    def text(self, after: int, *, wants_ids: bool, wants_deltas: bool) -> bytes:
        """Return what a client needs that has read up to version `after`, oldest first."""
        key = (after, wants_ids, wants_deltas)
        if (text := self._texts.get(key)) is None:
            parts = []
            for snapshot in reversed(self._by_key.values()):
                if snapshot.version <= after:
                    break
                if snapshot.is_own and not wants_ids:
                    continue
                if wants_deltas:
                    parts.append(snapshot.text_after(after, self._lines))
                elif snapshot.published > after:
                    parts.append(snapshot.whole())
            text = self._texts[key] = b"".join(reversed(parts))
        return text

    def _next_version(self) -> int:
        self._texts.clear()
        self.version += 1
        if len(self._lines) > DELTAS_MAX:
            self._lines.clear()
        return self.version

    def _forget_texts(self) -> None:
        self._texts.clear()
        self._lines.clear()


def on_one_line(data: bytes) -> bytes:
    """Return JSON without line ends. The worker promises one line; JSON has line ends only where a space is equal."""
    if b"\n" in data or b"\r" in data:
        data = data.replace(b"\n", b" ").replace(b"\r", b" ")
    return data


def _delta_line(event: Event) -> bytes:
    growth = event.growth
    assert growth is not None
    delta = MessageDelta(
        message_id=event.key,
        session_id=event.session_id,
        run_id=event.run_id,
        part=growth.part,
        field=growth.field,
        at=growth.at,
        text=cast(str, msgspec.Raw(b'"' + event.data + b'"')),  # escaped already
    )
    return b"data: " + event_data(delta) + b"\n\n"
