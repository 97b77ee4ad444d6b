"""Read the streamed response of OpenAI's Responses API.

Events: https://developers.openai.com/api/docs/api-reference/responses-streaming. A response consists of output items,
each added, filled with deltas and done. Compatible servers and gateways change the ids of items between events, leave
out the deltas, or put an item only into the final event; the index of an item is more reliable than its id. The items
and the response itself are decoded only where they are read.
"""

from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from protocol.api.message import FinishReason
from worker.models.client import (
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
from worker.models.wires.special_tokens import TokenJoiner, join_tokens_in_json

RAW = "raw_content"
"""The detail of a thinking block that holds the texts of unsummarised reasoning."""
_REASONS: dict[str, FinishReason] = {
    "completed": "end_turn",
    "max_output_tokens": "max_tokens",
    "content_filter": "content_filter",
}
_Key = int | str | None
T = TypeVar("T")


_NO_PROGRESS = frozenset({"response.created", "response.in_progress", "response.queued", "keepalive", "ping"})


class _Event(msgspec.Struct):
    type: str | None = None
    delta: object = None  # a text, in all events that are read
    output_index: int | None = None
    item_id: str | None = None
    summary_index: int | None = None
    content_index: int | None = None
    text: object = None
    refusal: object = None
    arguments: object = None
    item: msgspec.Raw = msgspec.Raw()
    response: msgspec.Raw = msgspec.Raw()
    error: object = None
    code: object = None
    message: object = None

    @property
    def key(self) -> _Key:
        """Return what identifies the item of this event."""
        return self.output_index if self.output_index is not None else self.item_id


class _Item(msgspec.Struct):
    type: str | None = None
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: object = None
    encrypted_content: str | None = None
    content: object = None
    summary: object = None


class _Cached(msgspec.Struct):
    cached_tokens: float | None = None
    cache_write_tokens: float | None = None


class _Usage(msgspec.Struct):
    input_tokens: float | None = None
    output_tokens: float | None = None
    input_tokens_details: _Cached | None = None

    def tokens(self) -> Tokens:
        """Return the usage with the cached part of the input counted separately."""
        details = self.input_tokens_details or _Cached()
        read, written = int(details.cached_tokens or 0), int(details.cache_write_tokens or 0)
        whole = int(self.input_tokens or 0)
        return Tokens(max(0, whole - read - written), int(self.output_tokens or 0), read, written)


class _Incomplete(msgspec.Struct):
    reason: str | None = None


class _Response(msgspec.Struct):
    status: str | None = None
    usage: _Usage | None = None
    error: object = None
    incomplete_details: _Incomplete | None = None
    output: list[msgspec.Raw] | None = None


@dataclass(slots=True)
class _Call:
    id: str
    parts: list[str] = field(default_factory=list)
    whole: str = ""  # the arguments as the end of the item repeats them


@dataclass(slots=True)
class _Thinking:
    """An open block: one summary of a reasoning item, or its unsummarised text (`summary` is None)."""

    key: _Key
    id: str
    summary: int | None
    raw: list[str] = field(default_factory=list)


_events = msgspec.json.Decoder(_Event)
_items = msgspec.json.Decoder(_Item)
_responses = msgspec.json.Decoder(_Response)


class ResponsesDecoder:
    """Translates the events of one response; see `StreamDecoder`."""

    def __init__(self, provider_id: str, *, joins_tokens: bool, secrets: tuple[str, ...]) -> None:
        self.is_complete = False
        self.progress = 0
        self._provider_id = provider_id
        self._secrets = secrets
        self._joins_tokens = joins_tokens
        self._text_joiner = TokenJoiner()
        self._thinking_joiner = TokenJoiner()
        self._reason = ""
        self._has_refusal = False
        self._tokens = Tokens()
        self._calls: list[_Call] = []
        self._call_of: dict[_Key, _Call] = {}
        self._seen: set[str | None] = set()  # kinds of items of which anything has arrived
        self._texts: set[_Key] = set()  # items whose text has arrived
        self._reasoned: set[_Key] = set()  # items whose thinking has arrived
        self._thinking: _Thinking | None = None

    def event(self, name: str, data: bytes) -> list[ModelEvent]:
        """Translate one event. Raises ModelFailure for an error event and for unreadable data."""
        if data == b"[DONE]":  # some gateways end with it
            return []
        event = read_event(_events, data, self._secrets)
        kind = event.type or name
        self.progress += kind not in _NO_PROGRESS
        match kind:
            case "response.output_text.delta":
                return self._text(event.key, event.delta)
            case "response.function_call_arguments.delta" | "response.function_call_arguments.done":
                self._arguments(event)
                return []
            case "response.reasoning_summary_text.delta":
                return self._think(event, event.delta, event.summary_index or 0)
            case "response.reasoning_text.delta":
                return self._think(event, event.delta, None)
            case "response.output_item.added":
                return self._added(event.key, self._read(_items, event.item, _Item()))
            case "response.output_item.done":
                return self._done(event.key, self._read(_items, event.item, _Item()))
            case "response.output_text.done":
                return self._text(event.key, event.text) if event.key not in self._texts else []
            case "response.refusal.delta":
                self._has_refusal = True
                return self._text(event.key, event.delta)
            case "response.refusal.done":
                self._has_refusal = True
                return self._text(event.key, event.refusal) if event.key not in self._texts else []
            case "response.completed" | "response.incomplete" | "response.failed":
                return self._ended(kind, self._read(_responses, event.response, _Response()))
            case "error":
                error = event.error or {"code": event.code, "message": event.message}
                raise in_stream_failure(error, secrets=self._secrets)
            case "" if event.error:
                raise in_stream_failure(event.error, secrets=self._secrets)
            case _:
                return []

    def end(self) -> list[ModelEvent]:
        """Return the rest of the events. Raises ModelFailure when the response was cut off."""
        if not self.is_complete:
            raise cut_off()
        events = [*self._end_text(), *self._end_thinking()]
        for call in self._calls:
            text = call.whole or "".join(call.parts)
            events.append(ToolCallEnd(call.id, join_tokens_in_json(text) if self._joins_tokens else text))
        reason = "content_filter" if self._has_refusal else _REASONS.get(self._reason, "unknown")
        if self._calls and reason == "end_turn":
            reason = "tool_use"
        return [*events, Finished(reason, self._tokens)]

    def _read(self, decoder: "msgspec.json.Decoder[T]", raw: msgspec.Raw, missing: T) -> T:
        data = bytes(raw)
        return read_event(decoder, data, self._secrets) if data not in (b"", b"null") else missing

    def _text(self, key: _Key, text: object) -> list[ModelEvent]:
        if not isinstance(text, str) or not text:
            return []
        self._texts.add(key)
        self._seen.add("message")
        if self._joins_tokens:
            text = self._text_joiner.feed(text)
        events = self._end_thinking() if self._thinking is not None else []
        return [*events, TextDelta(text)] if text else events

    def _end_text(self) -> list[ModelEvent]:
        text = self._text_joiner.end()
        return [TextDelta(text)] if text else []

    def _think(self, event: _Event, text: object, summary: int | None) -> list[ModelEvent]:
        if not isinstance(text, str) or not text:
            return []
        events: list[ModelEvent] = []
        block = self._thinking
        if block is None or (block.key, block.summary) != (event.key, summary):
            events = self._end_thinking()
            block = self._thinking = _Thinking(event.key, event.item_id or "", summary)
        self._reasoned.add(event.key)
        self._seen.add("reasoning")
        if summary is None:
            if (event.content_index or 0) >= len(block.raw):
                block.raw.append("")
            block.raw[-1] += text
        if self._joins_tokens:
            text = self._thinking_joiner.feed(text)
        return [*events, ThinkingDelta(text)] if text else events

    def _end_thinking(self, signature: str = "", item_id: str = "") -> list[ModelEvent]:
        """End the open block; a signature without one belongs to an item whose blocks have ended."""
        block, self._thinking = self._thinking, None
        if block is None:
            return [ThinkingEnd(signature, item_id, self._provider_id)] if signature else []
        held = self._thinking_joiner.end()
        events: list[ModelEvent] = [ThinkingDelta(held)] if held else []
        details = {RAW: block.raw} if block.raw else {}
        return [*events, ThinkingEnd(signature, item_id or block.id, self._provider_id, details)]

    def _arguments(self, event: _Event) -> None:
        call = self._call_of.get(event.key)
        if call is None:
            return
        if isinstance(event.delta, str):
            call.parts.append(event.delta)
        call.whole = _argument_text(event.arguments) or call.whole

    def _added(self, key: _Key, item: _Item) -> list[ModelEvent]:
        events = self._end_thinking()
        self._seen.add(item.type)
        self._texts.discard(key)  # some servers number all items alike
        self._reasoned.discard(key)
        if item.type == "function_call" and item.name:
            events += self._start_call(key, item)
        return events

    def _start_call(self, key: _Key, item: _Item) -> list[ModelEvent]:
        call = _Call(item.call_id or item.id or "", whole=_argument_text(item.arguments))
        self._calls.append(call)
        self._call_of[key if key is not None else item.id] = call
        return [*self._end_text(), ToolCallStart(call.id, item.name or "")]

    def _done(self, key: _Key, item: _Item) -> list[ModelEvent]:
        self._seen.add(item.type)
        match item.type:
            case "function_call":
                return self._done_call(key, item)
            case "message":
                return [*self._done_message(key, item), *self._end_text()]
            case "reasoning":
                return self._done_reasoning(key, item)
            case _:
                return []

    def _done_call(self, key: _Key, item: _Item) -> list[ModelEvent]:
        call = self._call_of.get(key if key is not None else item.id)
        if call is None or item.call_id not in (None, call.id):
            return [*self._end_thinking(), *self._start_call(key, item)]
        call.whole = _argument_text(item.arguments) or call.whole
        return []

    def _done_message(self, key: _Key, item: _Item) -> list[ModelEvent]:
        """Return the text of an item of which no delta came."""
        if key in self._texts:
            return []
        events: list[ModelEvent] = []
        for part in _parts(item.content):
            self._has_refusal = self._has_refusal or part.get("type") == "refusal"
            events += self._text(key, part.get("text") or part.get("refusal"))
        return events

    def _done_reasoning(self, key: _Key, item: _Item) -> list[ModelEvent]:
        events: list[ModelEvent] = []
        if key not in self._reasoned:
            event = _Event(output_index=key if isinstance(key, int) else None, item_id=item.id)
            for index, part in enumerate(_parts(item.summary)):
                events += self._think(event, part.get("text"), index)
            for index, part in enumerate(_parts(item.content)):
                event.content_index = index
                events += self._think(event, part.get("text"), None)
        return [*events, *self._end_thinking(item.encrypted_content or "", item.id or "")]

    def _ended(self, kind: str, response: _Response) -> list[ModelEvent]:
        incomplete = response.incomplete_details
        self._reason = (incomplete.reason if incomplete is not None else None) or response.status or ""
        if kind == "response.failed" or self._reason in ("failed", "cancelled"):
            raise in_stream_failure(response.error, secrets=self._secrets)
        if kind == "response.completed":
            self._reason = self._reason or "completed"
        self.is_complete = True
        if response.usage is not None:
            self._tokens = response.usage.tokens()
        return self._missing(response.output or [])

    def _missing(self, output: list[msgspec.Raw]) -> list[ModelEvent]:
        """Return what only the final event contains.

        Ids may differ there, so a kind of item of which anything has arrived counts as complete.
        """
        seen = frozenset(self._seen)
        events: list[ModelEvent] = []
        for index, raw in enumerate(output):
            item = self._read(_items, raw, _Item())
            if item.type not in seen:
                events += self._done(f"final {index}", item)
        return events


def _argument_text(value: object) -> str:
    """Return the arguments of a call, which some servers send as an object."""
    if isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode() if isinstance(value, dict) else ""


def _parts(value: object) -> list[dict[str, Any]]:
    return [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []
