"""Build an assistant row from the events of the model, and return snapshots of the whole message.

In the API a row has at most one reasoning part, one text part and one finish part. The thinking blocks with the
metadata that a provider wants back are kept separately and in order in `ReasoningData.blocks` (W-22). Parts are in the
order in which they first appeared; the finish part is last.

The text and the thinking are lists of pieces, joined when they are read: appending to a long answer costs as much as
appending to a short one.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace

from protocol.api.message import (
    FinishData,
    FinishPart,
    FinishReason,
    GrowingField,
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


class Appended(NamedTuple):
    """The text that was appended to the growing string of a draft, and the length before, in Unicode code points."""

    at: int
    text: str


class _Pieces:
    """A string that grows at its end."""

    __slots__ = ("_pieces", "length")

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self.length = 0  # in code points

    def append(self, piece: str) -> None:
        self._pieces.append(piece)
        self.length += len(piece)

    def text(self) -> str:
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""


class MessageDraft:
    """One assistant row. The caller passes all times, in Unix seconds."""

    def __init__(self, row: Message) -> None:
        """Start from the stored, still empty `row`."""
        self._row = row
        self._clear()

    def _clear(self) -> None:
        self._texts: dict[GrowingField, _Pieces] = {"text": _Pieces(), "thinking": _Pieces()}
        self._block_from = 0  # where the open block begins in the thinking, in code points
        self._ends_with_newline = False  # the thinking
        self._block_before_text = True
        self._block_calls_before = 0
        self._block_is_open = False
        self._blocks: list[ReasoningBlock] = []
        self._reasoning_started = 0
        self._reasoning_finished = 0
        self._calls: dict[str, ToolCallData] = {}
        self._order: list[str] = []  # "reasoning", "text", and "call:" with the id of a call
        self._finish: FinishData | None = None
        self._growing: GrowingField | None = None
        self._appended: list[str] = []  # to the growing string, since the last `take_appended`
        self._is_changed = True  # in any other way, since then

    @property
    def row(self) -> Message:
        """Return the row without the parts that were streamed."""
        return self._row

    @property
    def message_id(self) -> str:
        return self._row.id

    @property
    def text(self) -> str:
        """Return the text so far."""
        return self._texts["text"].text()

    @property
    def growing(self) -> tuple[int, GrowingField] | None:
        """Return the part and the field of the string that was appended to last; None after any other change."""
        if self._growing is None:
            return None
        return self._order.index("text" if self._growing == "text" else "reasoning"), self._growing

    @property
    def growing_text(self) -> str:
        """Return the string that `growing` names; "" if it names none."""
        return self._texts[self._growing].text() if self._growing is not None else ""

    @property
    def size(self) -> int:
        """Return the length of all streamed text, in Unicode code points."""
        return sum(pieces.length for pieces in self._texts.values())

    def take_appended(self) -> Appended | None:
        """Return what was appended since the last call; None if the draft has changed in another way as well."""
        text = "".join(self._appended)
        self._appended.clear()
        is_changed, self._is_changed = self._is_changed, False
        if is_changed or self._growing is None:
            return None
        return Appended(self._texts[self._growing].length - len(text), text)

    @property
    def calls(self) -> list[ToolCallData]:
        """Return the tool calls so far, in the order in which the model made them."""
        return list(self._calls.values())

    def add_text(self, text: str) -> None:
        """Append to the text; a leading newline of an empty row is dropped."""
        if not self._order and text.startswith("\n"):
            text = text[1:]
        if not text:
            return
        self._append("text", text)

    def add_thinking(self, text: str, now: int) -> None:
        """Append to the open thinking block, or open one."""
        self._open_block(now)
        if not text:
            return
        thinking = self._texts["thinking"]
        if self._block_from == thinking.length and thinking.length and not self._ends_with_newline:
            self._append("thinking", "\n\n")
            self._block_from = thinking.length
        self._append("thinking", text)
        self._ends_with_newline = text.endswith("\n")

    def end_thinking(
        self,
        now: int,
        *,
        signature: str = "",
        block_id: str = "",
        provider: str = "",
        details: Mapping[str, Any] | None = None,
    ) -> bool:
        """Close the open block; return False without one. A block may have only metadata (redacted thinking)."""
        if not self._block_is_open and not (signature or block_id):
            return False
        self._open_block(now)
        self._blocks.append(
            ReasoningBlock(
                thinking=self._block_thinking(),
                signature=signature,
                id=block_id,
                provider=provider,
                before_text=self._block_before_text,
                calls_before=self._block_calls_before,
                details=dict(details or {}),
            )
        )
        self._block_is_open = False
        self._reasoning_finished = now
        self._change()
        return True

    def start_tool_call(self, call_id: str, name: str) -> None:
        """Add a call whose input is still being written; one with the same id is replaced."""
        self._add_part("call:" + call_id)
        self._calls[call_id] = ToolCallData(id=call_id, name=name)
        self._change()

    def end_tool_call(self, call_id: str, text: str) -> None:
        """Complete the input of a started call; `text` is valid JSON."""
        self._calls[call_id] = replace(self._calls[call_id], input=text, finished=True)
        self._change()

    def reset(self) -> None:
        """Drop everything that was streamed, because the same request is sent again."""
        self._clear()

    def finish(self, reason: FinishReason, now: int, *, message: str = "", details: str = "") -> None:
        """Set the finish part, replacing an earlier one."""
        self._finish = FinishData(reason=reason, time=now, message=message, details=details)
        self._change()

    def snapshot(self) -> Message:
        """Return the row with its current parts, as it is stored."""
        text, thinking = self.text, self._texts["thinking"].text()
        return self._row_with(text, self._reasoning(thinking, self._stored_blocks()))

    def snapshot_around(self, growing: str) -> Message:
        """Return the row as clients see it while it grows, with `growing` in place of the growing string.

        It has no block for the thinking that is still open: the same text would be in it twice.
        """
        text = growing if self._growing == "text" else self.text
        thinking = growing if self._growing == "thinking" else self._texts["thinking"].text()
        return self._row_with(text, self._reasoning(thinking, list(self._blocks)))

    def _row_with(self, text: str, reasoning: ReasoningData) -> Message:
        parts: list[Part] = []
        for what in self._order:
            if what == "text":
                parts.append(TextPart(TextData(text=text)))
            elif what == "reasoning":
                parts.append(ReasoningPart(reasoning))
            else:
                parts.append(ToolCallPart(self._calls[what[5:]]))
        if self._finish is not None:
            parts.append(FinishPart(self._finish))
        return replace(self._row, parts=parts)

    def _add_part(self, what: str) -> None:
        if what not in self._order:
            self._order.append(what)

    def _append(self, field: GrowingField, text: str) -> None:
        self._texts[field].append(text)
        if self._growing != field:
            self._add_part("text" if field == "text" else "reasoning")
            self._change()
            self._growing = field
        self._appended.append(text)

    def _change(self) -> None:
        """Note a change that is not growth: clients need the whole row next."""
        self._growing = None
        self._is_changed = True
        self._appended.clear()

    def _open_block(self, now: int) -> None:
        if self._block_is_open:
            return
        self._add_part("reasoning")
        self._change()
        self._block_is_open = True
        self._block_from = self._texts["thinking"].length
        self._block_before_text = not self._texts["text"].length
        self._block_calls_before = len(self._calls)
        self._reasoning_started = self._reasoning_started or now
        self._reasoning_finished = 0

    def _block_thinking(self) -> str:
        return self._texts["thinking"].text()[self._block_from :] if self._block_is_open else ""

    def _reasoning(self, thinking: str, blocks: list[ReasoningBlock]) -> ReasoningData:
        return ReasoningData(
            thinking=thinking,
            signature=self._blocks[-1].signature if self._blocks else "",
            started_at=self._reasoning_started,
            finished_at=self._reasoning_finished,
            blocks=blocks,
        )

    def _stored_blocks(self) -> list[ReasoningBlock]:
        if not self._block_is_open:
            return list(self._blocks)
        return [*self._blocks, ReasoningBlock(thinking=self._block_thinking(), before_text=self._block_before_text)]


def finish_of(message: Message) -> FinishData | None:
    """Return the finish part of a row; None while it has none."""
    for part in message.parts:
        if isinstance(part, FinishPart):
            return part.data
    return None


def calls_of(message: Message) -> list[ToolCallData]:
    """Return the tool calls of a row, in order."""
    return [part.data for part in message.parts if isinstance(part, ToolCallPart)]


def results_of(message: Message) -> list[ToolResultData]:
    """Return the tool results of a row."""
    return [part.data for part in message.parts if isinstance(part, ToolResultPart)]


def text_of(message: Message) -> str:
    """Return the text of a row."""
    return "\n".join(part.data.text for part in message.parts if isinstance(part, TextPart))


def close_message(message: Message, reason: FinishReason, now: int, *, title: str = "", details: str = "") -> Message:
    """Finish a row that was interrupted: close reasoning, complete open calls, set the finish part."""
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
    """Make an error result for each call; `why` is its text."""
    return [ToolResultData(tool_call_id=call.id, name=call.name, content=why, is_error=True) for call in calls]


CANCELLED_CALL = "The user cancelled this tool call. It was not completed."
FAILED_CALL = "This tool call was not executed: the turn failed before its end."
INTERRUPTED_CALL = "This tool call was interrupted and has no result. It may be tried again."
SKIPPED_CALL = "This tool call was not executed: an earlier call of the same step ended the turn."
