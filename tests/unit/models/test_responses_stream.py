"""Test the reading of the streams of OpenAI's Responses API: documented ones, and those of servers that differ."""

import json
from typing import Any

import pytest

from tests.support.fakes.openai_responses import ResponseEvents
from worker.models.client import (
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
from worker.models.wires.responses_stream import ResponsesDecoder

Event = dict[str, Any]


def read(*events: Event | bytes, joins_tokens: bool = False) -> list[ModelEvent]:
    decoder = ResponsesDecoder("loop", joins_tokens=joins_tokens, secrets=())
    decoded: list[ModelEvent] = []
    for event in events:
        decoded += decoder.event("", event if isinstance(event, bytes) else json.dumps(event).encode())
    return decoded + decoder.end()


def event(kind: str, index: int | None = 0, **values: Any) -> Event:
    return {"type": f"response.{kind}", "sequence_number": 1, "output_index": index, **values}


def done(kind: str, index: int | None = 0, **values: Any) -> Event:
    return event("output_item.done", index, item={"type": kind, **values})


def added(kind: str, index: int | None = 0, **values: Any) -> Event:
    return event("output_item.added", index, item={"type": kind, **values})


def completed(**values: Any) -> Event:
    return {"type": "response.completed", "response": {"status": "completed", **values}}


def parts(*texts: str) -> list[Event]:
    return [{"type": "output_text", "text": content, "annotations": []} for content in texts]


def test_a_documented_answer() -> None:
    response = ResponseEvents("gpt-x")
    response.usage["input_tokens_details"] = {"cached_tokens": 4, "cache_write_tokens": 2}
    events = [
        *response.begin(),
        {"type": "response.in_progress", "response": {"status": "in_progress"}},
        *response.reasoning("rs_1", ["first", "second"], "secret-1"),
        *response.text("Hel"),
        *response.text("lo"),
        *response.call("c1", "view", '{"a": 1}'),
        *response.reasoning("rs_2", [], "secret-2"),
        *response.call("c2", "view", '{"b": '),
        *response.end(),
    ]
    assert read(*events) == [
        ThinkingDelta("first"),
        ThinkingEnd("", "rs_1", "loop"),
        ThinkingDelta("second"),
        ThinkingEnd("secret-1", "rs_1", "loop"),
        TextDelta("Hel"),
        TextDelta("lo"),
        ToolCallStart("c1", "view"),
        ThinkingEnd("secret-2", "rs_2", "loop"),
        ToolCallStart("c2", "view"),
        ToolCallEnd("c1", '{"a": 1}'),
        ToolCallEnd("c2", '{"b": '),
        Finished("tool_use", Tokens(5, 7, 4, 2)),
    ]


def test_unsummarised_reasoning_is_shown_and_kept() -> None:
    assert read(
        added("reasoning", id="rs_1"),
        event("reasoning_text.delta", item_id="rs_1", content_index=0, delta="one "),
        event("reasoning_text.delta", item_id="rs_1", content_index=0, delta="more "),
        event("reasoning_text.delta", item_id="rs_1", content_index=1, delta="two"),
        event("reasoning_text.done", item_id="rs_1", content_index=1, text="two"),
        done("reasoning", id="rs_1", encrypted_content=None),
        completed(),
    ) == [
        ThinkingDelta("one "),
        ThinkingDelta("more "),
        ThinkingDelta("two"),
        ThinkingEnd("", "rs_1", "loop", {"raw_content": ["one more ", "two"]}),
        Finished("end_turn"),
    ]


_SUMMARY = [{"type": "summary_text", "text": "first"}, {"type": "summary_text", "text": "second"}]
_OUTPUT = [
    {"type": "reasoning", "id": "rs_1", "summary": _SUMMARY, "encrypted_content": "secret"},
    {"type": "message", "id": "m", "content": parts("Hel", "lo")},
    {"type": "function_call", "id": "f", "call_id": "c1", "name": "view", "arguments": '{"a": 1}'},
]
_DECODED = [
    ThinkingDelta("first"),
    ThinkingEnd("", "rs_1", "loop"),
    ThinkingDelta("second"),
    ThinkingEnd("secret", "rs_1", "loop"),
    TextDelta("Hel"),
    TextDelta("lo"),
    ToolCallStart("c1", "view"),
    ToolCallEnd("c1", '{"a": 1}'),
    Finished("tool_use"),
]


def test_items_may_come_whole_at_their_end_or_at_the_end_of_the_answer() -> None:
    at_their_end = [event("output_item.done", index, item=item) for index, item in enumerate(_OUTPUT)]
    assert read(*at_their_end, completed(output=_OUTPUT)) == _DECODED
    without_index = [event("output_item.done", None, item=item) for item in _OUTPUT]
    assert read(*without_index, completed()) == _DECODED
    assert read(completed(output=_OUTPUT)) == _DECODED


def test_what_was_streamed_is_not_repeated_although_a_gateway_changes_the_ids() -> None:
    assert read(
        added("message", id="m-1"),
        event("output_text.delta", item_id="m-2", delta="Hello"),
        event("output_text.done", item_id="m-3", text="Hello"),
        done("message", id="m-4", content=parts("Hello")),
        added("function_call", 1, id="f-1", call_id="c1", name="view", arguments=""),
        event("function_call_arguments.delta", 1, item_id="f-2", delta='{"a": '),
        event("function_call_arguments.delta", 1, item_id="f-3", delta="1}"),
        done("function_call", 1, id="f-4", call_id="c1", name="view", arguments='{"a": 1}'),
        completed(output=[{**item, "id": "other"} for item in _OUTPUT[1:]]),
    ) == [TextDelta("Hello"), ToolCallStart("c1", "view"), ToolCallEnd("c1", '{"a": 1}'), Finished("tool_use")]


def test_items_without_an_index_are_told_apart_by_their_ids() -> None:
    events = [added("function_call", None, id=name, call_id=f"call-{name}", name="view") for name in "ab"]
    events += [event("function_call_arguments.delta", None, item_id=name, delta=f'"{name}"') for name in "ba"]
    assert [one for one in read(*events, completed()) if isinstance(one, ToolCallEnd)] == [
        ToolCallEnd("call-a", '"a"'),
        ToolCallEnd("call-b", '"b"'),
    ]


def test_a_server_may_number_all_items_alike() -> None:
    assert read(
        added("message"),
        event("output_text.delta", delta="Hello"),
        done("message", content=parts("Hello")),
        done("function_call", call_id="c1", name="view", arguments="1"),
        done("function_call", call_id="c2", name="view", arguments="2"),
        added("message"),
        done("message", content=parts("bye")),
        added("web_search_call"),
        completed(output=_OUTPUT[1:]),
    ) == [
        TextDelta("Hello"),
        ToolCallStart("c1", "view"),
        ToolCallStart("c2", "view"),
        TextDelta("bye"),
        ToolCallEnd("c1", "1"),
        ToolCallEnd("c2", "2"),
        Finished("tool_use"),
    ]


def test_encrypted_reasoning_without_a_summary_is_kept_once() -> None:
    item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "secret"}
    ended = event("output_item.done", item=item)
    assert read(ended, completed(output=[item])) == [ThinkingEnd("secret", "rs_1", "loop"), Finished("end_turn")]
    assert read(completed(output=[item])) == [ThinkingEnd("secret", "rs_1", "loop"), Finished("end_turn")]


@pytest.mark.parametrize("arguments", ['{"a":1}', {"a": 1}])
def test_arguments_may_come_only_at_the_end_of_the_call(arguments: object) -> None:
    events = [added("function_call", call_id="c1", name="view", arguments="")]
    for last in (
        event("function_call_arguments.done", arguments=arguments),
        done("function_call", arguments=arguments),
    ):
        assert ToolCallEnd("c1", '{"a":1}') in read(*events, last, completed())


def test_a_call_whose_name_comes_at_its_end_starts_there() -> None:
    events = [added("function_call", call_id="c1"), done("function_call", call_id="c1", name="view", arguments="{}")]
    assert read(*events, completed())[:2] == [ToolCallStart("c1", "view"), ToolCallEnd("c1", "{}")]


@pytest.mark.parametrize(
    "events",
    [
        [
            event("refusal.delta", delta="I can"),
            event("refusal.delta", delta="not"),
            event("refusal.done", refusal="x"),
        ],
        [event("refusal.done", refusal="I cannot")],
        [done("message", content=[{"type": "refusal", "refusal": "I cannot"}])],
    ],
)
def test_a_refusal_is_shown_and_ends_the_answer_as_filtered(events: list[Event]) -> None:
    decoded = read(*events, completed())
    assert "".join(one.text for one in decoded if isinstance(one, TextDelta)) == "I cannot"
    assert decoded[-1] == Finished("content_filter")


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ({"status": "completed"}, "end_turn"),
        ({}, "end_turn"),
        (None, "end_turn"),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "max_tokens"),
        ({"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}, "content_filter"),
        ({"status": "incomplete", "incomplete_details": {"reason": "steered"}}, "unknown"),
        ({"status": "incomplete", "incomplete_details": None}, "unknown"),
    ],
)
def test_each_end(response: Event | None, reason: str) -> None:
    kind = "incomplete" if response and response.get("status") == "incomplete" else "completed"
    end = {"type": f"response.{kind}", "response": response}
    assert read(event("output_text.delta", delta="x"), end)[-1] == Finished(reason)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "category", "retryable"),
    [
        ("server_error", "server", True),
        ("rate_limit_exceeded", "rate_limit", True),
        ("context_length_exceeded", "context_overflow", False),
        ("invalid_prompt", "bad_request", False),
        ("insufficient_quota", "quota", False),
    ],
)
def test_L02_errors_within_the_stream(code: str, category: str, retryable: bool) -> None:
    error = {"code": code, "message": "no", "param": None}
    for failed in (
        {"type": "response.failed", "response": {"status": "failed", "error": error}},
        {"type": "error", "sequence_number": 3, **error},
        {"type": "error", "error": error},
        {"error": error},
    ):
        with pytest.raises(ModelFailure, match="no") as caught:
            read(event("output_text.delta", delta="half"), failed)
        assert (caught.value.category, caught.value.retryable, caught.value.in_stream) == (category, retryable, True)


@pytest.mark.parametrize("kind", ["failed", "completed"])
def test_a_response_that_failed_without_an_error_is_a_failure_of_the_server(kind: str) -> None:
    with pytest.raises(ModelFailure) as caught:
        read({"type": f"response.{kind}", "response": {"status": "failed" if kind == "failed" else "cancelled"}})
    assert (caught.value.category, caught.value.in_stream) == ("server", True)


@pytest.mark.parametrize(
    "events", [[], [event("output_text.delta", delta="half")], [done("message", content=parts("x"))], [b"[DONE]"]]
)
def test_L04_an_answer_without_its_end_is_reported_as_cut(events: list[Event | bytes]) -> None:
    with pytest.raises(ModelFailure) as caught:
        read(*events)
    assert (caught.value.category, caught.value.in_stream, caught.value.retryable) == ("stream_cut", True, True)


def test_items_of_built_in_tools_and_unknown_events_are_ignored() -> None:
    search = {"id": "ws", "status": "completed", "action": {"type": "search"}, "arguments": {"q": 1}, "content": 5}
    assert read(
        added("web_search_call", **search),
        {"type": "response.web_search_call.searching", "output_index": 0, "item_id": "ws"},
        done("web_search_call", **search),
        {"type": "response.image_generation_call.partial_image", "partial_image_b64": "x", "delta": {"a": 1}},
        {"type": "response.something_new", "item": 5, "response": []},
        event("output_text.delta", 1, delta=None),
        event("output_text.delta", 1, delta="x"),
        completed(),
    ) == [TextDelta("x"), Finished("end_turn")]


def test_broken_control_tokens_are_joined_again() -> None:
    joiner = "\u200d"
    decoded = read(
        event("reasoning_summary_text.delta", item_id="rs_1", summary_index=0, delta=f"<{joiner}|im_end|>"),
        event("output_text.delta", 1, delta=f"a <{joiner}|im_"),
        event("output_text.delta", 1, delta=f"end|> b <{joiner}|i"),
        done("function_call", 2, call_id="c1", name="view", arguments=f'"<{joiner}|im_end|>"'),
        completed(),
        joins_tokens=True,
    )
    assert "".join(one.text for one in decoded if isinstance(one, TextDelta)) == f"a <|im_end|> b <{joiner}|i"
    assert decoded[0] == ThinkingDelta("<|im_end|>")
    assert ToolCallEnd("c1", '"<|im_end|>"') in decoded


def test_half_a_surrogate_pair_does_not_end_the_answer() -> None:
    data = rb'{"type": "response.output_text.delta", "output_index": 0, "delta": "a\ud83d"}'
    item = (
        rb'{"type": "response.output_item.done", "output_index": 1, "item": {"type": "function_call", "call_id": "c", '
    )
    item += rb'"name": "view", "arguments": "\ud83d"}}'
    decoded = read(data, item, completed())
    assert decoded[0] == TextDelta("a�")
    assert ToolCallEnd("c", "�") in decoded


@pytest.mark.parametrize("data", [b"not json", b"[1, 2]", b'{"type": 5}', b'{"output_index": "x"}'])
def test_L05_unreadable_data_is_a_failure(data: bytes) -> None:
    with pytest.raises(ModelFailure) as caught:
        read(data)
    assert (caught.value.category, caught.value.in_stream) == ("garbage", True)
