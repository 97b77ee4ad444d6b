"""A history that a provider accepts: what a crash, a cancel or another provider left is repaired on the way out.

The stored rows stay as they are (5.3). The translation into the messages of a provider is done in
`worker/models/message_format.py`, on what this returns.
"""

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from protocol.api.message import (
    BinaryPart,
    FinishPart,
    ImageURLPart,
    Message,
    Part,
    ReasoningData,
    ReasoningPart,
    ShellCommandPart,
    TextPart,
    ToolCallPart,
    ToolResultData,
    ToolResultPart,
)
from worker.agent.message_draft import EMPTY_INPUT, INTERRUPTED_CALL, answers_for, calls_of, results_of


def repair(messages: Sequence[Message], provider_id: str) -> list[Message]:
    """The rows that may be sent to `provider_id`.

    - Rows that say nothing are left out, finish parts too.
    - The results of a step stand in one tool row directly behind its assistant row, one for each call, in the order
      of the calls. A missing one is made up as an error; one that nobody asked for is dropped, a second one too.
    - Open calls get an empty input. A second call with the same id in one row is dropped.
    - Thinking of another provider, and thinking that was cut before its signature came, is left out.
    """
    repaired: list[Message] = []
    for index, message in enumerate(messages):
        match message.role:
            case "assistant":
                kept = _assistant(message, provider_id)
                if kept is None:
                    continue
                repaired.append(kept)
                if calls_of(kept):
                    repaired.append(_answers(kept, _results_behind(messages, index)))
            case "tool":
                continue  # taken up by its assistant row
            case _:
                if not _is_empty(message):
                    repaired.append(replace(message, parts=_without_finish(message.parts)))
    return repaired


def _results_behind(messages: Sequence[Message], index: int) -> Iterable[ToolResultData]:
    """The results up to the next assistant row with calls of its own: ids may come again later (some servers count)."""
    for message in messages[index + 1 :]:
        if message.role == "assistant" and calls_of(message):
            return
        if message.role == "tool":
            yield from results_of(message)


def _answers(assistant: Message, results: Iterable[ToolResultData]) -> Message:
    known: dict[str, ToolResultData] = {}
    for result in results:
        known.setdefault(result.tool_call_id, result)
    parts: list[Part] = []
    for call in calls_of(assistant):
        result = known.get(call.id) or answers_for([call], INTERRUPTED_CALL)[0]
        parts.append(ToolResultPart(replace(result, name=call.name)))
    return Message(
        id=assistant.id + ":results", session_id=assistant.session_id, role="tool", parts=parts, model="", provider=""
    )


def _assistant(message: Message, provider_id: str) -> Message | None:
    parts: list[Part] = []
    seen: set[str] = set()
    for part in message.parts:
        match part:
            case TextPart(data) if data.text.strip():
                parts.append(part)
            case ReasoningPart(data):
                reasoning = _own_thinking(data, provider_id)
                if reasoning is not None:
                    parts.append(ReasoningPart(reasoning))
            case ToolCallPart(data) if data.id not in seen:
                seen.add(data.id)
                if not data.finished or not data.input:
                    data = replace(data, input=EMPTY_INPUT, finished=True)
                parts.append(ToolCallPart(data))
            case _:
                pass
    if all(isinstance(part, ReasoningPart) for part in parts):
        return None  # thinking alone answers nothing, and providers refuse it
    return replace(message, parts=parts)


def _own_thinking(data: ReasoningData, provider_id: str) -> ReasoningData | None:
    blocks = [
        block
        for block in data.blocks
        if block.provider == provider_id and (block.signature or block.id or block.details)
    ]
    return replace(data, blocks=blocks) if blocks else None


def _is_empty(message: Message) -> bool:
    for part in message.parts:
        match part:
            case TextPart(data) if data.text.strip():
                return False
            case BinaryPart() | ImageURLPart() | ShellCommandPart():
                return False
            case _:
                pass
    return True


def _without_finish(parts: Sequence[Part]) -> list[Part]:
    return [part for part in parts if not isinstance(part, FinishPart)]
