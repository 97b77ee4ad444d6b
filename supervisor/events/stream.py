"""One client's way through the log: where it stands, what it gets next, when it is cut.

A client is behind while what it missed is older than our memory and comes from the worker, page by page, as fast as
the client takes it. Then, in one step, it goes over to the log in memory: from there on it sees every later event
once. Who falls out of that memory again is too slow and is cut; a client with ids comes back with its last id.
"""

from collections.abc import Sequence
from enum import Enum

from protocol.api.envelope import StreamReset
from protocol.base.machine import Machine
from protocol.events import Event, EventId, event_data
from supervisor.events.replay import AskWorker, FromMemory, ReplayLog, Reset, encode_event, join

CHUNK_MAX_BYTES = 256 * 1024
"""A client gets so much in one write, or one event if that is larger."""


class StreamState(Enum):
    """Where a client stands."""

    BEHIND = "behind"  # it needs pages from the worker
    LIVE = "live"
    ENDING = "ending"  # it gets what is there, then a clean end
    OVER = "over"


class ClientStream(Machine[StreamState]):
    """What one client gets, in order. `wants_ids` clients may have a cursor and see our own remarks."""

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
        known_to: int,
        preamble: bytes = b"",
    ) -> None:
        super().__init__(StreamState.LIVE)
        self.wants_ids = wants_ids
        self.position = log.end
        self._log = log
        self._version = log.version
        self._cursor: EventId | None = None  # while behind: the last event that the client has
        self._skip_through = 0  # the client has these already, from before our time
        self._remarks_from = log.end
        self._live_after = log.last if log.log_id else None  # it gets every event with a higher number
        self._texts = [preamble] if preamble else []
        if not wants_ids:
            return
        if cursor_is_bad:
            self._reset("this id is none of ours")
        elif cursor is not None:
            self._version = 0  # a client that missed something gets the snapshots of now
            self._locate(cursor, known_to)
        elif log.log_id:
            self._texts.append(base_text(log))

    def began(self, number: int) -> None:
        """The log is known now, and goes up to `number`: the client gets what comes after it."""
        if self._live_after is None:
            self._live_after = number

    def asked_before(self, events: Sequence[Event]) -> None:
        """Requests that are open: the client, which has no cursor, gets those that are older than its stream."""
        if self._live_after is not None and self.state is not StreamState.OVER:
            older = [event for event in events if event.number <= self._live_after]
            self._texts += [b"data: %b\n\n" % event.data for event in older]

    @property
    def is_over(self) -> bool:
        """Will nothing come any more?"""
        return self.state is StreamState.OVER

    @property
    def is_reading(self) -> bool:
        """Does the client still need what is in memory from its position on?"""
        return self.state is StreamState.LIVE or self.state is StreamState.ENDING

    @property
    def wants_page(self) -> EventId | None:
        """The cursor after which the worker must be asked for events, while the client is behind."""
        return self._cursor if self.state is StreamState.BEHIND and not self._texts else None

    def take(self) -> bytes:
        """The next piece of text, b"" when there is nothing now. It counts as delivered."""
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
        if self.position == self._log.end and self._version < self._log.version:
            text += self._log.snapshots_text(self._version, wants_ids=self.wants_ids)
            self._version = self._log.version
        if not text and self.state is StreamState.ENDING:
            self._move("drained", StreamState.OVER)
        return text

    def paged(self, cursor: EventId, events: list[Event], known_to: int) -> bool:
        """The worker told what comes after `cursor`. False when that leads nowhere: the client must be reset."""
        if self.state is not StreamState.BEHIND or cursor != self._cursor:
            return True  # the log was replaced, or the client left, while the worker looked
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
            return False  # it answered before it said which log it has: no worker of ours
        self._cursor = cursor
        self.look(known_to)
        return True

    def look(self, known_to: int) -> None:
        """While behind: has the log in memory become able to serve us?"""
        if self.state is StreamState.BEHIND and self._cursor is not None and self._log.log_id:
            self._locate(self._cursor, known_to)

    def reset(self, reason: str) -> None:
        """What the client knows cannot be continued: tell it, or end it if it would not understand."""
        if self.state is StreamState.OVER:
            return
        if self.wants_ids and self.state is not StreamState.ENDING:
            self._reset(reason)
        else:
            # It would wait for ever for what it missed; a clean end makes it come back and load anew.
            self._move("reset", StreamState.OVER)

    def end(self) -> None:
        """End cleanly, after what is there; a client that is behind ends at once and comes back with its id."""
        if self.state is StreamState.BEHIND:
            self._move("ended", StreamState.OVER)
        elif self.state is StreamState.LIVE:
            self._move("ended", StreamState.ENDING)

    def close(self) -> None:
        """The client is gone."""
        if self.state is not StreamState.OVER:
            self._move("closed", StreamState.OVER)

    def _take_items(self) -> bytes:
        if self._skip_through or self.position < self._remarks_from:
            # Only in its first moments a client differs from the others at its position.
            items = self._log.items(self.position, CHUNK_MAX_BYTES)
            wanted = [
                item
                for position, item in enumerate(items, self.position)
                if (item.number > self._skip_through if item.number else position >= self._remarks_from)
            ]
            if items[-1].number > self._skip_through:
                self._skip_through = 0
            self.position += len(items)
            return join(wanted, self.wants_ids)
        text, self.position = self._log.text(self.position, CHUNK_MAX_BYTES, wants_ids=self.wants_ids)
        return text

    def _locate(self, cursor: EventId, known_to: int) -> None:
        found = self._log.find(cursor, known_to) if self._log.log_id else AskWorker(cursor.number)
        match found:
            case FromMemory(position):
                self.position = position
                self._skip_through = cursor.number
                self._cursor = None
                if self.state is StreamState.BEHIND:
                    self._move("found", StreamState.LIVE)
            case AskWorker():
                self._cursor = cursor
                self._move("older", StreamState.BEHIND)
            case Reset(reason):
                self._reset(reason)

    def _reset(self, reason: str) -> None:
        self._move("reset", StreamState.LIVE)
        self._cursor = None
        self._skip_through = 0
        self.position = self._log.end
        self._texts.append(reset_text(self._log, reason))


def base_text(log: ReplayLog) -> bytes:
    """Tells a client without a cursor where it starts, so that it can resume before its first event (C05)."""
    return b"id: %b.%d\n\n" % (log.log_id.encode(), log.last)


def reset_text(log: ReplayLog, reason: str) -> bytes:
    """The `reset` event: load everything anew, and go on from this cursor."""
    cursor = f"{log.log_id}.{log.last}" if log.log_id else ""
    head = f"id: {cursor}\n".encode() if cursor else b""
    return head + b"data: " + event_data(StreamReset(reason=reason, cursor=cursor)) + b"\n\n"
