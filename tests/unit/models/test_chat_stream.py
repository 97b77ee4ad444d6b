"""Test the decoder of chat completions with the streams of OpenAI, and with the odd shapes of compatible servers."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from worker.models.wires.chat_stream import ChatDecoder

DONE = b"[DONE]"
STOP: dict[str, Any] = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
CALLS: dict[str, Any] = {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}


def decoder(**changes: Any) -> ChatDecoder:
    values: dict[str, Any] = {"has_details": False, "joins_tokens": False, "secrets": ()} | changes
    return ChatDecoder("loop", **values)


def read(*chunks: dict[str, Any] | bytes, **changes: Any) -> list[ModelEvent]:
    """Return the events of these chunks and of the end."""
    reader = decoder(**changes)
    events: list[ModelEvent] = []
    for chunk in chunks:
        events += reader.event("", chunk if isinstance(chunk, bytes) else json.dumps(chunk).encode())
    return events + reader.end()


def said(content: Any, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": content, **fields}, "finish_reason": None}]}


def calling(*calls: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"tool_calls": list(calls)}}]}


def delta(index: Any = None, call_id: Any = None, name: Any = None, arguments: Any = None) -> dict[str, Any]:
    """Return one delta of a tool call, without the fields that are None."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    fields = {"index": index, "id": call_id, "function": function or None}
    return {key: value for key, value in fields.items() if value is not None}


def calls_of(events: list[ModelEvent]) -> list[tuple[str, str, str]]:
    """Return id, name and input of each call; each must have started once, and before its end."""
    starts = {event.id: event.name for event in events if isinstance(event, ToolCallStart)}
    ends = [event for event in events if isinstance(event, ToolCallEnd)]
    assert [event.id for event in events if isinstance(event, ToolCallStart)] == [end.id for end in ends]
    return [(end.id, starts[end.id], end.input) for end in ends]


def test_a_documented_answer() -> None:
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "total_tokens": 120,
        "prompt_tokens_details": {"cached_tokens": 60, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 5},
    }
    tokens = Tokens(input=40, output=20, cache_read=60)
    events = read(
        said("", role="assistant", refusal=None),
        said("Hel"),
        said("lo"),
        STOP,
        {"choices": [], "usage": usage},
        DONE,
    )
    assert events == [TextDelta("Hel"), TextDelta("lo"), Counted(tokens), Finished("end_turn", tokens)]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("tool_calls", "tool_use"),
        ("function_call", "tool_use"),
        ("content_filter", "content_filter"),
        ("guardrail", "unknown"),
    ],
)
def test_each_finish_reason(raw: str, reason: str) -> None:
    finished = read(said("x"), {"choices": [{"delta": {}, "finish_reason": raw}]})[-1]
    assert isinstance(finished, Finished)
    assert finished.reason == reason


@pytest.mark.parametrize(
    "deltas",
    [
        pytest.param(
            [delta(0, "c1", "view", ""), delta(0, None, None, '{"a"'), delta(0, None, None, ": 1}")], id="openai"
        ),
        pytest.param([delta(0, "c1", "view", '{"a": 1}')], id="whole in one chunk"),
        pytest.param([delta(None, "c1", "view", '{"a"'), delta(None, None, None, ": 1}")], id="no index"),
        pytest.param([delta(None, "c1", "view", '{"a"'), delta(None, "c1", None, ": 1}")], id="id instead of index"),
        pytest.param([delta(0, "c1", "view", '{"a"'), delta(0, "c1", "view", ": 1}")], id="id and name repeated"),
        pytest.param([delta(0, "c1", "view", '{"a"'), delta(0, "c9", None, ": 1}")], id="another id in each delta"),
        pytest.param([delta(0, "c1", "view", '{"a"'), delta(0, "", "", ": 1}")], id="empty id and name"),
        pytest.param([delta(0, "c1"), delta(0, None, "view", '{"a"'), delta(0, None, None, ": 1}")], id="late name"),
        pytest.param([delta(0, "c1", None, '{"a"'), delta(0, None, "view", ": 1}")], id="name after arguments"),
        pytest.param([delta(0, None, "view", '{"a"'), delta(0, "c1", None, ": 1}")], id="late id"),
        pytest.param([delta(None, None, "view", '{"a"'), delta(None, "c1", None, ": 1}")], id="late id, no index"),
        pytest.param([delta("0", "c1", "view", '{"a"'), delta("0", None, None, ": 1}")], id="index as text"),
    ],
)
def test_the_deltas_of_a_tool_call_may_have_odd_shapes(deltas: list[dict[str, Any]]) -> None:
    assert calls_of(read(*(calling(one) for one in deltas), CALLS)) == [("c1", "view", '{"a": 1}')]


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param([[delta(0, "c1", "a", "1"), delta(1, "c2", "b", "2")]], id="in one chunk"),
        pytest.param(
            [[delta(0, "c1", "a", "")], [delta(1, "c2", "b", "2")], [delta(0, None, None, "1")]], id="interleaved"
        ),
        pytest.param([[delta(0, "c1", "a", "1")], [delta(0, "c2", "b", "2")]], id="index always 0"),
        pytest.param([[delta(None, "c1", "a", "1")], [delta(None, "c2", "b", "2")]], id="no index"),
        pytest.param(
            [[delta(None, "c1", "a", "")], [delta(None, "c2", "b", "2")], [delta(None, "c1", None, "1")]],
            id="no index, interleaved",
        ),
    ],
)
def test_several_calls_are_told_apart(chunks: list[list[dict[str, Any]]]) -> None:
    assert calls_of(read(*(calling(*chunk) for chunk in chunks), CALLS)) == [("c1", "a", "1"), ("c2", "b", "2")]


def test_calls_without_any_id_get_one() -> None:
    events = read(calling(delta(0, None, "a", "1")), calling(delta(1, None, "b", "2")), CALLS)
    assert calls_of(events) == [("call_0", "a", "1"), ("call_1", "b", "2")]
    events = read(calling(delta(None, None, "a", "1")), calling(delta(None, None, "b", "2")), CALLS)
    assert calls_of(events) == [("call_0", "a", "1"), ("call_1", "b", "2")]


def test_arguments_may_be_an_object_and_a_call_without_a_name_is_left_out() -> None:
    assert calls_of(read(calling(delta(0, "c1", "view", {"a": [1]})), CALLS)) == [("c1", "view", '{"a":[1]}')]
    events = read(calling(delta(0, "c1", None, "{}")), STOP)
    assert calls_of(events) == []
    assert events[-1] == Finished("end_turn")


def test_an_answer_with_calls_ends_with_tool_use_although_the_server_says_otherwise() -> None:
    assert read(calling(delta(0, "c1", "view", "{}")), STOP)[-1] == Finished("tool_use")


def test_a_whole_completion_instead_of_chunks_is_read() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "view", "arguments": "{}"}}
    message = {"role": "assistant", "content": "hello", "tool_calls": [call]}
    whole = {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    }
    tokens = Tokens(input=3, output=2)
    assert read(whole) == [
        Counted(tokens),
        TextDelta("hello"),
        ToolCallStart("c1", "view"),
        ToolCallEnd("c1", "{}"),
        Finished("tool_use", tokens),
    ]


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_thinking_in_a_field_ends_before_the_text(field: str) -> None:
    events = read(said(None, **{field: "h"}), said("", **{field: "m"}), said("done"), STOP)
    assert events == [
        ThinkingDelta("h"),
        ThinkingDelta("m"),
        ThinkingEnd("", field, "loop"),
        TextDelta("done"),
        Finished("end_turn"),
    ]


def test_thinking_in_both_fields_is_read_once_and_between_calls_is_a_block_of_its_own() -> None:
    events = read(
        said(None, reasoning="a", reasoning_content="a"),
        calling(delta(0, "c1", "view", "{}")),
        said(None, reasoning="b"),
        CALLS,
    )
    assert events == [
        ThinkingDelta("a"),
        ThinkingEnd("", "reasoning", "loop"),
        ToolCallStart("c1", "view"),
        ThinkingDelta("b"),
        ThinkingEnd("", "reasoning", "loop"),
        ToolCallEnd("c1", "{}"),
        Finished("tool_use"),
    ]


def test_thinking_between_tags_becomes_thinking() -> None:
    events = read(said("<think>"), said("hm"), said("</think>"), said("\n\n"), said("done"), said("<think>"), STOP)
    assert events == [
        ThinkingDelta("hm"),
        ThinkingEnd("", "content", "loop"),
        TextDelta("\n\ndone"),
        TextDelta("<think>"),
        Finished("end_turn"),
    ]


def test_white_space_without_a_text_after_it_is_dropped() -> None:
    events = read(said("\n\n"), calling(delta(0, "c1", "view", "{}")), CALLS)
    assert not any(isinstance(event, TextDelta) for event in events)
    assert read(said("  "), said("  x"), STOP)[0] == TextDelta("    x")


def test_details_of_reasoning_are_kept_with_their_signatures() -> None:
    def detail(**fields: Any) -> dict[str, Any]:
        return said("", reasoning="shown twice", reasoning_details=[fields])

    plain = {"type": "reasoning.text", "format": "f", "index": 0}
    sealed = {"type": "reasoning.encrypted", "format": "f", "index": 0}
    events = read(
        detail(**plain, text="fi"),
        detail(**plain, text="rst"),
        detail(**plain, signature="sig"),
        detail(**sealed, data="secret", id="rs"),
        said("done"),
        STOP,
        has_details=True,
    )
    assert events == [
        ThinkingDelta("fi"),
        ThinkingDelta("rst"),
        ThinkingEnd("sig", "", "loop", plain),
        ThinkingEnd("secret", "rs", "loop", sealed),
        TextDelta("done"),
        Finished("end_turn"),
    ]


def test_the_signature_of_a_call_precedes_it() -> None:
    call = delta(0, "c1", "view", "{}") | {"extra_content": {"google": {"thought_signature": "s"}}}
    signed = ThinkingEnd("", "", "loop", {"extra_content": {"google": {"thought_signature": "s"}}})
    assert read(calling(call), CALLS)[:2] == [signed, ToolCallStart("c1", "view")]


@pytest.mark.parametrize(
    "chunk",
    [
        {"choices": []},
        {"choices": None},
        {"choices": [None]},
        {"choices": [{"delta": None}]},
        {"choices": [{}]},
        {},
        said(None),
        said(""),
        said([]),
        said({"odd": 1}),
        said(None, tool_calls=None),
        said(None, tool_calls=[]),
        said(None, tool_calls=[None, 5]),
        said(None, tool_calls={"0": {}}),
        said(None, reasoning={"text": "x"}),
        {"usage": None},
        {"usage": 5},
        {"usage": {"prompt_tokens": None, "completion_tokens": "7", "prompt_tokens_details": 3}},
        {"error": None, "choices": []},
        {"object": "chat.completion.chunk", "new": {"deeply": [{"nested": None}]}},
    ],
)
def test_chunks_without_anything_to_read_are_ignored(chunk: dict[str, Any]) -> None:
    assert read(chunk, said("x"), chunk, STOP, chunk) == [TextDelta("x"), Finished("end_turn")]


def test_contents_may_be_a_list_of_parts() -> None:
    parts = [{"type": "text", "text": "a"}, "b", {"type": "reference", "ids": [1]}, {"type": "text", "text": 5}]
    assert read(said(parts), STOP)[0] == TextDelta("ab")


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 2}, Tokens(10, 2)),
        ({"prompt_tokens": 10, "completion_tokens": 2, "prompt_cache_hit_tokens": 4}, Tokens(6, 2, 4)),
        ({"prompt_tokens": 10, "completion_tokens": 2, "cached_tokens": 4}, Tokens(6, 2, 4)),
        (
            {"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3}, "cost": 0.5},
            Tokens(3, 0, 4, 3, 0.5),
        ),
        ({"prompt_tokens": 10.0, "completion_tokens": True, "cost": 0}, Tokens(10)),
    ],
)
def test_usage_is_read_in_the_forms_of_several_providers(usage: dict[str, Any], tokens: Tokens) -> None:
    assert read(said("x"), STOP, {"choices": [], "usage": usage})[-1] == Finished("end_turn", tokens)


def test_usage_in_each_chunk_is_that_of_the_whole_answer() -> None:
    counts = [{"prompt_tokens": 10, "completion_tokens": count} for count in (1, 2, 2)]
    events = read(*(said("x") | {"usage": usage} for usage in counts), STOP)
    assert [event for event in events if isinstance(event, Counted)] == [Counted(Tokens(10, 1)), Counted(Tokens(10, 2))]
    assert events[-1] == Finished("end_turn", Tokens(10, 2))


def test_a_refusal_ends_the_answer_as_filtered() -> None:
    assert read(said(None, refusal="no"), said(None, refusal=" way"), STOP) == [Finished("content_filter")]


@pytest.mark.parametrize(
    ("chunk", "category", "retryable"),
    [
        ({"error": {"message": "m", "type": "server_error"}}, "server", True),
        ({"error": {"message": "m", "code": 429}}, "rate_limit", True),
        ({"error": {"message": "m", "code": "insufficient_quota"}}, "quota", False),
        ({"error": {"message": "m", "code": "invalid_prompt"}}, "bad_request", False),
        ({"error": {"message": "This model's maximum context length is 5"}}, "context_overflow", False),
        ({"error": {"message": "m", "code": 503}, "choices": [{"finish_reason": "error"}]}, "overloaded", True),
        ({"error": "m"}, "server", True),
        ({"object": "error", "message": "m", "code": 400}, "bad_request", False),
    ],
)
def test_L02_errors_within_the_stream(chunk: dict[str, Any], category: str, retryable: bool) -> None:
    with pytest.raises(ModelFailure) as caught:
        read(said("half"), chunk)
    failure = caught.value
    assert (failure.category, failure.retryable, failure.in_stream) == (category, retryable, True)
    assert failure.message.startswith(("m", "This"))


@pytest.mark.parametrize("data", [b'{"message": "no"}', b"no"])
def test_an_event_with_the_name_error_is_one(data: bytes) -> None:
    with pytest.raises(ModelFailure) as caught:
        decoder().event("error", data)
    assert caught.value.in_stream


@pytest.mark.parametrize("chunks", [[], [said("half")], [said("x"), DONE], [calling(delta(0, "c1", "view", "{"))]])
def test_L04_an_answer_without_a_finish_reason_is_reported_as_cut(chunks: list[Any]) -> None:
    with pytest.raises(ModelFailure) as caught:
        read(*chunks)
    assert (caught.value.category, caught.value.retryable) == ("stream_cut", True)


def test_an_answer_that_ends_with_the_reason_error_is_a_failure_of_the_server() -> None:
    with pytest.raises(ModelFailure) as caught:
        read(said("x"), {"choices": [{"delta": {}, "finish_reason": "error"}]})
    assert caught.value.category == "server"


def test_the_end_mark_may_be_missing_and_what_comes_after_it_need_not_be_awaited() -> None:
    assert read(said("x"), STOP)[-1] == Finished("end_turn")
    reader = decoder()
    reader.event("", json.dumps(STOP).encode())
    assert not reader.is_complete
    reader.event("", DONE)
    assert reader.is_complete


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (rb'{"choices": [{"delta": {"content": "a\ud83d"}}]}', "a\ufffd"),
        (rb'{"choices": [{"delta": {"content": "\udc00b"}}]}', "\ufffdb"),
        (rb'{"choices": [{"delta": {"content": "\ud83d\ude00"}}]}', "\U0001f600"),
        (b'{"choices": [{"delta": {"content": "\xffc"}}]}', "\ufffdc"),
    ],
)
def test_a_bad_character_does_not_end_the_answer(data: bytes, expected: str) -> None:
    assert read(data, STOP)[0] == TextDelta(expected)


@pytest.mark.parametrize(
    "data", [b"not json", b'{"choices": 5}', b"[1,2]", b"\xff\xfe", b'{"choices": [5]}', b"{" * 5000]
)
def test_L05_unreadable_data_is_a_failure(data: bytes) -> None:
    with pytest.raises(ModelFailure) as caught:
        decoder().event("", data)
    assert (caught.value.category, caught.value.in_stream) == ("garbage", True)


def test_broken_control_tokens_are_joined_again_although_they_arrive_in_pieces() -> None:
    events = read(
        said("a <"),
        said("\u200d|im_"),
        said("end|> and <\u200d x"),
        calling(delta(0, "c1", "view", '{"a": "<\u200d|im_end|>", "b": "<\\u200d|im_end|>"}')),
        CALLS,
        joins_tokens=True,
    )
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert text == "a <|im_end|> and <\u200d x"
    assert calls_of(events) == [("c1", "view", '{"a": "<|im_end|>", "b": "<|im_end|>"}')]


_leaf: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["", "x", "view", "{}", "stop"])
)
_call = st.fixed_dictionaries(
    {},
    optional={
        "index": _leaf,
        "id": _leaf,
        "function": st.fixed_dictionaries({}, optional={"name": _leaf, "arguments": _leaf}),
    },
)
_delta = st.fixed_dictionaries(
    {},
    optional={
        "content": _leaf | st.lists(_leaf, max_size=2),
        "reasoning": _leaf,
        "reasoning_content": _leaf,
        "reasoning_details": st.lists(
            st.fixed_dictionaries({}, optional=dict.fromkeys(("type", "index", "text", "data"), _leaf))
        ),
        "tool_calls": _leaf | st.lists(_call | _leaf, max_size=3),
        "refusal": _leaf,
    },
)
_chunk = st.fixed_dictionaries(
    {},
    optional={
        "choices": st.none()
        | st.lists(
            st.none() | st.fixed_dictionaries({}, optional={"delta": st.none() | _delta, "finish_reason": _leaf}),
            max_size=2,
        ),
        "usage": _leaf
        | st.dictionaries(st.sampled_from(["prompt_tokens", "completion_tokens", "prompt_tokens_details"]), _leaf),
    },
)


@given(st.lists(_chunk, max_size=8), st.booleans(), st.booleans())
def test_any_chunks_give_one_end_or_one_failure(chunks: list[Any], has_details: bool, joins_tokens: bool) -> None:
    try:
        events = read(*chunks, has_details=has_details, joins_tokens=joins_tokens)
    except ModelFailure:
        return
    assert [event for event in events if isinstance(event, Finished)] == events[-1:]
    ids = {event.id for event in events if isinstance(event, ToolCallStart)}
    assert {event.id for event in events if isinstance(event, ToolCallEnd)} == ids
    assert all(event.text for event in events if isinstance(event, TextDelta | ThinkingDelta))


_json: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "delta", "usage", "error", "tool_calls", "content", "message"]), inner
        )
    ),
    max_leaves=10,
)


@given(_json, st.sampled_from(["", "error", "new"]))
def test_any_json_gives_events_or_a_failure(value: Any, name: str) -> None:
    reader: Callable[[str, bytes], list[ModelEvent]] = decoder().event
    try:
        reader(name, json.dumps(value).encode())
    except ModelFailure as failure:
        error: ModelFailure | None = failure
    else:
        error = None
    assert error is None or error.in_stream
