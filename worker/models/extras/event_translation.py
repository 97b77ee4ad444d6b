"""Translate the events of pydantic_ai into ours, for one stream."""

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
"""Makes a failure from a category and a message."""


class Translation:
    """Translates the events of one stream."""

    def __init__(self, provider_id: str) -> None:
        self._provider_id = provider_id
        self._calls: dict[int, str] = {}  # part index -> tool call id
        self._counted = Tokens()

    def events(self, event: Any) -> list[ModelEvent]:
        """Translate one event of pydantic_ai. The list is empty when it carries nothing new."""
        signature = self._call_signature(event.part) if event.event_kind == "part_start" else []
        translated = self._event(event)
        return [*signature, translated] if translated is not None else signature

    def _call_signature(self, part: Any) -> list[ModelEvent]:
        """Return the signature of a tool call: Google signs calls, not thinking."""
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
                return _delta(part.part_kind, getattr(part, "content", ""))
            case "part_delta":
                delta = event.delta
                return _delta(delta.part_delta_kind, getattr(delta, "content_delta", ""))
            case "part_end" if event.part.part_kind == "thinking":
                part = event.part
                return ThinkingEnd(part.signature or "", part.id or "", self._provider_id, part.provider_details or {})
            case _:
                return None

    def counted(self, usage: "RequestUsage") -> Counted | None:
        """Return the usage so far, None when it has not changed."""
        tokens = _tokens(usage)
        if tokens == self._counted:
            return None
        self._counted = tokens
        return Counted(tokens)

    def ends(self, response: "ModelResponse", fail: Fail) -> list[ModelEvent]:
        """Return the inputs of the tool calls, whose parts may have arrived interleaved, and the end.

        Raises what `fail` makes.
        """
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
            reason = "tool_use"  # some APIs have no finish reason of their own for it
        return [*ends, Finished(reason, tokens)]


def _tokens(usage: "RequestUsage", cost: float | None = None) -> Tokens:
    """Convert the library's usage, whose input includes both cache fields."""
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
