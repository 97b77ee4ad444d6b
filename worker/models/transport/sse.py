"""Split a stream of server-sent events into events, with limits (L05).

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream. Only the last event's
bytes are kept between two reads; an event without end is refused at a limit instead of filling the memory.
"""

EVENT_MAX_BYTES = 8 * 1024 * 1024
ANSWER_MAX_BYTES = 256 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"
_END = b"\n\n"
_DONE = b"[DONE]"

Event = tuple[str, bytes]
"""The event's name, "" for none, and its data."""


class TooLong(Exception):
    """An event or the whole answer exceeds its limit; the text says which."""


class EventParser:
    """Parses one stream. Events do not depend on how its bytes are split."""

    def __init__(self, event_max: int = EVENT_MAX_BYTES, answer_max: int = ANSWER_MAX_BYTES) -> None:
        """The limits are in bytes: of an event that has not ended, and of all."""
        self._event_max = event_max
        self._answer_max = answer_max
        self._answer = 0
        self._pending: list[bytes] = []  # the beginning of the event that has not ended
        self._pending_size = 0
        self._ends_with_newline = False
        self._skips_line_feed = False
        self._is_first = True
        self._problem = ""

    def feed(self, chunk: bytes) -> list[Event]:
        """Take bytes and return the events that end in them. Raises TooLong when there are none before the excess."""
        self._answer += len(chunk)
        if self._answer > self._answer_max:
            self._problem = f"the answer is longer than {self._answer_max} bytes"
        events = [] if self._problem else self._events(chunk)
        if self._problem and not events:
            raise TooLong(self._problem)
        return events

    def end(self) -> list[Event]:
        """Return the events of what was not ended by an empty line: complete lines, the end mark, or plain JSON.

        Some servers omit the last empty line, or answer with JSON without any event. Raises TooLong.
        """
        if self._problem:
            raise TooLong(self._problem)
        rest = b"".join(self._pending).removeprefix(_BOM if self._is_first else b"")
        self._pending = []
        if rest.lstrip().startswith(b"{"):
            return [("", rest)]
        events: list[Event] = []
        if rest.endswith(b"\n") or rest.rpartition(b"\n")[2].removeprefix(b"data:").strip() == _DONE:
            _parse(rest, events)
        return events

    def _events(self, chunk: bytes) -> list[Event]:
        if self._skips_line_feed and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._skips_line_feed = False
        if b"\r" in chunk:
            self._skips_line_feed = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if not chunk:
            return []
        is_end = _END in chunk or (self._ends_with_newline and chunk.startswith(b"\n"))
        self._ends_with_newline = chunk.endswith(b"\n")
        if not is_end:
            self._keep(chunk)
            return []
        if self._pending:
            chunk = b"".join((*self._pending, chunk))
            self._pending, self._pending_size = [], 0
        *blocks, rest = chunk.split(_END)
        if rest:
            self._keep(rest)
            self._ends_with_newline = rest.endswith(b"\n")
        else:
            self._ends_with_newline = False
        events: list[Event] = []
        for block in blocks:
            if self._is_first:
                block = block.removeprefix(_BOM)
                self._is_first = False
            if block.startswith(b"data: ") and b"\n" not in block:
                events.append(("", block[6:]))
            else:
                _parse(block, events)
        return events

    def _keep(self, part: bytes) -> None:
        self._pending.append(part)
        self._pending_size += len(part)
        if self._pending_size > self._event_max:
            self._problem = f"one event is longer than {self._event_max} bytes"
            self._pending, self._pending_size = [], 0


def _parse(block: bytes, events: list[Event]) -> None:
    """Add the event of these lines, unless it has no data."""
    name = ""
    data: list[bytes] = []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ").decode("utf-8", "replace")
    if data and any(data):
        events.append((name, b"\n".join(data)))
