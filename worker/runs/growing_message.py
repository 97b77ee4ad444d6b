"""Make the events by which clients follow an assistant row while it is streamed: the whole row, or what was appended.

The envelope of a whole row is its head, the growing string, and its tail. As long as only that string grows, an event
with the appended text is enough to extend the envelope; the tail is sent again when the time in it changes. JSON
escapes each code point on its own, so escaped pieces can be joined.
"""

from typing import cast

import msgspec
from msgspec.structs import replace

from protocol.api.message import Message
from protocol.base.clock import Clock
from protocol.events import Event, Growth, event_data
from protocol.ids import RunId, SessionId
from worker.agent.message_draft import Appended, MessageDraft

_MARK = b"\0"
"""Takes the place of the growing string. JSON never contains this byte."""
_MARK_TEXT = cast(str, msgspec.Raw(b'"' + _MARK + b'"'))

_encoder = msgspec.json.Encoder()


class GrowingMessage:
    """The snapshots of one draft, as a source for the publisher (worker.events.window.SnapshotSource)."""

    def __init__(self, draft: MessageDraft, *, run_id: str, clock: Clock) -> None:
        self.draft = draft
        self.key = draft.message_id
        self._run_id = RunId(run_id)
        self._clock = clock
        self._unsent: list[Appended] = []
        self._is_whole_due = True
        self._head_bytes = 0  # of the envelope as it was sent, up to the end of the growing string
        self._tail_of = 0  # the Unix second that is in the tail that was sent
        self._sending = (0, 0)  # both values, once the event that was made last is sent

    def next_event(self, *, may_grow: bool) -> Event:
        """Return the event that brings a receiver to the present state; `sent` says that it was sent.

        Without `may_grow` the receiver does not have what was sent before, and the event is the whole row.
        """
        appended = self.draft.take_appended()
        if appended is None or not may_grow:
            self._is_whole_due = True
            self._unsent.clear()
        elif not self._is_whole_due:
            self._unsent.append(appended)
        return self._whole() if self._is_whole_due else self._growth()

    def sent(self) -> None:
        """The event that `next_event` returned last was sent, and the draft is unchanged since."""
        self._head_bytes, self._tail_of = self._sending
        self._unsent.clear()
        self._is_whole_due = False

    def _whole(self) -> Event:
        second = int(self._clock.wall())
        message = replace(self.draft.snapshot_around(_MARK_TEXT), updated_at=second)
        head, mark, tail = event_data(message, "updated").partition(_MARK)
        if mark:
            head += _escaped(self.draft.growing_text)
        self._sending = (len(head), second)
        return self._event(message, head + tail, tail_bytes=len(tail))

    def _growth(self) -> Event:
        growing = self.draft.growing
        assert growing is not None
        part, field = growing
        second = int(self._clock.wall())
        data = _escaped("".join([piece.text for piece in self._unsent]))
        self._sending = (self._head_bytes + len(data), second)
        at = self._unsent[0].at if self._unsent else len(self.draft.growing_text)
        tail = b""
        message = self.draft.row
        if second != self._tail_of:
            around = self.draft.snapshot_around(_MARK_TEXT)
            # The parts before the growing one are not in the tail, and may be long.
            tail = event_data(replace(around, parts=around.parts[part:], updated_at=second), "updated")
            tail = tail.partition(_MARK)[2]
        growth = Growth(base=self._head_bytes, part=part, field=field, at=at, tail=tail)
        return self._event(message, data, growth=growth)

    def _event(self, message: Message, data: bytes, *, tail_bytes: int = 0, growth: Growth | None = None) -> Event:
        return Event(
            kind="message",
            data=data,
            tail_bytes=tail_bytes,
            growth=growth,
            key=self.key,
            session_id=SessionId(message.session_id),
            run_id=self._run_id,
        )


def _escaped(text: str) -> bytes:
    return _encoder.encode(text)[1:-1]
