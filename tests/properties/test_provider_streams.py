"""Test the decoders of providers' streams with random events: each stream ends once or fails once."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.models.client import Finished, ModelEvent, ModelFailure, ToolCallEnd, ToolCallStart
from worker.models.wires.anthropic_stream import AnthropicDecoder
from worker.models.wires.responses_stream import ResponsesDecoder
from worker.models.wires.wire import StreamDecoder

Event = dict[str, Any]

_index = st.none() | st.integers(0, 3)
_text = st.sampled_from([None, "", "a", "{}", '{"a": 1}', "<|im_", "\u200dend|>"])
_count = st.none() | st.integers(0, 9)


def _some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Event]:
    """Return objects with any of these fields, `type` always."""
    required = {name: fields.pop(name) for name in ("type",) if name in fields}
    return st.fixed_dictionaries(required, optional=fields)


_usage = _some(input_tokens=_count, output_tokens=_count, cache_read_input_tokens=_count)
_block = _some(
    type=st.sampled_from(["text", "thinking", "redacted_thinking", "tool_use", "server_tool_use", "new"]),
    input=st.sampled_from([{}, {"a": 1}, "{}", None]),
    **dict.fromkeys(("id", "name", "text", "thinking", "signature", "data"), _text),
)
_delta = _some(
    type=st.sampled_from(["text_delta", "thinking_delta", "signature_delta", "input_json_delta", "citations_delta"]),
    **dict.fromkeys(("text", "thinking", "signature", "partial_json", "stop_reason"), _text),
)
ANTHROPIC = st.one_of(
    _some(type=st.sampled_from(["ping", "new", "message_stop"])),
    _some(type=st.just("message_start"), message=st.none() | _some(usage=_usage)),
    _some(type=st.just("content_block_start"), index=_index, content_block=_block),
    _some(type=st.just("content_block_delta"), index=_index, delta=_delta),
    _some(type=st.just("content_block_stop"), index=_index),
    _some(type=st.just("message_delta"), delta=_delta, usage=st.none() | _usage),
)

_parts = st.lists(_some(type=st.sampled_from(["output_text", "refusal", "summary_text"]), text=_text), max_size=2)
_item = _some(
    type=st.sampled_from(["message", "reasoning", "function_call", "web_search_call", "new"]),
    arguments=_text | st.just({"a": 1}),
    content=st.none() | _parts,
    summary=st.none() | _parts,
    **dict.fromkeys(("id", "call_id", "name", "encrypted_content"), _text),
)
_response = _some(
    status=st.sampled_from(["completed", "incomplete", "in_progress", None]),
    usage=st.none() | _usage,
    incomplete_details=st.none() | _some(reason=_text),
    output=st.none() | st.lists(_item, max_size=2),
)
_position = {"output_index": _index, "item_id": _text, "summary_index": _index, "content_index": _index}
_about_text = ["output_text", "reasoning_summary_text", "reasoning_text", "refusal", "function_call_arguments"]
RESPONSES = st.one_of(
    _some(type=st.sampled_from(["response.queued", "response.content_part.added", "new"]), **_position),
    _some(type=st.sampled_from([f"response.{name}.delta" for name in _about_text]), delta=_text, **_position),
    _some(
        type=st.sampled_from([f"response.{name}.done" for name in _about_text]),
        **_position,
        **dict.fromkeys(("text", "refusal", "arguments"), _text),
    ),
    _some(type=st.sampled_from(["response.output_item.added", "response.output_item.done"]), item=_item, **_position),
    _some(type=st.sampled_from(["response.completed", "response.incomplete"]), response=st.none() | _response),
)


def _decode(decoder: StreamDecoder, events: list[Event]) -> list[ModelEvent] | ModelFailure:
    decoded: list[ModelEvent] = []
    try:
        for event in events:
            decoded += decoder.event("", json.dumps(event).encode())
        return decoded + decoder.end()
    except ModelFailure as failure:
        return failure


def _check(decoded: list[ModelEvent] | ModelFailure) -> None:
    if isinstance(decoded, ModelFailure):
        assert decoded.category == "stream_cut"
        return
    assert [event for event in decoded if isinstance(event, Finished)] == decoded[-1:]
    starts = [event.id for event in decoded if isinstance(event, ToolCallStart)]
    assert [event.id for event in decoded if isinstance(event, ToolCallEnd)] == starts


@given(st.lists(ANTHROPIC, max_size=12))
def test_any_events_of_anthropic_end_once_or_were_cut(events: list[Event]) -> None:
    _check(_decode(AnthropicDecoder("loop", ()), events))


@given(st.lists(RESPONSES, max_size=12), st.booleans())
def test_any_events_of_responses_end_once_or_were_cut(events: list[Event], joins_tokens: bool) -> None:
    _check(_decode(ResponsesDecoder("loop", joins_tokens=joins_tokens, secrets=()), events))


_keys = ["type", "index", "output_index", "delta", "content_block", "message", "usage", "error", "item", "response"]
_kinds = ["content_block_delta", "content_block_start", "message_delta", "error", "response.output_item.done"]
_values = st.recursive(
    st.sampled_from([None, True, 0, -1, 2**70, 1.5, "", "a", *_kinds, "response.completed", "response.failed"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_keys), inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.parametrize("kind", ["anthropic", "responses"])
@given(value=_values)
def test_L05_any_json_is_read_or_a_failure(kind: str, value: object) -> None:
    decoder: StreamDecoder = (
        AnthropicDecoder("loop", ()) if kind == "anthropic" else ResponsesDecoder("loop", joins_tokens=True, secrets=())
    )
    decoded = _decode(decoder, [value])  # type: ignore[list-item]
    assert isinstance(decoded, list) or decoded.in_stream
