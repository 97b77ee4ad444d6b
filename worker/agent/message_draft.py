"""The assistant row while it grows: events of the model in, whole snapshots of the message out.

On the wire a row has at most one reasoning part, one text part and one finish part. The thinking blocks with the
metadata that a provider wants back are kept apart, in order, in `ReasoningData.blocks` (W-22). Parts stand in the
order in which they first appeared; the finish part is last.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from protocol.api.message import (
    FinishData,
    FinishPart,
    FinishReason,
    Message,
    Part,
    ReasoningBlock,
    ReasoningData,
    ReasoningPart,
    TextData,
    TextPart,
    ToolCallData,
    ToolCallPart,
    ToolResultData,
    ToolResultPart,
)

EMPTY_INPUT = "{}"


class MessageDraft:
    """One assistant row. All times are Unix seconds and given by the caller."""

    def __init__(self, row: Message) -> None:
        """Start from the stored, still empty `row`."""
        self._row = row
        self._clear()

    def _clear(self) -> None:
        self._text = ""
        self._thinking = ""
        self._block_thinking = ""
        self._block_before_text = True
        self._block_calls_before = 0
        self._block_is_open = False
        self._blocks: list[ReasoningBlock] = []
        self._reasoning_started = 0
        self._reasoning_finished = 0
        self._calls: dict[str, ToolCallData] = {}
        self._order: list[str] = []  # "reasoning", "text" and ids of calls behind "call:"
        self._finish: FinishData | None = None

    @property
    def message_id(self) -> str:
        return self._row.id

    @property
    def text(self) -> str:
        """The text so far."""
        return self._text

    @property
    def calls(self) -> list[ToolCallData]:
        """The tool calls so far, in the order the model made them."""
        return list(self._calls.values())

    def add_text(self, text: str) -> None:
        """Append to the text; one leading newline of a row that is still empty is dropped."""
        if not self._order and text.startswith("\n"):
            text = text[1:]
        if not text:
            return
        self._appears("text")
        self._text += text

    def add_thinking(self, text: str, now: int) -> None:
        """Append to the thinking block that is open, or open one."""
        self._open_block(now)
        if not self._block_thinking and self._thinking and not self._thinking.endswith("\n"):
            self._thinking += "\n\n"
        self._block_thinking += text
        self._thinking += text

    def end_thinking(
        self,
        now: int,
        *,
        signature: str = "",
        block_id: str = "",
        provider: str = "",
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Close the open block. A block may hold nothing but its metadata (redacted thinking)."""
        if not self._block_is_open and not (signature or block_id):
            return
        self._open_block(now)
        self._blocks.append(
            ReasoningBlock(
                thinking=self._block_thinking,
                signature=signature,
                id=block_id,
                provider=provider,
                before_text=self._block_before_text,
                calls_before=self._block_calls_before,
                details=dict(details or {}),
            )
        )
        self._block_thinking, self._block_is_open = "", False
        self._reasoning_finished = now

    def start_tool_call(self, call_id: str, name: str) -> None:
        """Add a call whose input is still being written; one with the same id is replaced."""
        self._appears("call:" + call_id)
        self._calls[call_id] = ToolCallData(id=call_id, name=name)

    def end_tool_call(self, call_id: str, text: str) -> None:
        """The input of a started call is complete; `text` is valid JSON."""
        self._calls[call_id] = replace(self._calls[call_id], input=text, finished=True)

    def reset(self) -> None:
        """Forget everything that was streamed: the same request is about to be sent again."""
        self._clear()

    def finish(self, reason: FinishReason, now: int, *, message: str = "", details: str = "") -> None:
        """Set the finish part, in place of an older one."""
        self._finish = FinishData(reason=reason, time=now, message=message, details=details)

    def snapshot(self) -> Message:
        """The row as it is now."""
        parts: list[Part] = []
        for what in self._order:
            if what == "text":
                parts.append(TextPart(TextData(text=self._text)))
            elif what == "reasoning":
                parts.append(ReasoningPart(self._reasoning()))
            else:
                parts.append(ToolCallPart(self._calls[what[5:]]))
        if self._finish is not None:
            parts.append(FinishPart(self._finish))
        return replace(self._row, parts=parts)

    def _appears(self, what: str) -> None:
        if what not in self._order:
            self._order.append(what)

    def _open_block(self, now: int) -> None:
        if self._block_is_open:
            return
        self._appears("reasoning")
        self._block_is_open = True
        self._block_before_text = not self._text
        self._block_calls_before = len(self._calls)
        self._reasoning_started = self._reasoning_started or now
        self._reasoning_finished = 0

    def _reasoning(self) -> ReasoningData:
        return ReasoningData(
            thinking=self._thinking,
            signature=self._blocks[-1].signature if self._blocks else "",
            started_at=self._reasoning_started,
            finished_at=self._reasoning_finished,
            blocks=self._stored_blocks(),
        )

    def _stored_blocks(self) -> list[ReasoningBlock]:
        if not self._block_is_open:
            return list(self._blocks)
        return [*self._blocks, ReasoningBlock(thinking=self._block_thinking, before_text=self._block_before_text)]


def needs_store(stored: Message | None, new: Message) -> bool:
    """Must `new` be written before the update returns, given what is stored of that row (4.3)?

    Yes when it has a finish part, another number of tool calls, a call with another `finished` flag, or reasoning
    that has ended since. A growing text, or a growing input of an open call, may wait.
    """
    was, now = _marks(stored), _marks(new)
    return now.finish is not None or now.calls != was.calls or (now.reasoning_ended and not was.reasoning_ended)


class _Marks:
    """What `needs_store` compares."""

    __slots__ = ("calls", "finish", "reasoning_ended")

    def __init__(self) -> None:
        self.calls: dict[str, bool] = {}
        self.finish: FinishData | None = None
        self.reasoning_ended = False


def _marks(message: Message | None) -> _Marks:
    marks = _Marks()
    for part in message.parts if message is not None else ():
        match part:
            case ToolCallPart(data):
                marks.calls[data.id] = data.finished
            case FinishPart(data):
                marks.finish = data
            case ReasoningPart(data):
                marks.reasoning_ended = data.finished_at > 0
            case _:
                pass
    return marks


def finish_of(message: Message) -> FinishData | None:
    """The finish part of a row, None while it has none."""
    for part in message.parts:
        if isinstance(part, FinishPart):
            return part.data
    return None


def calls_of(message: Message) -> list[ToolCallData]:
    """The tool calls of a row, in order."""
    return [part.data for part in message.parts if isinstance(part, ToolCallPart)]


def results_of(message: Message) -> list[ToolResultData]:
    """The tool results of a row."""
    return [part.data for part in message.parts if isinstance(part, ToolResultPart)]


def text_of(message: Message) -> str:
    """The text of a row."""
    return "\n".join(part.data.text for part in message.parts if isinstance(part, TextPart))


def close_message(message: Message, reason: FinishReason, now: int, *, title: str = "", details: str = "") -> Message:
    """End a row that did not end by itself: reasoning closed, open calls made whole, finish part set (2.4)."""
    parts: list[Part] = []
    for part in message.parts:
        match part:
            case ReasoningPart(data) if not data.finished_at:
                parts.append(ReasoningPart(replace(data, finished_at=now)))
            case ToolCallPart(data) if not data.finished:
                parts.append(ToolCallPart(replace(data, input=EMPTY_INPUT, finished=True)))
            case FinishPart():
                pass
            case _:
                parts.append(part)
    parts.append(FinishPart(FinishData(reason=reason, time=now, message=title, details=details)))
    return replace(message, parts=parts)


def answers_for(calls: Sequence[ToolCallData], why: str) -> list[ToolResultData]:
    """An error result for each of these calls, saying `why` it has no other."""
    return [ToolResultData(tool_call_id=call.id, name=call.name, content=why, is_error=True) for call in calls]


CANCELLED_CALL = "The user cancelled this tool call. It was not completed."
FAILED_CALL = "This tool call was not executed: the turn failed before its end."
INTERRUPTED_CALL = "This tool call was interrupted and has no result. It may be tried again."
SKIPPED_CALL = "This tool call was not executed: an earlier call of the same step ended the turn."
