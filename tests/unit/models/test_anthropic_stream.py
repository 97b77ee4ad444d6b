"""Test the reading of the streams of Anthropic's Messages API: documented ones, and those of servers that differ."""

import json
from typing import Any

import pytest

from worker.models.client import (
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
from worker.models.wires.anthropic_stream import AnthropicDecoder

Event = dict[str, Any]


def read(*events: Event | bytes, name: str = "") -> list[ModelEvent]:
    decoder = AnthropicDecoder("loop", ())
    decoded: list[ModelEvent] = []
    for event in events:
        decoded += decoder.event(name, event if isinstance(event, bytes) else json.dumps(event).encode())
    return decoded + decoder.end()


def start(index: int | None, kind: str, **values: Any) -> Event:
    return {"type": "content_block_start", "index": index, "content_block": {"type": kind, **values}}


def delta(index: int | None, kind: str, **values: Any) -> Event:
    return {"type": "content_block_delta", "index": index, "delta": {"type": f"{kind}_delta", **values}}


def stop(index: int | None) -> Event:
    return {"type": "content_block_stop", "index": index}


def ended(reason: str | None, **usage: Any) -> list[Event]:
    message_delta = {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": usage}
    return [message_delta, {"type": "message_stop"}]


def text(index: int, *pieces: str) -> list[Event]:
    return [start(index, "text", text=""), *(delta(index, "text", text=piece) for piece in pieces), stop(index)]


def tool(index: int, call_id: str, *pieces: str, **values: Any) -> list[Event]:
    deltas = [delta(index, "input_json", partial_json=piece) for piece in pieces]
    return [start(index, "tool_use", id=call_id, name="view", **{"input": {}, **values}), *deltas, stop(index)]


def test_a_documented_answer_with_thinking_between_calls() -> None:
    usage = {"input_tokens": 10, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 3, "output_tokens": 1}
    assert read(
        {"type": "message_start", "message": {"id": "m", "content": [], "usage": usage}},
        {"type": "ping"},
        start(0, "thinking", thinking="", signature=""),
        delta(0, "thinking", thinking="hm"),
        delta(0, "signature", signature="sig"),
        stop(0),
        start(1, "redacted_thinking", data="opaque"),
        stop(1),
        *text(2, "Hel", "lo"),
        *tool(3, "c1", "", '{"a"', ": 1}"),
        start(4, "thinking", thinking="more", signature="sig-2"),
        stop(4),
        *tool(5, "c2", ""),
        *text(6, "done"),
        *ended("tool_use", output_tokens=20),
    ) == [
        Counted(Tokens(10, 1, 5, 3)),
        ThinkingDelta("hm"),
        ThinkingEnd("sig", "", "loop"),
        ThinkingEnd("opaque", "redacted_thinking", "loop"),
        TextDelta("Hel"),
        TextDelta("lo"),
        ToolCallStart("c1", "view"),
        ThinkingDelta("more"),
        ThinkingEnd("sig-2", "", "loop"),
        ToolCallStart("c2", "view"),
        TextDelta("done"),
        Counted(Tokens(10, 20, 5, 3)),
        ToolCallEnd("c1", '{"a": 1}'),
        ToolCallEnd("c2", ""),
        Finished("tool_use", Tokens(10, 20, 5, 3)),
    ]


@pytest.mark.parametrize(
    ("stop_reason", "reason"),
    [
        ("end_turn", "end_turn"),
        ("stop_sequence", "end_turn"),
        ("max_tokens", "max_tokens"),
        ("model_context_window_exceeded", "max_tokens"),
        ("tool_use", "tool_use"),
        ("refusal", "content_filter"),
        ("pause_turn", "unknown"),
        ("something_new", "unknown"),
    ],
)
def test_each_stop_reason(stop_reason: str, reason: str) -> None:
    assert read(*text(0, "x"), *ended(stop_reason))[-1] == Finished(reason)  # type: ignore[arg-type]


def test_an_answer_with_calls_ends_with_tool_use_although_the_server_says_otherwise() -> None:
    assert read(*tool(0, "c1", "{}"), *ended("end_turn"))[-1] == Finished("tool_use")
    assert read(*tool(0, "c1", "{}"), {"type": "message_stop"})[-1] == Finished("tool_use")
    assert read(*tool(0, "c1", '{"a'), *ended("max_tokens"))[-1] == Finished("max_tokens")


@pytest.mark.parametrize("value", [{"a": 1}, '{"a":1}'])
def test_the_input_of_a_call_may_come_with_its_start(value: object) -> None:
    assert ToolCallEnd("c1", '{"a":1}') in read(*tool(0, "c1", input=value), *ended("tool_use"))


def test_fields_that_compatible_servers_leave_out() -> None:
    events = read(
        {"type": "message_start"},
        start(None, "thinking"),
        delta(None, "thinking", thinking="hm"),
        start(None, "tool_use", name="view"),  # the thinking block has no end
        delta(None, "input_json", partial_json="{}"),
        delta(None, "text", text="said"),  # without a start
        delta(7, "thinking", thinking="late"),
        {"type": "content_block_delta", "index": 0, "delta": None},
        {"type": "content_block_start"},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": None},
    )
    assert events == [
        ThinkingDelta("hm"),
        ThinkingEnd("", "", "loop"),
        ToolCallStart("", "view"),
        TextDelta("said"),
        ThinkingDelta("late"),
        ThinkingEnd("", "", "loop"),
        ToolCallEnd("", "{}"),
        Finished("tool_use"),
    ]


def test_two_calls_with_the_same_index_are_two_calls() -> None:
    events = read(*tool(0, "c1", '{"a": 1}'), *tool(0, "c2", '{"b": 2}'), *ended("tool_use"))
    assert [event for event in events if isinstance(event, ToolCallEnd)] == [
        ToolCallEnd("c1", '{"a": 1}'),
        ToolCallEnd("c2", '{"b": 2}'),
    ]


@pytest.mark.parametrize(
    ("kind", "category", "retryable"),
    [
        ("overloaded_error", "overloaded", True),
        ("rate_limit_error", "rate_limit", True),
        ("api_error", "server", True),
        ("invalid_request_error", "bad_request", False),
        ("something_new", "server", True),
    ],
)
def test_L02_errors_within_the_stream(kind: str, category: str, retryable: bool) -> None:
    error = {"error": {"type": kind, "message": "busy"}}
    for event, name in (({"type": "error"} | error, ""), (error, "error"), (error, "")):
        with pytest.raises(ModelFailure, match="busy") as caught:
            read(*text(0, "half"), event, name=name)
        assert (caught.value.category, caught.value.retryable, caught.value.in_stream) == (category, retryable, True)


def test_unknown_events_blocks_and_deltas_are_ignored() -> None:
    assert read(
        {"type": "something_new", "index": 0},
        start(0, "server_tool_use", id="s1", name="web_search", input={}),
        delta(0, "input_json", partial_json='{"query": "x"}'),
        stop(0),
        start(1, "web_search_tool_result", tool_use_id="s1", content=[{"type": "web_search_result"}]),
        stop(1),
        *text(2, "x"),
        delta(2, "citations", citation={"type": "char_location"}),
        *ended("end_turn"),
    ) == [TextDelta("x"), Finished("end_turn")]


def test_usage_that_is_missing_or_zero_at_the_end_does_not_erase_what_was_counted() -> None:
    usage = {"input_tokens": 10, "output_tokens": 1}
    started = {"type": "message_start", "message": {"usage": usage}}
    events = read(started, *text(0, "x"), *ended("end_turn", input_tokens=0, output_tokens=7.0))
    assert events[-1] == Finished("end_turn", Tokens(10, 7))


@pytest.mark.parametrize("events", [[], text(0, "half"), [start(0, "text")], tool(0, "c1", "{")])
def test_L04_an_answer_without_its_end_is_reported_as_cut(events: list[Event]) -> None:
    with pytest.raises(ModelFailure) as caught:
        read(*events)
    assert (caught.value.category, caught.value.in_stream, caught.value.retryable) == ("stream_cut", True, True)


def test_the_rest_need_not_be_awaited_after_the_last_event() -> None:
    decoder = AnthropicDecoder("loop", ())
    assert not decoder.is_complete
    decoder.event("", b'{"type": "message_stop"}')
    assert decoder.is_complete


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (rb'{"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a\ud83d"}}', "a�"),
        (rb'{"type": "content_block_delta", "delta": {"type": "text_delta", "text": "\ude00b"}}', "�b"),
        (b'{"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a\xffb"}}', "a�b"),
    ],
)
def test_a_bad_character_does_not_end_the_answer(data: bytes, expected: str) -> None:
    assert read(data, *ended("end_turn"))[0] == TextDelta(expected)


@pytest.mark.parametrize(
    "data",
    [
        b"not json",
        b"[1, 2]",
        b"null",
        b'{"type": 5}',
        b'{"delta": 5}',
        b'{"type": "content_block_delta", "delta": {"text": ["x"]}}',
        b'{"error": ' + b"[" * 100_000 + b"}",
        b'{"index": 1e999}',
    ],
)
def test_L05_unreadable_data_is_a_failure(data: bytes) -> None:
    with pytest.raises(ModelFailure) as caught:
        read(data)
    assert (caught.value.category, caught.value.in_stream) == ("garbage", True)
