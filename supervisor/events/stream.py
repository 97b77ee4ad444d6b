"""Decide what one client gets next from the log, and when its stream is cut.

A client is behind while the events that it missed are older than the log in memory and come from the worker, page by
page, as fast as the client reads. Then, in one step, it changes to the log in memory: from there on it gets every later
event once. A client whose position is deleted from memory is too slow and is cut; with ids it resumes at its last id.
"""

from collections.abc import Sequence
from enum import Enum

from protocol.api.envelope import StreamReset
from protocol.base.machine import Machine
from protocol.events import Event, EventId, event_data
from supervisor.events.replay import AskWorker, CursorLost, FromMemory, ReplayLog, encode_event, join

CHUNK_MAX_BYTES = 256 * 1024
"""The most that a client gets in one write, unless a single event is larger."""


class StreamState(Enum):
    """The state of a client's stream."""

    BEHIND = "behind"  # it needs pages from the worker
    LIVE = "live"
    ENDING = "ending"  # it gets the events in memory, then a clean end
    OVER = "over"


class ClientStream(Machine[StreamState]):
    """One client's stream. Clients with `wants_ids` may have a cursor and get the supervisor's own remarks.

    Clients with `wants_deltas` get the text that is added to a snapshot that they have.
    """

    table = {
        StreamState.BEHIND: {
            "found": (StreamState.LIVE,),
            "older": (StreamState.BEHIND,),
            "reset": (StreamState.LIVE,),
            "ended": (StreamState.OVER,),
            "closed": (StreamState.OVER,),
        },
        StreamState.LIVE: {
            "older": (StreamState.BEHIND,),
            "reset": (StreamState.LIVE, StreamState.OVER),
            "overtaken": (StreamState.OVER,),
            "ended": (StreamState.ENDING,),
            "closed": (StreamState.OVER,),
        },
        StreamState.ENDING: {
            "reset": (StreamState.OVER,),
            "overtaken": (StreamState.OVER,),
            "drained": (StreamState.OVER,),
            "closed": (StreamState.OVER,),
        },
        StreamState.OVER: {},
    }

    def __init__(
        self,
        log: ReplayLog,
        *,
        cursor: EventId | None,
        cursor_is_bad: bool,
        wants_ids: bool,
        wants_deltas: bool,
        known_to: int,
        preamble: bytes = b"",
    ) -> None:
        super().__init__(StreamState.LIVE)
        self.wants_ids = wants_ids
        self._wants_deltas = wants_deltas
        self.position = log.end
        self._log = log
        # With deltas a client needs what they are appended to: it begins with the newest snapshots.
        self._version = 0 if wants_deltas else log.snapshots.version
        self._cursor: EventId | None = None  # while behind: the last event that the client has
        self._skip_through = 0  # the client has the events up to here already, from an earlier stream
        self._remarks_from = log.end
        self._live_after = log.last if log.log_id else None  # it gets every event with a higher number
        self._texts = [preamble] if preamble else []
        if not wants_ids:
            return
        if cursor_is_bad:
            self._reset("this id is not the id of an event")
        elif cursor is not None:
            self._version = 0  # a client that missed events gets the newest snapshots
            self._locate(cursor, known_to)
        elif log.log_id:
            self._texts.append(base_text(log))

    def began(self, number: int) -> None:
        """The log is known now, and goes up to `number`: the client gets the events after it."""
        if self._live_after is None:
            self._live_after = number

    def add_open_requests(self, events: Sequence[Event]) -> None:
        """Add the events of open requests that are older than the stream of this client, which has no cursor."""
        if self._live_after is not None and self.state is not StreamState.OVER:
            older = [event for event in events if event.number <= self._live_after]
            self._texts += [b"data: %b\n\n" % event.data for event in older]

    @property
    def is_over(self) -> bool:
        """Return whether the stream has ended."""
        return self.state is StreamState.OVER

    @property
    def is_reading(self) -> bool:
        """Return whether the client still needs the items in memory from its position on."""
        return self.state is StreamState.LIVE or self.state is StreamState.ENDING

    @property
    def wants_page(self) -> EventId | None:
        """The cursor after which events must be fetched from the worker, while the client is behind."""
        return self._cursor if self.state is StreamState.BEHIND and not self._texts else None

    def take(self) -> bytes:
        """Return the next piece of text, b"" when there is nothing now. It counts as delivered."""
        if self._texts:
            text = b"".join(self._texts)
            self._texts.clear()
            return text
        if self.state is StreamState.BEHIND or self.state is StreamState.OVER:
            return b""
        if self.position < self._log.start:
            self._move("overtaken", StreamState.OVER)
            return b""
        text = b""
        while not text and self.position < self._log.end:
            text = self._take_items()
        snapshots = self._log.snapshots
        if self.position == self._log.end and self._version < snapshots.version:
            text += snapshots.text(self._version, wants_ids=self.wants_ids, wants_deltas=self._wants_deltas)
            self._version = snapshots.version
        if not text and self.state is StreamState.ENDING:
            self._move("drained", StreamState.OVER)
        return text

    def paged(self, cursor: EventId, events: list[Event], known_to: int) -> bool:
        """Take a page of events after `cursor`. Return False when none of them fits: the client must be reset."""
        if self.state is not StreamState.BEHIND or cursor != self._cursor:
            return True  # the log was replaced, or the client left, while the worker was reading
        if cursor.log_id == self._log.log_id:
            number = cursor.number
            items = []
            for event in events:
                if event.number == number + 1:
                    items.append(encode_event(event, cursor.log_id))
                    number += 1
            if items:
                self._texts.append(join(items, True))
            elif number < self._log.last - self._log.numbered:
                return False
            cursor = EventId(cursor.log_id, number)
        elif not self._log.log_id:
            return False  # the worker answered before it named its log, which no correct worker does
        self._cursor = cursor
        self.try_live(known_to)
        return True

    def try_live(self, known_to: int) -> None:
        """While behind: change to the log in memory if it can serve the client now."""
        if self.state is StreamState.BEHIND and self._cursor is not None and self._log.log_id:
            self._locate(self._cursor, known_to)

    def reset(self, reason: str) -> None:
        """Send `reset`, because events are missing, or end the stream of a client that would not understand it."""
        if self.state is StreamState.OVER:
            return
        if self.wants_ids and self.state is not StreamState.ENDING:
            self._reset(reason)
        else:
            # It would wait for ever for the missed events; after a clean end it reconnects and loads everything again.
            self._move("reset", StreamState.OVER)

    def end(self) -> None:
        """End cleanly, after the events in memory. A client that is behind ends at once and resumes with its id."""
        if self.state is StreamState.BEHIND:
            self._move("ended", StreamState.OVER)
        elif self.state is StreamState.LIVE:
            self._move("ended", StreamState.ENDING)

    def close(self) -> None:
        """The client has left."""
        if self.state is not StreamState.OVER:
            self._move("closed", StreamState.OVER)

    def _take_items(self) -> bytes:
        if self._skip_through or self.position < self._remarks_from:
            # Only at its beginning a stream differs from the others at its position.
            items = self._log.items(self.position, CHUNK_MAX_BYTES)
            selected = [
                item
                for position, item in enumerate(items, self.position)
                if (item.number > self._skip_through if item.number else position >= self._remarks_from)
            ]
            if items[-1].number > self._skip_through:
                self._skip_through = 0
            self.position += len(items)
            return join(selected, self.wants_ids)
        text, self.position = self._log.text(self.position, CHUNK_MAX_BYTES, wants_ids=self.wants_ids)
        return text

    def _locate(self, cursor: EventId, known_to: int) -> None:
        source = self._log.find(cursor, known_to) if self._log.log_id else AskWorker(cursor.number)
        match source:
            case FromMemory(position):
                self.position = position
                self._skip_through = cursor.number
                self._cursor = None
                if self.state is StreamState.BEHIND:
                    self._move("found", StreamState.LIVE)
            case AskWorker():
                self._cursor = cursor
                self._move("older", StreamState.BEHIND)
            case CursorLost(reason):
                self._reset(reason)

    def _reset(self, reason: str) -> None:
        self._move("reset", StreamState.LIVE)
        self._cursor = None
        self._skip_through = 0
        self.position = self._log.end
        if self._wants_deltas:
            self._version = 0
        self._texts.append(reset_text(self._log, reason))


def base_text(log: ReplayLog) -> bytes:
    """Return the id at which a client without a cursor starts, so that it can resume before its first event (C05)."""
    return b"id: %b.%d\n\n" % (log.log_id.encode(), log.last)


def reset_text(log: ReplayLog, reason: str) -> bytes:
    """Return the `reset` event: the client loads everything again and continues from this cursor."""
    cursor = f"{log.log_id}.{log.last}" if log.log_id else ""
    head = f"id: {cursor}\n".encode() if cursor else b""
    return head + b"data: " + event_data(StreamReset(reason=reason, cursor=cursor)) + b"\n\n"
