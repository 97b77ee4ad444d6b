"""Test that a turn whose conversation does not fit into the context summarises it and continues."""

import asyncio
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from protocol.api.message import BinaryData, BinaryPart, Message, Role, TextData, TextPart
from protocol.api.provider import Model
from protocol.api.session import Session, Todo
from tests.unit.agent.agent_harness import (
    DONE,
    SESSION,
    WANTS_TOOLS,
    FunctionTool,
    MemoryTranscript,
    Pause,
    PlayedModel,
    Script,
    build_turn,
    user,
)
from worker.agent.context_budget import ContextBudget, reserve
from worker.agent.message_draft import finish_of, text_of
from worker.agent.summary import SYSTEM, clipped
from worker.models.client import Finished, ModelEvent, ModelFailure, TextDelta, Tokens, ToolCallEnd, ToolCallStart
from worker.models.failures import failure
from worker.toolkit.tool import ToolResult

OVERFLOW = failure("context_overflow", "too long", status=400)


class SmallModel(PlayedModel):
    """A played model with a context window of 1,000 tokens."""

    model = Model(id="played", context_window=1000)


def row(role: Role, text: str, message_id: str) -> Message:
    return Message(id=message_id, session_id=SESSION, role=role, parts=[TextPart(TextData(text=text))])


def conversation(pairs: int, text: str = "x" * 100) -> list[Message]:
    rows = []
    for number in range(pairs):
        rows += [row("user", f"u{number} {text}", f"u{number}"), row("assistant", f"a{number} {text}", f"a{number}")]
    return [*rows, user("the newest prompt")]


def texts_of(model: PlayedModel, request: int) -> str:
    return "\n".join(text_of(message) for message in model.requests[request].messages)


def test_the_reserve_is_a_share_of_the_window_and_an_unknown_window_is_never_full() -> None:
    assert reserve(1_000_000) == 20_000
    assert reserve(200_000) == 40_000
    assert reserve(8192) == 1638
    unknown = ContextBudget(0)
    unknown.begin(10**9, [])
    assert not unknown.is_full


@given(st.integers(1, 10**6), st.integers(0, 10**6))
def test_a_budget_is_full_when_less_than_the_reserve_is_free(window: int, used: int) -> None:
    budget = ContextBudget(window)
    budget.measured(used)
    assert budget.is_full == (window - used <= reserve(window))


async def test_a_full_context_is_summarised_before_the_request() -> None:
    model = SmallModel([TextDelta("a summary"), DONE], [TextDelta("the answer"), DONE])
    transcript = MemoryTranscript()
    transcript.of_session = Session(id=SESSION, prompt_tokens=850, todos=[Todo(content="paint", status="pending")])
    result = await build_turn(model, transcript).run(conversation(3))
    assert result.text == "the answer"
    assert model.requests[0].system == SYSTEM
    assert model.requests[0].tools == ()
    assert "[pending] paint" in texts_of(model, 0)
    assert "u0" in texts_of(model, 0)
    assert "u0" not in texts_of(model, 1)
    assert "a summary" in texts_of(model, 1)
    assert "the newest prompt" in texts_of(model, 1)
    assert model.requests[1].messages[0].role == "user"
    (summary,) = transcript.summaries
    finish = finish_of(summary)
    assert finish is not None
    assert finish.reason == "end_turn"


async def test_a_turn_summarised_between_two_steps_continues() -> None:
    async def long_result(args: Mapping[str, object]) -> ToolResult:
        return ToolResult("word " * 900)

    model = SmallModel(
        [ToolCallStart("c", "look"), ToolCallEnd("c", "{}"), WANTS_TOOLS],
        [TextDelta("it looked"), DONE],
        [TextDelta("found it"), DONE],
    )
    transcript = MemoryTranscript()
    result = await build_turn(model, transcript, FunctionTool("look", long_result)).run([user("go")])
    assert result.text == "found it"
    assert [one.is_summary_message for one in transcript.assistants] == [False, True, False]
    assert len(model.requests) == 3


async def test_the_token_count_of_the_provider_decides_when_to_summarise() -> None:
    model = SmallModel(
        [ToolCallStart("c", "look"), ToolCallEnd("c", "{}"), Finished("tool_use", Tokens(input=900, output=5))],
        [TextDelta("short"), DONE],
        [TextDelta("done"), DONE],
    )

    async def look(args: Mapping[str, object]) -> ToolResult:
        return ToolResult("ok")

    transcript = MemoryTranscript()
    await build_turn(model, transcript, FunctionTool("look", look)).run([user("go")])
    assert len(transcript.summaries) == 1


async def test_a_summary_that_frees_no_space_is_not_repeated_at_every_step() -> None:
    async def look(args: Mapping[str, object]) -> ToolResult:
        return ToolResult("ok")

    step: Script = [
        ToolCallStart("c", "look"),
        ToolCallEnd("c", "{}"),
        Finished("tool_use", Tokens(input=850, output=5)),
    ]
    model = SmallModel(step, [TextDelta("short"), DONE], step, step, step, [TextDelta("done"), DONE])
    transcript = MemoryTranscript()
    result = await build_turn(model, transcript, FunctionTool("look", look)).run([user("go")])
    assert result.text == "done"
    assert len(transcript.summaries) == 1, "another summary cannot help: tools and instructions alone fill this window"


async def test_a_summary_that_freed_space_may_be_followed_by_another() -> None:
    async def look(args: Mapping[str, object]) -> ToolResult:
        return ToolResult("ok")

    def step(input_tokens: int) -> list[ModelEvent]:
        return [
            ToolCallStart("c", "look"),
            ToolCallEnd("c", "{}"),
            Finished("tool_use", Tokens(input=input_tokens, output=5)),
        ]

    short: list[ModelEvent] = [TextDelta("short"), DONE]
    model = SmallModel(step(850), short, step(500), step(850), short, [TextDelta("done"), DONE])
    transcript = MemoryTranscript()
    await build_turn(model, transcript, FunctionTool("look", look)).run([user("go")])
    assert len(transcript.summaries) == 2


async def test_a_request_that_overflows_is_repeated_after_a_summary_and_leaves_no_empty_row() -> None:
    model = PlayedModel([OVERFLOW], [TextDelta("a summary"), DONE], [TextDelta("the answer"), DONE])
    transcript = MemoryTranscript()
    result = await build_turn(model, transcript).run(conversation(2))
    assert result.text == "the answer"
    assert transcript.discarded == 1
    assert len(transcript.assistants) == 2


async def test_a_summary_request_that_overflows_is_repeated_with_less_text() -> None:
    long = "y" * 50_000
    model = PlayedModel(
        [OVERFLOW], [OVERFLOW], [OVERFLOW], [OVERFLOW], [TextDelta("in short"), DONE], [TextDelta("ok"), DONE]
    )
    transcript = MemoryTranscript()
    result = await build_turn(model, transcript).run(conversation(10, long))
    assert result.text == "ok"
    sizes = [len(texts_of(model, number)) for number in range(1, 5)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 4
    assert "left out" in texts_of(model, 2)


async def test_an_overflow_that_no_summary_resolves_fails_the_turn() -> None:
    model = PlayedModel([OVERFLOW])
    transcript = MemoryTranscript()
    with pytest.raises(ModelFailure, match="too long"):
        await build_turn(model, transcript).run(conversation(2))
    assert len(model.requests) == 8  # the request, its summary, and six shorter versions of the summary request


async def test_one_long_prompt_alone_is_not_summarised() -> None:
    model = PlayedModel([OVERFLOW])
    transcript = MemoryTranscript()
    with pytest.raises(ModelFailure):
        await build_turn(model, transcript).run([user("z" * 1000)])
    assert len(model.requests) == 1


async def test_a_failed_summary_does_not_end_the_turn() -> None:
    model = SmallModel([failure("bad_request", "no")], [TextDelta("the answer"), DONE])
    transcript = MemoryTranscript()
    transcript.of_session = Session(id=SESSION, prompt_tokens=990)
    result = await build_turn(model, transcript).run(conversation(2))
    assert result.text == "the answer"
    assert not any(one.is_summary_message for one in transcript.assistants)


async def test_nothing_is_summarised_when_summaries_are_switched_off() -> None:
    model = SmallModel([OVERFLOW])
    transcript = MemoryTranscript()
    transcript.of_session = Session(id=SESSION, prompt_tokens=990)
    with pytest.raises(ModelFailure):
        await build_turn(model, transcript, may_summarize=False).run(conversation(2))
    assert len(model.requests) == 1


async def test_an_image_of_the_current_prompt_is_kept_after_a_summary() -> None:
    image = BinaryPart(BinaryData(path="a.png", mime_type="image/png", data=b"png"))
    *earlier, newest = conversation(2)
    model = PlayedModel([OVERFLOW], [TextDelta("a summary"), DONE], [TextDelta("ok"), DONE])
    transcript = MemoryTranscript()
    await build_turn(model, transcript).run([*earlier, replace(newest, parts=[*newest.parts, image])])
    kept = [part for message in model.requests[2].messages for part in message.parts if isinstance(part, BinaryPart)]
    assert kept == [image]


async def test_W_06_a_cancel_during_the_summary_cancels_the_turn() -> None:
    pause = Pause()
    model = SmallModel([TextDelta("half a"), pause])
    transcript = MemoryTranscript()
    transcript.of_session = Session(id=SESSION, prompt_tokens=990)
    turn = build_turn(model, transcript)
    task = asyncio.create_task(turn.run(conversation(2)))
    await pause.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    left = turn.leftover("cancelled")
    assert left.message is not None
    assert left.message.is_summary_message
    assert finish_of(left.message) is None
    assert left.usage is not None
    assert model.closed == 1


@given(st.integers(0, 8), st.integers(1, 30))
def test_clipping_never_adds_text_and_keeps_the_newest_message(level: int, pairs: int) -> None:
    rows = conversation(pairs, "w" * 5000)
    kept = clipped(rows, level)
    assert kept[-1].id == rows[-1].id
    assert sum(len(text_of(one)) for one in kept) <= sum(len(text_of(one)) for one in rows) + 80
