"""Repair a history so that a provider accepts it after a crash, a cancel, or a change of the provider.

The stored rows are not changed. `worker/models/message_format.py` translates the result into a provider's messages.
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
    """Return the rows that may be sent to `provider_id`.

    - Rows without content are left out, and so are finish parts.
    - The results of a step are in one tool row directly after its assistant row, one for each call, in the order of the
      calls. A missing one becomes an error; a result without a call, or a second one for a call, is dropped.
    - Open calls get an empty input. A second call with the same id in one row is dropped.
    - Reasoning of another provider, and reasoning that was cut before its signature arrived, is left out.
    """
    repaired: list[Message] = []
    for index, message in enumerate(messages):
        match message.role:
            case "assistant":
                repaired_row = _assistant(message, provider_id)
                if repaired_row is None:
                    continue
                repaired.append(repaired_row)
                if calls_of(repaired_row):
                    repaired.append(_answers(repaired_row, _results_after(messages, index)))
            case "tool":
                continue  # added after its assistant row
            case _:
                if not _is_empty(message):
                    repaired.append(replace(message, parts=_without_finish(message.parts)))
    return repaired


def _results_after(messages: Sequence[Message], index: int) -> Iterable[ToolResultData]:
    """Yield the results up to the next assistant row with calls. Ids may repeat later: some servers just count."""
    for message in messages[index + 1 :]:
        if message.role == "assistant" and calls_of(message):
            return
        if message.role == "tool":
            yield from results_of(message)


def _answers(assistant: Message, results: Iterable[ToolResultData]) -> Message:
    by_call_id: dict[str, ToolResultData] = {}
    for result in results:
        by_call_id.setdefault(result.tool_call_id, result)
    parts: list[Part] = []
    for call in calls_of(assistant):
        result = by_call_id.get(call.id) or answers_for([call], INTERRUPTED_CALL)[0]
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
                reasoning = _own_reasoning(data, provider_id)
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
        return None  # providers refuse a message that has only reasoning
    return replace(message, parts=parts)


def _own_reasoning(data: ReasoningData, provider_id: str) -> ReasoningData | None:
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
