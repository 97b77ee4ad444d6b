"""Decode the stream of a chat completion, and a whole completion where a server does not stream.

Format: https://platform.openai.com/docs/api-reference/chat-streaming, with the additions of compatible servers:
thinking in `reasoning` or `reasoning_content`, or between `<think>` tags; OpenRouter's `reasoning_details` and cost
(https://openrouter.ai/docs/use-cases/reasoning-tokens); contents as a list of parts; errors in an event.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from protocol.api.message import FinishReason
from protocol.base.text import join_surrogates
from worker.models.client import (
    Counted,
    Finished,
    ModelEvent,
    TextDelta,
    ThinkingDelta,
    ThinkingEnd,
    Tokens,
    ToolCallEnd,
)
from worker.models.failures import cut_off, failure
from worker.models.wires.chat_calls import ChatCalls
from worker.models.wires.chat_messages import CALL_EXTRA, FIELDS, IN_TEXT
from worker.models.wires.event_data import read_event
from worker.models.wires.http_errors import in_stream_failure
from worker.models.wires.special_tokens import TokenJoiner, join_tokens_in_json

DONE = b"[DONE]"
_REASONS: dict[str, FinishReason] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "content_filter",
}
_OPEN_TAG, _CLOSE_TAG = "<think>", "</think>"
_ERROR = "error"


class _Delta(msgspec.Struct, gc=False):
    """Fields whose types vary between servers are checked where they are used."""

    content: Any = None
    reasoning: Any = None
    reasoning_content: Any = None
    reasoning_details: Any = None
    tool_calls: Any = None
    refusal: Any = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    message: _Delta | None = None  # of a whole completion
    finish_reason: Any = None


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice | None] | None = None
    usage: Any = None
    error: Any = None
    object: Any = None
    message: Any = None


_CHUNK = msgspec.json.Decoder(_Chunk)


class ChatDecoder:
    """Decodes one response."""

    def __init__(self, provider_id: str, *, has_details: bool, joins_tokens: bool, secrets: tuple[str, ...]) -> None:
        """`has_details`: thinking comes as `reasoning_details`. `joins_tokens`: the request had broken control
        tokens."""
        self.is_complete = False
        self.progress = 0
        self._provider_id = provider_id
        self._has_details = has_details
        self._secrets = secrets
        self._calls = ChatCalls(provider_id, CALL_EXTRA)
        self._thinking = _Thinking(provider_id)
        self._joiner = TokenJoiner() if joins_tokens else None
        self._tokens = Tokens()
        self._reason = ""
        self._is_refused = False
        self._blank = ""  # white space before a text, which is only sent with it
        self._has_text = False
        self._in_tags = False

    def event(self, name: str, data: bytes) -> list[ModelEvent]:
        """Decode one event; see `StreamDecoder`."""
        if data == DONE:
            self.is_complete = True
            return []
        chunk = read_event(_CHUNK, data, self._secrets)
        if chunk.error:
            raise in_stream_failure(chunk.error, secrets=self._secrets)
        if name == _ERROR or chunk.object == _ERROR:
            raise in_stream_failure(_loose(data), secrets=self._secrets)
        events: list[ModelEvent] = []
        if chunk.usage is not None:
            self._count(chunk.usage, events)
        choice = chunk.choices[0] if chunk.choices else None
        if choice is None:
            return events
        if isinstance(choice.finish_reason, str) and choice.finish_reason:
            self._reason = choice.finish_reason
            self.progress += 1
        delta = choice.delta or choice.message
        if delta is not None:
            self._delta(delta, events)
        return events

    def end(self) -> list[ModelEvent]:
        """Return the end of the response; see `StreamDecoder`."""
        if not self._reason and not self._is_refused:
            raise cut_off()
        if self._reason == _ERROR and not self._is_refused:
            raise failure("server", "the provider ended the answer with an error", in_stream=True)
        events: list[ModelEvent] = []
        held = self._joiner.end() if self._joiner is not None else ""
        if held:
            events.append(TextDelta(held))
        events += self._thinking.end()
        for event in self._calls.end():
            if isinstance(event, ToolCallEnd) and self._joiner is not None:
                event = ToolCallEnd(event.id, join_tokens_in_json(event.input))
            events.append(event)
        reason = "content_filter" if self._is_refused else _REASONS.get(self._reason, "unknown")
        if reason == "end_turn" and self._calls:
            reason = "tool_use"  # some servers have no finish reason of their own for it
        events.append(Finished(reason, self._tokens))
        return events

    def _delta(self, delta: _Delta, events: list[ModelEvent]) -> None:
        if delta.refusal:
            self._is_refused = True
            self.progress += 1
            return
        if self._has_details and isinstance(delta.reasoning_details, list) and delta.reasoning_details:
            self.progress += 1
            for position, detail in enumerate(delta.reasoning_details):
                if isinstance(detail, dict):
                    events += self._thinking.detail(detail, position)
        else:
            for field, text in ((FIELDS[0], delta.reasoning), (FIELDS[1], delta.reasoning_content)):
                if text and isinstance(text, str):
                    self.progress += 1
                    events += self._thinking.text(field, join_surrogates(text))
                    break
        content = delta.content
        if content:
            text = content if isinstance(content, str) else _text_of_parts(content)
            if text:
                self.progress += 1
                self._text(join_surrogates(text), events)
        if isinstance(delta.tool_calls, list):
            for call in delta.tool_calls:
                if isinstance(call, dict):
                    self.progress += 1
                    self._end_text(events)
                    events += self._calls.add(call)

    def _text(self, text: str, events: list[ModelEvent]) -> None:
        if self._in_tags:
            if text == _CLOSE_TAG:
                self._in_tags = False
            else:
                events += self._thinking.text(IN_TEXT, text)
            return
        if not self._has_text:
            if text == _OPEN_TAG:
                self._in_tags = True
                return
            text = self._blank + text
            if text.isspace():
                self._blank = text
                return
            self._blank = ""
            self._has_text = True
        events += self._thinking.end()
        if self._joiner is not None:
            text = self._joiner.feed(text)
        if text:
            events.append(TextDelta(text))

    def _end_text(self, events: list[ModelEvent]) -> None:
        """End text and thinking before a tool call."""
        events += self._thinking.end()
        held = self._joiner.end() if self._joiner is not None else ""
        if held:
            events.append(TextDelta(held))
        self._has_text = False
        self._blank = ""

    def _count(self, usage: Any, events: list[ModelEvent]) -> None:
        """Take the usage, which each event gives for the whole response so far."""
        if not isinstance(usage, dict):
            return
        tokens = _tokens(usage)
        if not tokens.is_empty and tokens != self._tokens:
            self._tokens = tokens
            events.append(Counted(tokens))


class _Thinking:
    """The thinking block that is being received."""

    def __init__(self, provider_id: str) -> None:
        self._provider_id = provider_id
        self._key: object = None  # None: no block is open
        self._id = ""
        self._signature = ""
        self._details: dict[str, Any] = {}

    def text(self, field: str, text: str) -> list[ModelEvent]:
        """Take thinking that came in a field of its own."""
        events = self._open(field)
        self._id = field
        events.append(ThinkingDelta(text))
        return events

    def detail(self, detail: Mapping[str, Any], position: int) -> list[ModelEvent]:
        """Take one of OpenRouter's details; those of one type and index belong together."""
        kind, index = detail.get("type"), detail.get("index")
        events = self._open((kind, position if index is None else index))
        self._details = {"format": detail.get("format"), "index": index, "type": kind}
        self._id = _string(detail.get("id")) or self._id
        if kind == "reasoning.encrypted":
            self._signature += _string(detail.get("data"))
        else:
            self._signature = _string(detail.get("signature")) or self._signature
        text = _string(detail.get("summary" if kind == "reasoning.summary" else "text"))
        if text:
            events.append(ThinkingDelta(text))
        return events

    def end(self) -> list[ModelEvent]:
        """Return the end of the open block, if there is one."""
        if self._key is None:
            return []
        end = ThinkingEnd(self._signature, self._id, self._provider_id, self._details)
        self._key, self._id, self._signature, self._details = None, "", "", {}
        return [end]

    def _open(self, key: object) -> list[ModelEvent]:
        events = self.end() if self._key != key else []
        self._key = key
        return events


def _tokens(usage: dict[str, Any]) -> Tokens:
    """Convert the usage, whose input includes both parts of the cache.

    The cached part is in `prompt_tokens_details` (OpenAI, OpenRouter), `prompt_cache_hit_tokens` (DeepSeek) or
    `cached_tokens` (Moonshot).
    """
    details = usage.get("prompt_tokens_details")
    details = details if isinstance(details, dict) else {}
    read = (
        _number(details.get("cached_tokens"))
        or _number(usage.get("prompt_cache_hit_tokens"))
        or _number(usage.get("cached_tokens"))
    )
    written = _number(details.get("cache_write_tokens"))
    cost = usage.get("cost")
    return Tokens(
        input=max(0, _number(usage.get("prompt_tokens")) - read - written),
        output=_number(usage.get("completion_tokens")),
        cache_read=read,
        cache_write=written,
        cost=float(cost) if isinstance(cost, int | float) and not isinstance(cost, bool) and cost else None,
    )


def _number(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else 0


def _string(value: Any) -> str:
    return join_surrogates(value) if isinstance(value, str) else ""


def _text_of_parts(content: Any) -> str:
    """Return the text of a list of contents, as some servers send it."""
    if not isinstance(content, list):
        return ""
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else part for part in content]
    return "".join(text for text in texts if isinstance(text, str))


def _loose(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return data.decode("utf-8", "replace")
