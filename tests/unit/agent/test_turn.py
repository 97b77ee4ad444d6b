"""The loop of the agent: steps, tools, retries, and what a cancel or a failure leaves in each phase."""

import asyncio
from collections.abc import Mapping

import pytest
from msgspec.structs import replace

from protocol.api.message import ReasoningPart
from tests.unit.agent.agent_harness import (
    DONE,
    LIMITS,
    WANTS_TOOLS,
    Gate,
    MemoryTranscript,
    PlayedModel,
    PlayedTool,
    build_turn,
    user,
)
from worker.agent.message_draft import (
    CANCELLED_CALL,
    SKIPPED_CALL,
    calls_of,
    close_message,
    finish_of,
    results_of,
    text_of,
)
from worker.agent.tool_calls import UNREADABLE
from worker.agent.turn import Turn
from worker.agent.turn_result import TurnResult
from worker.models.client import (
    Counted,
    Finished,
    ModelFailure,
    TextDelta,
    ThinkingDelta,
    ThinkingEnd,
    Tokens,
    ToolCallEnd,
    ToolCallStart,
)
from worker.models.failures import failure
from worker.toolkit.tool import ToolResult


def call(call_id: str, name: str, text: str = "{}") -> list[ToolCallStart | ToolCallEnd]:
    return [ToolCallStart(call_id, name), ToolCallEnd(call_id, text)]


async def says(args: Mapping[str, object]) -> ToolResult:
    return ToolResult(f"did {dict(args)}")


async def cancel_at(turn: Turn, gate: Gate) -> None:
    """Run the turn until the gate is reached, cancel it once, and see that it ends at once."""
    task = asyncio.create_task(turn.run([user("go")]))
    await gate.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(1.0):
            await task


async def test_text_and_thinking_become_one_finished_row() -> None:
    model = PlayedModel(
        [ThinkingDelta("hm"), ThinkingEnd("sig", "", "test"), TextDelta("\nHel"), TextDelta("lo"), DONE]
    )
    transcript = MemoryTranscript()
    result = await build_turn(model, transcript).run([user("hi")])
    row = transcript.assistants[0]
    assert result == TurnResult("end_turn", row.id, "\nHello")
    assert [type(part).__name__ for part in row.parts] == ["ReasoningPart", "TextPart", "FinishPart"]
    assert isinstance(row.parts[0], ReasoningPart)
    assert row.parts[0].data.blocks[0].signature == "sig"
    assert (row.model, row.provider) == ("played", "test")


async def test_a_tool_loop_ends_when_the_model_is_done() -> None:
    tool = PlayedTool("look", says)
    model = PlayedModel([TextDelta("a"), *call("c1", "look", '{"x":1}'), WANTS_TOOLS], [TextDelta("b"), DONE])
    transcript = MemoryTranscript()
    result = await build_turn(model, transcript, tool).run([user("hi")])
    assert result.text == "b"
    assert [row.role for row in transcript.rows.values()] == ["assistant", "tool", "assistant"]
    assert [finish_of(row).reason for row in transcript.assistants] == ["tool_use", "end_turn"]  # type: ignore[union-attr]
    assert tool.calls == [{"x": 1}]
    second = model.requests[1].messages
    assert [message.role for message in second] == ["user", "assistant", "tool"]
    assert results_of(second[2])[0].content == "did {'x': 1}"


async def test_usage_is_accounted_per_attempt_with_its_price() -> None:
    model = PlayedModel([TextDelta("a"), Finished("end_turn", Tokens(input=1_000_000, output=500_000))])
    transcript = MemoryTranscript()
    await build_turn(model, transcript).run([user("hi")])
    usage = transcript.usages[0]
    assert (usage.prompt_tokens, usage.completion_tokens, usage.cost) == (1_000_000, 500_000, 2.0)
    assert usage.ended == "completed"


async def test_W_20_what_a_broken_attempt_cost_is_accounted() -> None:
    count = Counted(Tokens(input=1_000_000, output=1))
    cut = [count, TextDelta("four" * 3), failure("stream_cut", "cut", in_stream=True)]
    model = PlayedModel(cut, [TextDelta("a"), Finished("end_turn", Tokens(input=10, output=2))])
    transcript = MemoryTranscript()
    await build_turn(model, transcript).run([user("hi")])
    failed, done = transcript.usages
    assert (failed.ended, failed.prompt_tokens, failed.completion_tokens) == (
        "failed",
        1_000_000,
        3,
    )
    assert failed.cost == pytest.approx(1.000006)
    assert (done.prompt_tokens, done.completion_tokens) == (10, 2)


async def test_W_20_what_a_cancelled_attempt_cost_is_in_the_leftover() -> None:
    gate = Gate()
    model = PlayedModel([Counted(Tokens(input=500_000, cache_read=7)), TextDelta("half"), gate])
    turn = build_turn(model, MemoryTranscript())
    await cancel_at(turn, gate)
    usage = turn.leftover(CANCELLED_CALL).usage
    assert usage is not None
    assert (usage.ended, usage.prompt_tokens, usage.completion_tokens) == ("cancelled", 500_007, 1)
    assert usage.cost == pytest.approx(0.500002)


async def test_W_08_a_folded_prompt_is_seen_by_every_later_step() -> None:
    folded = user("and this", "user-2")
    model = PlayedModel([*call("c1", "look"), WANTS_TOOLS], [*call("c2", "look"), WANTS_TOOLS], [DONE])
    transcript = MemoryTranscript(queued=[[], [folded]])
    await build_turn(model, transcript, PlayedTool("look", says)).run([user("hi")])
    assert [[message.id for message in request.messages].count("user-2") for request in model.requests] == [0, 1, 1]


async def test_neighbouring_parallel_calls_run_together_and_others_alone() -> None:
    running, most = 0, 0

    async def slow(args: Mapping[str, object]) -> ToolResult:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        running -= 1
        return ToolResult("x")

    reading, writing = PlayedTool("read", slow, parallel=True), PlayedTool("write", slow)
    events = [event for n in range(7) for event in call(f"r{n}", "read")]
    model = PlayedModel([*events, *call("w1", "write"), *call("w2", "write"), WANTS_TOOLS], [DONE])
    transcript = MemoryTranscript()
    await build_turn(model, transcript, reading, writing).run([user("hi")])
    assert most == LIMITS.tools_parallel_max
    assert len(transcript.results) == 9
    assert [result.tool_call_id for result in transcript.results][-2:] == ["w1", "w2"]


async def test_W_30_a_denial_ends_the_turn_and_leaves_the_rest_of_the_step_unexecuted() -> None:
    async def deny(args: Mapping[str, object]) -> ToolResult:
        return ToolResult("denied", is_error=True, stop_turn=True)

    other = PlayedTool("other", says)
    model = PlayedModel([*call("c1", "danger"), *call("c2", "other"), WANTS_TOOLS])
    transcript = MemoryTranscript()
    result = await build_turn(model, transcript, PlayedTool("danger", deny), other).run([user("hi")])
    assert result.finish == "end_turn"
    assert other.calls == []
    assert [found.content for found in transcript.results] == ["denied", SKIPPED_CALL]
    assert len(model.requests) == 1


async def test_W_18_a_tool_that_raises_gives_a_result_and_the_turn_goes_on() -> None:
    async def explode(args: Mapping[str, object]) -> ToolResult:
        raise OSError("disk on fire")

    model = PlayedModel([*call("c1", "bad"), WANTS_TOOLS], [TextDelta("ok"), DONE])
    transcript = MemoryTranscript()
    assert (await build_turn(model, transcript, PlayedTool("bad", explode)).run([user("hi")])).text == "ok"
    assert transcript.results[0].is_error
    assert "disk on fire" in transcript.results[0].content


@pytest.mark.parametrize("text", ["", "not json", '{"x": ', "[1]", '"text"'])
async def test_L06_invalid_arguments_become_an_error_result_and_a_valid_history(text: str) -> None:
    tool = PlayedTool("look", says)
    model = PlayedModel([*call("c1", "look", text), WANTS_TOOLS], [DONE])
    transcript = MemoryTranscript()
    await build_turn(model, transcript, tool).run([user("hi")])
    assert calls_of(transcript.assistants[0])[0].input == "{}"
    if text:
        assert tool.calls == []
        assert transcript.results[0].content == UNREADABLE
    else:
        assert tool.calls == [{}]


async def test_L06_a_call_whose_end_never_came_is_not_executed() -> None:
    tool = PlayedTool("look", says)
    model = PlayedModel([ToolCallStart("c1", "look"), WANTS_TOOLS], [DONE])
    transcript = MemoryTranscript()
    await build_turn(model, transcript, tool).run([user("hi")])
    assert tool.calls == []
    assert calls_of(transcript.assistants[0])[0].finished


async def test_L06_an_unknown_tool_gets_an_error_that_names_the_known_ones() -> None:
    model = PlayedModel([*call("c1", "nonsense"), WANTS_TOOLS], [DONE])
    transcript = MemoryTranscript()
    await build_turn(model, transcript, PlayedTool("look", says)).run([user("hi")])
    assert transcript.results[0].is_error
    assert "look" in transcript.results[0].content


async def test_L06_duplicate_ids_are_told_apart_within_a_step_and_between_steps() -> None:
    tool = PlayedTool("look", says)
    one = [*call("c", "look", '{"n":1}'), *call("c", "look", '{"n":2}'), WANTS_TOOLS]
    model = PlayedModel(one, [*call("c", "look", '{"n":3}'), WANTS_TOOLS], [DONE])
    transcript = MemoryTranscript()
    await build_turn(model, transcript, tool).run([user("hi")])
    assert [dict(args)["n"] for args in tool.calls] == [1, 2, 3]
    assert len({result.tool_call_id for result in transcript.results}) == 3


async def test_L06_calls_with_one_id_keep_their_own_inputs_when_these_come_at_the_end() -> None:
    tool = PlayedTool("look", says)
    starts = [ToolCallStart("c", "look"), ToolCallStart("c", "look")]
    ends = [ToolCallEnd("c", '{"n":1}'), ToolCallEnd("c", '{"n":2}'), ToolCallEnd("c", '{"n":3}')]
    transcript = MemoryTranscript()
    await build_turn(PlayedModel([*starts, *ends, WANTS_TOOLS], [DONE]), transcript, tool).run([user("hi")])
    assert [dict(args)["n"] for args in tool.calls] == [1, 2]
    assert not any(result.is_error for result in transcript.results)


async def test_L06_endless_tool_calls_end_at_the_step_limit_with_a_word() -> None:
    count = 0

    async def other_each_time(args: Mapping[str, object]) -> ToolResult:
        nonlocal count
        count += 1
        return ToolResult(str(count))

    model = PlayedModel([*call("c", "look"), WANTS_TOOLS])
    transcript = MemoryTranscript()
    limits = replace(LIMITS, steps_max=15)
    result = await build_turn(model, transcript, PlayedTool("look", other_each_time), limits=limits).run([user("hi")])
    assert result.finish == "step_limit"
    finish = finish_of(transcript.assistants[-1])
    assert finish is not None
    assert "limit of 15 steps" in finish.message
    assert len(model.requests) == 15


async def test_W_17_a_loop_is_stopped_and_says_so() -> None:
    model = PlayedModel([*call("c", "look"), WANTS_TOOLS])
    transcript = MemoryTranscript()
    result = await build_turn(model, transcript, PlayedTool("look", says)).run([user("hi")])
    finish = finish_of(transcript.assistants[-1])
    assert result.finish == "loop_detected"
    assert finish is not None
    assert "repeats" in finish.message
    assert len(model.requests) == 10


async def test_the_output_limit_still_executes_the_tools_of_its_step_and_stops() -> None:
    tool = PlayedTool("look", says)
    model = PlayedModel([TextDelta("part"), *call("c1", "look"), Finished("max_tokens")])
    result = await build_turn(model, MemoryTranscript(), tool).run([user("hi")])
    assert result.finish == "max_tokens"
    assert len(tool.calls) == 1


async def test_a_server_that_says_stop_although_it_calls_tools_goes_on() -> None:
    model = PlayedModel([*call("c1", "look"), DONE], [TextDelta("end"), DONE])
    transcript = MemoryTranscript()
    result = await build_turn(model, transcript, PlayedTool("look", says)).run([user("hi")])
    assert result.text == "end"
    assert finish_of(transcript.assistants[0]).reason == "tool_use"  # type: ignore[union-attr]


# --- retries ----------------------------------------------------------------------------------------------------


async def test_L02_a_failed_request_is_tried_again_and_announced() -> None:
    model = PlayedModel([failure("rate_limit", "slow down", status=429)], [TextDelta("ok"), DONE])
    transcript = MemoryTranscript()
    assert (await build_turn(model, transcript).run([user("hi")])).text == "ok"
    assert [event.type for event in transcript.events] == ["retrying"]
    assert "slow down" in transcript.events[0].progress
    assert transcript.events[0].error == ""  # a waiting client would take it for the end of the run
    assert [usage.ended for usage in transcript.usages] == ["failed", "completed"]
    assert len(transcript.assistants) == 1


async def test_L02_retries_are_bounded() -> None:
    model = PlayedModel([failure("overloaded", "too much", status=529)])
    turn = build_turn(model, MemoryTranscript())
    with pytest.raises(ModelFailure) as caught:
        await turn.run([user("hi")])
    assert caught.value.category == "overloaded"
    assert len(model.requests) == 1 + LIMITS.model_retries_max


async def test_L01_a_wrong_key_is_not_tried_again() -> None:
    model = PlayedModel([failure("auth", "no", status=401)])
    with pytest.raises(ModelFailure):
        await build_turn(model, MemoryTranscript()).run([user("hi")])
    assert len(model.requests) == 1


async def test_L04_a_reset_in_the_stream_is_retried_without_doubled_text() -> None:
    cut = failure("stream_cut", "reset", in_stream=True)
    model = PlayedModel([TextDelta("half an ans"), ToolCallStart("c1", "look"), cut], [TextDelta("whole"), DONE])
    tool = PlayedTool("look", says)
    transcript = MemoryTranscript()
    assert (await build_turn(model, transcript, tool).run([user("hi")])).text == "whole"
    assert text_of(transcript.assistants[0]) == "whole"
    assert tool.calls == []


async def test_L04_a_clean_end_without_a_final_event_is_a_cut() -> None:
    model = PlayedModel([TextDelta("half")])
    transcript = MemoryTranscript()
    turn = build_turn(model, transcript, limits=replace(LIMITS, model_retries_max=0))
    with pytest.raises(ModelFailure) as caught:
        await turn.run([user("hi")])
    assert caught.value.category == "stream_cut"
    left = turn.leftover("why")
    assert left.message is not None
    assert text_of(left.message) == "half"
    ended = close_message(left.message, "error", 5, title=caught.value.title, details=caught.value.message)
    assert finish_of(ended).reason == "error"  # type: ignore[union-attr]


async def test_W_29_a_failure_after_tools_ran_does_not_run_them_again() -> None:
    tool = PlayedTool("look", says)
    model = PlayedModel([*call("c1", "look"), WANTS_TOOLS], [failure("network", "gone")], [TextDelta("end"), DONE])
    assert (await build_turn(model, MemoryTranscript(), tool).run([user("hi")])).text == "end"
    assert len(tool.calls) == 1


# --- cancel in each phase (L07) ------------------------------------------------------------------------------------


async def test_L07_cancel_before_the_first_event_leaves_an_empty_open_row() -> None:
    gate = Gate()
    model = PlayedModel([gate, DONE])
    transcript = MemoryTranscript()
    turn = build_turn(model, transcript)
    await cancel_at(turn, gate)
    left = turn.leftover(CANCELLED_CALL)
    assert left.message is not None
    assert left.message.parts == []
    assert left.usage is not None
    assert left.usage.ended == "cancelled"
    assert model.closed == 1


async def test_C_12_cancel_in_the_text_keeps_it() -> None:
    gate = Gate()
    model = PlayedModel([ThinkingDelta("hm"), TextDelta("part"), ToolCallStart("c1", "look"), gate, DONE])
    transcript = MemoryTranscript()
    turn = build_turn(model, transcript)
    await cancel_at(turn, gate)
    left = turn.leftover(CANCELLED_CALL)
    assert left.message is not None
    assert text_of(left.message) == "part"
    assert [result.content for result in left.results] == [CANCELLED_CALL]
    ended = close_message(left.message, "canceled", 9, title="cancelled")
    assert calls_of(ended)[0].finished
    assert isinstance(ended.parts[0], ReasoningPart)
    assert ended.parts[0].data.finished_at == 9
    assert model.closed == 1


async def test_C_13_cancel_in_a_tool_leaves_an_answer_for_every_call() -> None:
    gate = Gate()

    async def wait(args: Mapping[str, object]) -> ToolResult:
        await gate()
        return ToolResult("late")

    after = PlayedTool("after", says)
    model = PlayedModel([*call("c1", "first"), *call("c2", "slow"), *call("c3", "after"), WANTS_TOOLS])
    transcript = MemoryTranscript()
    turn = build_turn(model, transcript, PlayedTool("first", says), PlayedTool("slow", wait), after)
    await cancel_at(turn, gate)
    left = turn.leftover(CANCELLED_CALL)
    assert [result.tool_call_id for result in transcript.results] == ["c1"]
    assert [result.tool_call_id for result in left.results] == ["c2", "c3"]
    assert after.calls == []
    assert left.usage is None
    assert left.message is not None
    assert finish_of(left.message) is None


async def test_C_13_cancel_of_parallel_tools_ends_all_of_them() -> None:
    gate, ended = Gate(), 0

    async def wait(args: Mapping[str, object]) -> ToolResult:
        nonlocal ended
        try:
            await gate()
        finally:
            ended += 1
        return ToolResult("late")

    model = PlayedModel([*call("c1", "slow"), *call("c2", "slow"), WANTS_TOOLS])
    turn = build_turn(model, MemoryTranscript(), PlayedTool("slow", wait, parallel=True))
    await cancel_at(turn, gate)
    assert ended == 2
    assert len(turn.leftover(CANCELLED_CALL).results) == 2


async def test_C_14_W_04_cancel_between_steps_leaves_no_open_row() -> None:
    class Slow(MemoryTranscript):
        gate = Gate()

        async def merge_queued(self):
            if self.assistants:
                await self.gate()
            return []

    model = PlayedModel([*call("c1", "look"), WANTS_TOOLS], [DONE])
    transcript = Slow()
    turn = build_turn(model, transcript, PlayedTool("look", says))
    await cancel_at(turn, transcript.gate)
    left = turn.leftover(CANCELLED_CALL)
    assert (left.message, left.results, left.usage) == (None, [], None)
    assert finish_of(transcript.assistants[0]).reason == "tool_use"  # type: ignore[union-attr]


async def test_C_16_cancel_in_the_back_off_ends_it_and_the_row_is_empty() -> None:
    class Announcing(MemoryTranscript):
        gate = Gate()

        async def agent_event(self, event):
            await super().agent_event(event)
            self.gate.reached.set()

    model = PlayedModel([TextDelta("half"), failure("network", "gone", in_stream=True)])
    transcript = Announcing()
    turn = build_turn(model, transcript, limits=replace(LIMITS, model_retry_delay_s=600, model_retry_delay_s_max=600))
    await cancel_at(turn, transcript.gate)
    left = turn.leftover(CANCELLED_CALL)
    assert left.message is not None
    assert left.message.parts == []
    assert left.usage is None  # the failed attempt was accounted
    assert [usage.ended for usage in transcript.usages] == ["failed"]


async def test_a_cancel_while_the_last_row_is_being_finished_leaves_it_finished() -> None:
    class Slow(MemoryTranscript):
        gate = Gate()

        async def update(self, message):
            if finish_of(message) is not None:
                await self.gate()
            await super().update(message)

    transcript = Slow()
    turn = build_turn(PlayedModel([TextDelta("all"), DONE]), transcript)
    await cancel_at(turn, transcript.gate)
    left = turn.leftover(CANCELLED_CALL)
    assert left.message is not None
    assert finish_of(left.message).reason == "end_turn"  # type: ignore[union-attr]
