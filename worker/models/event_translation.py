"""Events of pydantic_ai as ours, for one stream.

Signatures: OpenAI's Responses API gives one item of thinking several summaries and its signature after the last of
them. It is kept on the last block here, and `dialect.py` moves it to the first one on the way back.
"""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from protocol.api.message import FinishReason
from protocol.base.text import join_surrogates
from worker.models.client import (
    Category,
    Counted,
    Finished,
    ModelEvent,
    ModelFailure,
    TextDelta,
    ThinkingDelta,
    ThinkingEnd,
    Tokens,
    ToolCallEnd,
    ToolCallStart,
)

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelResponse
    from pydantic_ai.usage import RequestUsage

_REASONS: dict[str, FinishReason] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_call": "tool_use",
    "content_filter": "content_filter",
}
Fail = Callable[[Category, str], ModelFailure]
"""Makes a failure of a category and a message."""


class Translation:
    """Used for one stream."""

    def __init__(self, provider_id: str) -> None:
        self._provider_id = provider_id
        self._calls: dict[int, str] = {}  # ids by their place in the answer
        self._items: dict[int, str] = {}  # ids of thinking items by the places of their parts
        self._signatures: dict[str, str] = {}  # by these ids
        self._counted = Tokens()

    def events(self, event: Any) -> list[ModelEvent]:
        """Our events for one of theirs, none for those that say nothing new."""
        found = [] if event.event_kind != "part_start" else self._call_signature(event.part)
        translated = self._event(event)
        return [*found, translated] if translated is not None else found

    def _call_signature(self, part: Any) -> list[ModelEvent]:
        """Google signs calls, not thoughts."""
        details = (part.provider_details if part.part_kind == "tool-call" else None) or {}
        signature = details.get("thought_signature")
        return [ThinkingEnd(signature, "", self._provider_id)] if isinstance(signature, str) else []

    def _event(self, event: Any) -> ModelEvent | None:
        match event.event_kind:
            case "part_start":
                part = event.part
                if part.part_kind == "tool-call":
                    self._calls[event.index] = part.tool_call_id
                    return ToolCallStart(part.tool_call_id, part.tool_name)
                if part.part_kind == "thinking" and part.id:
                    self._items[event.index] = part.id
                return _delta(part.part_kind, getattr(part, "content", ""))
            case "part_delta":
                delta = event.delta
                if delta.part_delta_kind == "thinking" and delta.signature_delta and event.index in self._items:
                    self._signatures[self._items[event.index]] = delta.signature_delta
                return _delta(delta.part_delta_kind, getattr(delta, "content_delta", ""))
            case "part_end" if event.part.part_kind == "thinking":
                part = event.part
                signature = part.signature or self._signatures.get(part.id or "", "")
                return ThinkingEnd(signature, part.id or "", self._provider_id, part.provider_details or {})
            case _:
                return None

    def counted(self, usage: "RequestUsage") -> Counted | None:
        """What the provider has counted so far, None when that is nothing new."""
        tokens = _tokens(usage)
        if tokens == self._counted:
            return None
        self._counted = tokens
        return Counted(tokens)

    def ends(self, response: "ModelResponse", fail: Fail) -> list[ModelEvent]:
        """The inputs of the calls, which may have been written in turns, and the end. Raises what `fail` makes."""
        details = response.provider_details or {}
        raw = str(details.get("finish_reason") or "")
        if response.finish_reason is None and not raw:
            raise fail("stream_cut", "the model's answer ended before it was complete")
        if response.finish_reason == "error":
            raise fail("server", f"the provider ended the answer with an error ({raw})")
        ends: list[ModelEvent] = []
        for index, call_id in self._calls.items():
            part: Any = response.parts[index]
            text = part.args if isinstance(part.args, str) else json.dumps(part.args) if part.args else ""
            ends.append(ToolCallEnd(call_id, join_surrogates(text)))
        cost = details.get("cost")
        tokens = _tokens(response.usage, float(cost) if isinstance(cost, int | float) else None)
        reason = _REASONS.get(response.finish_reason or "", "unknown")
        if ends and reason == "end_turn":
            reason = "tool_use"  # some interfaces have no word of their own for it
        return [*ends, Finished(reason, tokens)]


def _tokens(usage: "RequestUsage", cost: float | None = None) -> Tokens:
    """The library's count as ours: its input includes both cache fields."""
    return Tokens(
        input=max(0, usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens),
        output=usage.output_tokens,
        cache_read=usage.cache_read_tokens,
        cache_write=usage.cache_write_tokens,
        cost=cost,
    )


def _delta(kind: str, text: object) -> ModelEvent | None:
    if not isinstance(text, str) or not text:
        return None
    text = join_surrogates(text)
    return TextDelta(text) if kind == "text" else ThinkingDelta(text) if kind == "thinking" else None
