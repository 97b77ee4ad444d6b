"""Test the scripted model: its directives, steps, pace and failures."""

import asyncio
from collections.abc import Mapping
from contextlib import aclosing

import pytest
from msgspec.structs import replace

from protocol.api.message import Message, TextData, TextPart
from tests.unit.agent.agent_harness import LIMITS, SESSION, FunctionTool, MemoryTranscript, build_turn, user
from worker.models.client import (
    Finished,
    ModelEvent,
    ModelFailure,
    ModelRequest,
    TextDelta,
    ThinkingDelta,
    ToolCallEnd,
    ToolCallStart,
)
from worker.models.script import (
    AFTER_TOOLS,
    GREETING,
    CallTool,
    Cut,
    Emit,
    Fail,
    Finish,
    Hang,
    Say,
    ScriptModel,
    Think,
    newest_prompt,
    parse,
)
from worker.toolkit.tool import ToolResult


class SteppedClock:
    """A clock that advances only in `sleep`."""

    def __init__(self) -> None:
        self.time = 100.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    def wall(self) -> float:
        return self.time

    async def sleep(self, delay_s: float) -> None:
        self.slept.append(delay_s)
        self.time += delay_s
        await asyncio.sleep(0)


def build(clock: SteppedClock | None = None) -> ScriptModel:
    clock = clock or SteppedClock()
    return ScriptModel(sleep=clock.sleep, clock=clock, limits=LIMITS)


async def play(model: ScriptModel, prompt: str, done: int = 0) -> list[ModelEvent]:
    rows = [user(prompt)]
    rows += [
        Message(id=f"a{n}", session_id=SESSION, role="assistant", parts=[TextPart(TextData(text="x"))])
        for n in range(done)
    ]
    async with aclosing(model.stream(ModelRequest("", rows))) as events:
        return [event async for event in events]


@pytest.mark.parametrize(
    ("line", "action"),
    [
        ("/say hello  world", Say("hello  world")),
        ("/tokens 5", Emit(5, 0.0)),
        ("/tokens 5 2.5", Emit(5, 2.5)),
        ("/tokens 5 0", Emit(5, 0.0)),
        ("/think deep", Think("deep")),
        ("/fail 429", Fail(429, 0)),
        ("/fail 500 2", Fail(500, 2)),
        ("/hang", Hang()),
        ("/cut", Cut()),
        ("/finish max_tokens", Finish("max_tokens")),
    ],
)
def test_each_directive_is_parsed_to_its_action(line: str, action: object) -> None:
    assert parse(f"please\n  {line}\nthanks") == [(action,)]


def test_a_tool_call_ends_its_step_and_adjacent_calls_share_one() -> None:
    assert parse('/say a\n/tool view {"x": 1}\n/tool ls\n/say b\n/tool ls\n/finish end_turn') == [
        (Say("a"), CallTool("view", '{"x": 1}'), CallTool("ls", "{}")),
        (Say("b"), CallTool("ls", "{}"), Finish("end_turn")),
    ]
    assert parse("/tool ls")[-1] == (Say(AFTER_TOOLS),)


def test_a_prompt_without_directives_says_how_to_get_a_real_model() -> None:
    assert parse("hello") == [(Say(GREETING),)]
    assert parse("look at /tokens in /usr/share") == [(Say(GREETING),)]
    assert parse("/usr/bin/python is broken") == [(Say(GREETING),)]


@pytest.mark.parametrize("line", ["/tokens many", "/tokens", "/fail", "/fail x", "/finish never", "/tool", "/hang 5"])
def test_an_invalid_directive_is_named_in_the_answer(line: str) -> None:
    (step,) = parse(line)
    assert isinstance(step[0], Say)
    assert line in step[0].text


async def test_tokens_without_a_rate_yield_to_the_loop_and_do_not_wait() -> None:
    clock = SteppedClock()
    events = await play(build(clock), "/tokens 20")
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert text.split() == [f"t{n}" for n in range(1, 21)]
    assert len(events) == 21
    assert clock.slept == [0, 0]


async def test_tokens_are_sent_at_the_given_rate() -> None:
    clock = SteppedClock()
    await play(build(clock), "/tokens 5 10")
    assert clock.time == pytest.approx(100.4)


async def test_texts_of_one_step_are_on_separate_lines() -> None:
    events = await play(build(), "/say a\n/tokens 2\n/think no\n/say b")
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "a\nt1 t2\nb"
    assert ThinkingDelta("no") in events
    assert events[-1].__class__ is Finished


async def test_the_step_played_depends_on_the_history() -> None:
    first = await play(build(), "/tool ls\n/say two")
    assert isinstance(first[0], ToolCallStart)
    assert isinstance(first[1], ToolCallEnd)
    assert first[2].reason == "tool_use"  # type: ignore[union-attr]
    second = await play(build(), "/tool ls\n/say two", done=1)
    assert second[0] == TextDelta("two")
    assert (await play(build(), "/tool ls\n/say two", done=2))[0] == TextDelta(AFTER_TOOLS)


def test_a_merged_prompt_starts_its_own_script() -> None:
    rows = [user("/tool ls"), Message(id="a", session_id=SESSION, role="assistant", parts=[]), user("/say new", "u2")]
    assert newest_prompt(rows) == (rows[2], 0)


async def test_fail_fails_the_given_number_of_times() -> None:
    model = build()
    for _ in range(2):
        with pytest.raises(ModelFailure) as caught:
            await play(model, "/say a\n/fail 503 2\n/say b")
        assert (caught.value.category, caught.value.in_stream) == ("overloaded", True)
    events = await play(model, "/say a\n/fail 503 2\n/say b")
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "a\nb"


async def test_hang_ends_with_the_progress_timeout_of_real_models() -> None:
    clock = SteppedClock()
    with pytest.raises(ModelFailure) as caught:
        await play(build(clock), "/hang")
    assert caught.value.category == "timeout"
    assert clock.slept == [LIMITS.model_progress_s]


async def test_cut_ends_the_stream_without_a_finish_event() -> None:
    assert (await play(build(), "/say half\n/cut\n/say more")) == [TextDelta("half")]


async def test_finish_sets_the_finish_reason() -> None:
    assert (await play(build(), "/say a\n/finish content_filter"))[-1].reason == "content_filter"  # type: ignore[union-attr]


async def test_a_script_plays_a_whole_turn_with_tools_a_retry_and_text() -> None:
    async def list_files(args: Mapping[str, object]) -> ToolResult:
        return ToolResult("listed")

    transcript = MemoryTranscript()
    turn = build_turn(build(), transcript, FunctionTool("ls", list_files))
    result = await turn.run([user('/think hm\n/tool ls {}\n/tool ls {"path": "x"}\n/fail 500 1\n/tokens 3')])
    assert result.text == "t1 t2 t3"
    assert len(transcript.results) == 2
    assert [event.type for event in transcript.events] == ["retrying"]


async def test_call_ids_differ_between_prompts() -> None:
    ids = set()
    for name in ("aaaaaaaaaaaa", "bbbbbbbbbbbb"):
        request = ModelRequest("", [replace(user("/tool ls"), id=name)])

        async def first(request: ModelRequest = request) -> ModelEvent:
            async with aclosing(build().stream(request)) as events:
                async for event in events:
                    return event
            raise AssertionError("no event")

        event = await first()
        assert isinstance(event, ToolCallStart)
        ids.add(event.id)
    assert len(ids) == 2
