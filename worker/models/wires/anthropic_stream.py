"""Read the streamed response of Anthropic's Messages API.

Events: https://platform.claude.com/docs/en/build-with-claude/streaming. A response consists of content blocks, each
opened, filled with deltas and closed. Compatible servers leave out fields, the index of a block, or its end.
"""

from dataclasses import dataclass

import msgspec

from protocol.api.message import FinishReason
from worker.models.client import (
    Counted,
    Finished,
    ModelEvent,
    TextDelta,
    ThinkingDelta,
    ThinkingEnd,
    Tokens,
    ToolCallEnd,
    ToolCallStart,
)
from worker.models.failures import cut_off
from worker.models.wires.event_data import read_event
from worker.models.wires.http_errors import in_stream_failure

REDACTED = "redacted_thinking"
"""The id of a block of thinking that is encrypted; its data is kept as the signature."""
_REASONS: dict[str, FinishReason] = {
    "end_turn": "end_turn",
    "stop_sequence": "end_turn",
    "compaction": "end_turn",
    "max_tokens": "max_tokens",
    "model_context_window_exceeded": "max_tokens",
    "tool_use": "tool_use",
    "refusal": "content_filter",
}


_NO_PROGRESS = frozenset({"ping", "message_start"})


class _Delta(msgspec.Struct):
    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None


class _Block(msgspec.Struct):
    type: str | None = None
    id: str | None = None
    name: str | None = None
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    input: object = None


class _Usage(msgspec.Struct):
    input_tokens: float | None = None
    output_tokens: float | None = None
    cache_read_input_tokens: float | None = None
    cache_creation_input_tokens: float | None = None


class _Message(msgspec.Struct):
    usage: _Usage | None = None


class _Event(msgspec.Struct):
    type: str | None = None
    index: int | None = None
    delta: _Delta | None = None
    content_block: _Block | None = None
    message: _Message | None = None
    usage: _Usage | None = None
    error: object = None


@dataclass(slots=True)
class _Call:
    id: str
    whole: str  # the input, if it came with the start of the block
    parts: list[str]


@dataclass(slots=True)
class _Thinking:
    id: str
    signature: str
    has_text: bool


_decoder = msgspec.json.Decoder(_Event)


class AnthropicDecoder:
    """Translates the events of one response; see `StreamDecoder`."""

    def __init__(self, provider_id: str, secrets: tuple[str, ...]) -> None:
        self.is_complete = False
        self.progress = 0
        self._provider_id = provider_id
        self._secrets = secrets
        self._stop_reason = ""
        self._tokens = Tokens()
        self._calls: list[_Call] = []
        self._blocks: dict[int | None, _Call | None] = {}  # index of a block -> its call, None for other blocks
        self._newest: _Call | None = None
        self._thinking: _Thinking | None = None

    def event(self, name: str, data: bytes) -> list[ModelEvent]:
        """Translate one event. Raises ModelFailure for an error event and for unreadable data."""
        if data == b"[DONE]":  # some gateways end with it
            return []
        event = read_event(_decoder, data, self._secrets)
        kind = event.type or name
        self.progress += kind not in _NO_PROGRESS
        match kind:
            case "content_block_delta":
                return self._delta(event.index, event.delta) if event.delta is not None else []
            case "content_block_start":
                return self._start(event.index, event.content_block or _Block())
            case "content_block_stop":
                return self._end_thinking()
            case "message_start":
                return self._count(event.message.usage if event.message is not None else None)
            case "message_delta":
                if event.delta is not None and event.delta.stop_reason:
                    self._stop_reason = event.delta.stop_reason
                return self._count(event.usage)
            case "message_stop":
                self.is_complete = True
                return []
            case "error":
                raise in_stream_failure(event.error, secrets=self._secrets)
            case "" if event.error:
                raise in_stream_failure(event.error, secrets=self._secrets)
            case _:
                return []

    def end(self) -> list[ModelEvent]:
        """Return the rest of the events. Raises ModelFailure when the response was cut off."""
        if not (self._stop_reason or self.is_complete):
            raise cut_off()
        events = self._end_thinking()
        events += [ToolCallEnd(call.id, "".join(call.parts) or call.whole) for call in self._calls]
        reason = _REASONS.get(self._stop_reason, "unknown")
        if self._calls and (reason == "end_turn" or not self._stop_reason):
            reason = "tool_use"
        return [*events, Finished(reason, self._tokens)]

    def _delta(self, index: int | None, delta: _Delta) -> list[ModelEvent]:
        if delta.text:
            return [*self._end_thinking(), TextDelta(delta.text)] if self._thinking else [TextDelta(delta.text)]
        if delta.partial_json:
            call = self._blocks.get(index, self._newest)
            if call is not None:
                call.parts.append(delta.partial_json)
        elif delta.thinking:
            self._open_thinking().has_text = True
            return [ThinkingDelta(delta.thinking)]
        elif delta.signature:
            self._open_thinking().signature = delta.signature
        return []

    def _start(self, index: int | None, block: _Block) -> list[ModelEvent]:
        events = self._end_thinking()
        self._blocks[index] = self._newest = None
        match block.type:
            case "text" if block.text:
                events.append(TextDelta(block.text))
            case "thinking":
                self._thinking = _Thinking("", block.signature or "", bool(block.thinking))
                if block.thinking:
                    events.append(ThinkingDelta(block.thinking))
            case "redacted_thinking":
                self._thinking = _Thinking(REDACTED, block.data or "", False)
            case "tool_use":
                call = _Call(block.id or "", _input(block.input), [])
                self._calls.append(call)
                self._blocks[index] = self._newest = call
                events.append(ToolCallStart(call.id, block.name or ""))
            case _:
                pass
        return events

    def _open_thinking(self) -> _Thinking:
        if self._thinking is None:
            self._thinking = _Thinking("", "", False)
        return self._thinking

    def _end_thinking(self) -> list[ModelEvent]:
        thinking, self._thinking = self._thinking, None
        if thinking is None or not (thinking.has_text or thinking.signature):
            return []
        return [ThinkingEnd(thinking.signature, thinking.id, self._provider_id)]

    def _count(self, usage: _Usage | None) -> list[ModelEvent]:
        """Take over the usage, whose numbers are totals; one that is missing or 0 says nothing new."""
        if usage is None:
            return []
        old = self._tokens
        self._tokens = Tokens(
            input=int(usage.input_tokens or old.input),
            output=int(usage.output_tokens or old.output),
            cache_read=int(usage.cache_read_input_tokens or old.cache_read),
            cache_write=int(usage.cache_creation_input_tokens or old.cache_write),
        )
        return [Counted(self._tokens)] if self._tokens != old else []


def _input(value: object) -> str:
    """Return the input of a call that came with the start of its block: an object, or a text of some servers."""
    if isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode() if value else ""
