"""Test runs with a real database, dispatcher and turns: cancel at each moment, queues, merging and failures."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy import text

from protocol.api.agent import Prompt
from protocol.api.message import Attachment
from protocol.errors import BadInput, Conflict, LimitReached, NotFound
from protocol.events import Event
from protocol.limits import Limits
from tests.support.harness.worker_harness import WorkerHarness, open_worker_harness, outline, payload, texts, until
from worker.models.client import ThinkingDelta, ToolCallStart
from worker.models.failures import failure
from worker.store.database import Transaction
from worker.toolkit.tool import ToolContext, ToolResult, ToolSpec
from worker.toolkit.toolbox import Toolbox


class BlockingTool:
    """A tool that sets `called` when it is called and returns when the test sets `release`."""

    def __init__(self, name: str = "hold") -> None:
        self.spec = ToolSpec(name, "blocks", {"type": "object"}, parallel=False, effect="read")
        self.called = asyncio.Event()
        self.release = asyncio.Event()
        self.calls = 0

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        self.calls += 1
        self.called.set()
        await self.release.wait()
        return ToolResult("done")


def prompt_and(answer: str, prompt: str = "hello") -> list[str]:
    return [f"user {prompt}", answer]


async def test_a_prompt_is_answered(tmp_path: Path) -> None:
    async with open_worker_harness(tmp_path) as house:
        await house.session(title="")
        run_id = await house.submit("hello\nworld")
        assert (await house.run(run_id)).state in ("accepted", "active")
        request = await house.model.asked()
        assert texts(request)[-1] == "hello\nworld"
        house.model.answer("hi there")
        ended = await house.ended(run_id)
        assert (ended.outcome, ended.cause) == ("completed", "")
        assert await house.outline() == ["user hello\nworld", "assistant hi there [end_turn]"]
        (done,) = house.completes()
        assert done == {
            "session_id": "s1",
            "run_id": run_id,
            "message_id": ended.message_id,
            "text": "hi there",
        }
        kinds = [event.kind for event in house.listener.events]
        assert kinds == [
            "message",  # the user's row
            "session",  # its title
            "message",  # the empty answer
            "session",  # tokens
            "message",  # the finished answer
            "agent_event",
            "run_complete",
        ]
        assert [event.number for event in house.listener.events] == list(range(1, 8))
        assert house.of_kind("session")[0]["title"] == "hello"
        assert house.of_kind("agent_event")[0]["type"] == "agent_finished"
        assert not house.dispatcher.is_busy


async def test_the_session_is_idle_when_the_event_of_the_end_is_published(tmp_path: Path) -> None:
    async with open_worker_harness(tmp_path) as house:
        await house.session()
        busy: list[bool] = []

        def record(events: Sequence[Event]) -> None:
            if any(event.kind in ("run_complete", "agent_event") for event in events):
                busy.append(house.dispatcher.is_session_busy("s1"))

        house.database._on_commit = record
        run_id = await house.submit("hello")
        assert house.dispatcher.is_session_busy("s1")
        house.model.answer("hi")
        await house.ended(run_id)
        assert busy == [False]


async def test_W_02_a_prompt_that_cannot_run_is_refused_before_anything_is_stored(tmp_path: Path) -> None:
    async with open_worker_harness(tmp_path) as house:
        with pytest.raises(NotFound) as unknown:
            await house.submit("hello", session_id="unknown")
        assert unknown.value.code == "session_unknown"
        await house.session()
        for prompt, code in ((Prompt(prompt="x"), "session_missing"), (Prompt(session_id="s1"), "empty_prompt")):
            with pytest.raises(BadInput) as refused:
                await house.dispatcher.submit(prompt)
            assert refused.value.code == code
        with pytest.raises(BadInput):
            await house.submit("nul \x00")
        house.drain.shutdown("test", drain_s=1, flush_s=1, now=0)
        with pytest.raises(Conflict) as closing:
            await house.submit("hello")
        assert closing.value.code == "workspace_closing"
        assert house.dispatcher.open_runs == 0
        assert house.listener.events == []
        assert await house.rows() == []


async def test_a_text_attachment_alone_is_a_valid_prompt(tmp_path: Path) -> None:
    async with open_worker_harness(tmp_path) as house:
        await house.session()
        note = Attachment(file_path="/a.txt", file_name="a.txt", mime_type="text/plain", content=b"note")
        run_id = await house.dispatcher.submit(Prompt(session_id="s1", attachments=[note]))
        house.model.answer("ok")
        await house.ended(run_id)
        first = (await house.rows())[0]
        assert [type(part).__name__ for part in first.parts] == ["TextPart", "BinaryPart", "FinishPart"]


async def test_C06_concurrent_requests_with_the_same_run_id_start_one_run(tmp_path: Path) -> None:
    async with open_worker_harness(tmp_path) as house:
        await house.session()
        answers = await asyncio.gather(*(house.submit("hello", "key") for _ in range(10)))
        assert answers == ["key"] * 10
        await house.model.asked()
        house.model.answer("once")
        await house.ended("key")
        assert await house.submit("hello", "key") == "key"
        assert await house.outline() == prompt_and("assistant once [end_turn]")
        assert len(house.completes()) == 1
        with pytest.raises(Conflict) as reused:
            await house.submit("another prompt", "key")
        assert reused.value.code == "run_id_reused"
        assert house.dispatcher.open_runs == 0


async def test_X11_a_full_queue_refuses_with_its_own_code(tmp_path: Path) -> None:
    async with open_worker_harness(tmp_path, limits=Limits(queued_prompts_max=2)) as house:
        await house.session()
        await house.submit("a")
        await house.model.asked()
        await house.submit("b", "kb")
        await house.submit("c", "kc")
        with pytest.raises(LimitReached) as full:
            await house.submit("d", "kd")
        assert full.value.code == "queue_full"
        assert [run.prompt for run in house.dispatcher.queued("s1")] == ["b", "c"]


async def test_C_01_cancel_of_an_idle_session_leaves_no_trace(tmp_path: Path) -> None:
    async with open_worker_harness(tmp_path) as house:
        await house.session()
        await house.dispatcher.cancel("s1")
        await house.dispatcher.cancel("unknown")
        assert house.listener.events == []
        run_id = await house.submit("hello")
        house.model.answer("hi")
        assert (await house.ended(run_id)).outcome == "completed"


async def test_C_02_a_run_accepted_before_the_cancel_is_cancelled_when_it_enters_the_queue(tmp_path: Path) -> None:
    async with open_worker_harness(tmp_path) as house:
        await house.session()
        submitting = asyncio.ensure_future(house.submit("hello", "a"))
        await until(lambda: house.dispatcher.open_runs > 0)
        await house.dispatcher.cancel("s1")
        assert await submitting == "a"
        ended = await house.run("a")  # the end is stored before the cancel is answered
        assert (ended.state, ended.outcome) == ("ended", "cancelled")
        assert await house.outline() == prompt_and("assistant [canceled]")
        (done,) = house.completes()
        assert done["cancelled"] is True
        assert done["message_id"] == ended.message_id != ""
        assert "error" not in done
        assert house.of_kind("agent_event") == []
        again = await house.submit("next")
        house.model.answer("fine")
        assert (await house.ended(again)).outcome == "completed"


async def test_C_03_C_04_one_cancel_covers_all_before_it_and_nothing_after(tmp_path: Path) -> None:
    async with open_worker_harness(tmp_path) as house:
        await house.session()
        before = [asyncio.ensure_future(house.submit(f"p{n}", f"r{n}")) for n in range(3)]
        await until(lambda: house.dispatcher.open_runs == 3)
        cancelling = asyncio.ensure_future(house.dispatcher.cancel("s1"))
        await asyncio.sleep(0)
        later = await house.submit("later", "later")
        await asyncio.gather(*before, cancelling)
        house.model.answer("yes")
        assert (await house.ended(later)).outcome == "completed"
        assert [(await house.ended(f"r{n}")).outcome for n in range(3)] == ["cancelled"] * 3
        rows = await house.outline()
        assert rows.count("assistant [canceled]") == 3
        assert sorted(row for row in rows if row.startswith("user")) == [
            "user later",
            "user p0",
            "user p1",
            "user p2",
        ]


async def test_C_05_C_08_cancel_of_the_active_run_drops_the_queue_without_messages(tmp_path: Path) -> None:
    async with open_worker_harness(tmp_path) as house:
        await house.session()
        active = await house.submit("hello")
        await house.model.asked()
        without_id, with_id = await house.submit("no id"), await house.submit("an id", "x")
        await house.dispatcher.cancel("s1")
        for run_id in (without_id, with_id):
            assert (await house.run(run_id)).outcome == "cancelled"
        await house.ended(active)
        assert await house.outline() == prompt_and("assistant [canceled]")
        ends = {done["run_id"]: done for done in house.completes()}
        assert set(ends) == {active, without_id, with_id}
        assert ends[with_id]["message_id"] == ends[without_id]["message_id"] == ""
        assert all(done["cancelled"] for done in ends.values())
        assert house.model.running == 0


async def test_C_11_a_cancel_before_the_first_row_leaves_the_prompt_and_a_cancelled_answer(tmp_path: Path) -> None:
    async with open_worker_harness(tmp_path) as house:
        await house.session()
        run_id = await house.submit("hello")
        assert house.dispatcher.is_session_busy("s1")
        await house.dispatcher.cancel("s1")
        assert (await house.ended(run_id)).outcome == "cancelled"
        assert await house.outline() == prompt_and("assistant [canceled]")
        assert house.model.requests.empty()


async def test_C_11_a_cancel_at_any_turn_of_the_event_loop_ends_the_run_once(tmp_path: Path) -> None:
    """Cancel at each moment before the first token: there is one user row, one cancelled row and one end."""
    async with open_worker_harness(tmp_path) as house:
        for turns in range(0, 120, 3):
            session_id = await house.session(f"s{turns}")
            run_id = await house.submit("hello", session_id=session_id)
            for _ in range(turns):
                await asyncio.sleep(0)
            await house.dispatcher.cancel(session_id)
            assert (await house.ended(run_id)).outcome == "cancelled"
            assert await house.outline(session_id) == prompt_and("assistant [canceled]"), turns
        assert len(house.completes()) == 40


async def test_C_12_a_cancel_while_streaming_keeps_the_text_received_so_far(tmp_path: Path) -> None:
    async with open_worker_harness(tmp_path) as house:
        await house.session()
        run_id = await house.submit("hello")
        house.model.script.put_nowait(ThinkingDelta("hmm"))
        house.model.say("so far ")
        house.model.say("so good")
        await until(lambda: any(b"so good" in event.data for event in house.shown))
        await house.dispatcher.cancel("s1")
        ended = await house.ended(run_id)
        assert await house.outline() == prompt_and("assistant so far so good [canceled]")
        reasoning = (await house.rows())[1].parts[0]
        assert reasoning.data.finished_at > 0  # type: ignore[union-attr]
        (done,) = house.completes()
        assert done["text"] == "so far so good"
        assert done["message_id"] == ended.message_id
        assert house.model.closed == 1


async def test_C_12_a_tool_call_cut_by_a_cancel_is_completed_and_gets_a_result(tmp_path: Path) -> None:
    async with open_worker_harness(tmp_path) as house:
        await house.session()
        run_id = await house.submit("hello")
        house.model.script.put_nowait(ToolCallStart("c1", "hold"))
        await until(lambda: any(b'"c1"' in event.data for event in house.listener.events))
        await house.dispatcher.cancel("s1")
        await house.ended(run_id)
        assert await house.outline() == ["user hello", "assistant call:c1:{} [canceled]", "tool error:c1"]


async def test_C_13_a_cancel_during_a_tool_gives_every_call_a_result(tmp_path: Path) -> None:
    tool = BlockingTool()
    async with open_worker_harness(tmp_path, toolbox=Toolbox([tool])) as house:
        await house.session()
        run_id = await house.submit("hello")
        house.model.call("c1", "hold")
        house.model.call("c2", "hold")
        house.model.finish("tool_use")
        await tool.called.wait()
        await house.dispatcher.cancel("s1")
        await house.ended(run_id)
        assert await house.outline() == [
            "user hello",
            "assistant call:c1:{} call:c2:{} [canceled]",
            "tool error:c1",
            "tool error:c2",
        ]
        assert tool.calls == 1
        results = [event for event in house.listener.events if b"tool_result" in event.data]
        assert len(results) == 2


async def test_C_14_W_04_a_cancel_between_two_steps_does_not_change_the_finished_row(tmp_path: Path) -> None:
    tool = BlockingTool()
    tool.release.set()
    async with open_worker_harness(tmp_path, toolbox=Toolbox([tool])) as house:
        await house.session()
        run_id = await house.submit("hello")
        await house.model.asked()
        house.model.call("c1", "hold")
        house.model.finish("tool_use")
        await house.model.asked()  # the second step has begun and has no text yet
        await house.dispatcher.cancel("s1")
        ended = await house.ended(run_id)
        rows = await house.outline()
        assert rows == ["user hello", "assistant call:c1:{} [tool_use]", "tool result:c1", "assistant [canceled]"]
        assert ended.message_id == (await house.rows())[-1].id


class SelfCancellingTool(BlockingTool):
    """A tool that awaits a cancelled future."""

    def __init__(self, name: str, parallel: bool) -> None:
        super().__init__(name)
        self.spec = ToolSpec(name, "breaks", {"type": "object"}, parallel=parallel, effect="read")

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        await future
        return ToolResult("done")


@pytest.mark.parametrize("parallel", [True, False])
async def test_a_cancellation_inside_a_tool_is_not_a_cancel_by_the_user(tmp_path: Path, parallel: bool) -> None:
    async with open_worker_harness(tmp_path, toolbox=Toolbox([SelfCancellingTool("breaks", parallel)])) as house:
        await house.session()
        run_id = await house.submit("hello")
        await house.model.asked()
        house.model.call("c1", "breaks")
        house.model.call("c2", "breaks")
        house.model.finish("tool_use")
        await house.model.asked()
        house.model.answer("then otherwise")
        assert (await house.ended(run_id)).outcome == "completed"
        assert (await house.outline())[2:] == [
            "tool error:c1",
            "tool error:c2",
            "assistant then otherwise [end_turn]",
        ]


async def test_a_cancellation_inside_a_model_client_is_a_failure_and_not_a_cancel(tmp_path: Path) -> None:
    async with open_worker_harness(tmp_path) as house:
        await house.session()
        run_id = await house.submit("hello")
        house.model.say("half")
        house.model.script.put_nowait(asyncio.CancelledError())
        ended = await house.ended(run_id)
        assert (ended.outcome, ended.cause) == ("failed", "internal")
        assert (await house.outline())[1] == "assistant half [error]"


async def test_C_15_a_cancel_ends_a_wait_inside_a_tool(tmp_path: Path) -> None:
    tool = BlockingTool("ask")
    async with open_worker_harness(tmp_path, toolbox=Toolbox([tool])) as house:
        await house.session()
        run_id = await house.submit("hello")
        house.model.call("c1", "ask")
        house.model.finish("tool_use")
        await tool.called.wait()
        await house.dispatcher.cancel_run("s1", run_id)
        assert (await house.ended(run_id)).outcome == "cancelled"
        assert (await house.outline())[-1] == "tool error:c1"


async def test_C_16_a_cancel_ends_the_wait_before_a_retry(tmp_path: Path) -> None:
    async with open_worker_harness(
        tmp_path, limits=Limits(model_retry_delay_s=3600, model_retry_delay_s_max=3600)
    ) as house:
        await house.session()
        run_id = await house.submit("hello")
        house.model.say("lost")
        house.model.script.put_nowait(failure("overloaded", "too busy", status=529, in_stream=True))
        await until(lambda: any(event["type"] == "retrying" for event in house.of_kind("agent_event")))
        await house.dispatcher.cancel("s1")
        await house.ended(run_id)
        assert await house.outline() == prompt_and("assistant [canceled]")
        assert house.completes()[0].get("error") is None


async def test_C07_two_cancels_of_one_run_end_it_once_and_no_other(tmp_path: Path) -> None:
    async with open_worker_harness(tmp_path) as house:
        await house.session()
        await house.submit("a", "a")
        await house.model.asked()
        await house.submit("b", "b")
        await asyncio.gather(house.dispatcher.cancel_run("s1", "a"), house.dispatcher.cancel_run("s1", "a"))
        await house.model.asked()
        house.model.answer("b lives")
        assert (await house.ended("b")).outcome == "completed"
        assert [done["run_id"] for done in house.completes()] == ["a", "b"]


async def test_clearing_the_queue_ends_each_queued_run_with_its_own_event(tmp_path: Path) -> None:
    async with open_worker_harness(tmp_path) as house:
        await house.session()
        await house.submit("m", "m")
        await house.model.asked()
        without_id = await house.submit("no id")
        await house.submit("x", "x")
        await house.dispatcher.clear("s1")
        assert house.dispatcher.queued("s1") == []
        assert {done["run_id"] for done in house.completes()} == {without_id, "x"}
        assert all(done["cancelled"] and not done["message_id"] for done in house.completes())
        assert house.dispatcher.is_session_busy("s1")
        house.model.answer("still here")
        assert (await house.ended("m")).outcome == "completed"


async def test_a_queued_prompt_with_a_client_run_id_has_its_own_turn(tmp_path: Path) -> None:
    async with open_worker_harness(tmp_path) as house:
        await house.session()
        await house.submit("main", "m")
        await house.model.asked()
        await house.submit("follow", "f")
        assert [run.id for run in house.dispatcher.queued("s1")] == ["f"]
        assert house.dispatcher.shape(await house.run("f")).state == "queued"
        house.model.answer("first")
        await house.model.asked()
        assert [done["run_id"] for done in house.completes()] == ["m"]  # W-09: not before the end of its own turn
        house.model.answer("second")
        await house.ended("f")
        assert [(done["run_id"], done["text"]) for done in house.completes()] == [("m", "first"), ("f", "second")]
        assert not any("error" in done or "cancelled" in done for done in house.completes())
        assert house.model.running_max == 1


async def test_a_run_cancelled_by_a_shutdown_stores_its_prompt_and_its_answer(tmp_path: Path) -> None:
    async with open_worker_harness(tmp_path) as house:
        await house.session()
        submitting = asyncio.ensure_future(house.submit("hello", "a"))
        await until(lambda: house.dispatcher.open_runs > 0)
        house.drain.shutdown("test", drain_s=1, flush_s=1, now=0, cancel_queued=True)
        house.dispatcher.cancel_all()
        assert await submitting == "a"
        await house.dispatcher.settled()
        ended = await house.run("a")
        assert (ended.outcome, ended.cause) == ("cancelled", "closing")
        assert await house.outline() == prompt_and("assistant [canceled]")


async def test_a_shutdown_holds_what_waits_and_what_is_being_accepted(tmp_path: Path) -> None:
    async with open_worker_harness(tmp_path) as house:
        await house.session()
        active = await house.submit("active", "active")
        await house.model.asked()
        await house.submit("waits", "waits")
        submitting = asyncio.ensure_future(house.submit("enters", "enters"))
        await until(lambda: house.dispatcher.open_runs > 2)
        house.drain.shutdown("test", drain_s=1, flush_s=1, now=0)
        house.dispatcher.hold_all()
        assert await submitting == "enters"
        await house.dispatcher.settled()
        assert house.dispatcher.held_ids == ["waits", "enters"]
        ended = await house.run(active)
        assert (ended.outcome, ended.cause) == ("cancelled", "closing")
        for held in ("waits", "enters"):
            assert (await house.run(held)).state == "accepted"
        assert house.model.running_max == 1


async def test_a_held_prompt_can_still_be_cancelled(tmp_path: Path) -> None:
    async with open_worker_harness(tmp_path) as house:
        await house.session()
        await house.submit("active", "active")
        await house.model.asked()
        await house.submit("one", "one")
        await house.submit("two", "two")
        house.drain.shutdown("test", drain_s=1, flush_s=1, now=0)
        house.dispatcher.hold_all()
        await house.dispatcher.cancel_run("s1", "one")
        await house.dispatcher.settled()
        assert house.dispatcher.held_ids == ["two"]
        assert ((await house.run("one")).outcome, (await house.run("one")).cause) == ("cancelled", "cancelled")


async def test_the_dispatcher_is_not_idle_while_a_run_waits_for_its_model(tmp_path: Path) -> None:
    async with open_worker_harness(tmp_path) as house:
        await house.session()
        run_id = await house.submit("hello")
        await house.model.asked()
        waiting = asyncio.ensure_future(house.dispatcher.settled())
        await asyncio.wait({waiting}, timeout=0.02)
        assert not waiting.done()
        house.model.answer("hi")
        await waiting
        assert (await house.run(run_id)).state == "ended"


async def test_W_08_a_merged_prompt_stays_in_the_turn_and_ends_with_it(tmp_path: Path) -> None:
    tool = BlockingTool()
    async with open_worker_harness(tmp_path, toolbox=Toolbox([tool])) as house:
        await house.session()
        host = await house.submit("host", "host")
        await house.model.asked()
        house.model.call("c1", "hold")
        house.model.finish("tool_use")
        await tool.called.wait()
        merged = await house.submit("and this")
        tool.release.set()
        second = await house.model.asked()
        assert "and this" in texts(second)
        house.model.call("c2", "hold")
        house.model.finish("tool_use")
        third = await house.model.asked()
        assert "and this" in texts(third)
        house.model.answer("both done")
        ended = await house.ended(merged)
        assert (ended.outcome, ended.folded_into) == ("completed", host)
        assert ended.message_id == (await house.ended(host)).message_id
        assert [done["run_id"] for done in house.completes()] == [merged, host]


async def test_a_prompt_queued_during_the_last_step_gets_its_own_turn(tmp_path: Path) -> None:
    async with open_worker_harness(tmp_path) as house:
        await house.session()
        first = await house.submit("one")
        await house.model.asked()
        second = await house.submit("two")
        house.model.answer("first")
        await house.model.asked()
        house.model.answer("second")
        assert (await house.ended(second)).folded_into == ""
        assert [done["run_id"] for done in house.completes()] == [first, second]


async def test_W_10_a_prompt_sent_while_a_cancelled_run_unwinds_is_started(tmp_path: Path) -> None:
    async with open_worker_harness(tmp_path) as house:
        await house.session()
        first = await house.submit("one")
        await house.model.asked()
        cancelling = asyncio.ensure_future(house.dispatcher.cancel("s1"))
        await asyncio.sleep(0)  # the cancel comes first
        second = await house.submit("two", "two")
        await cancelling
        await house.model.asked()
        house.model.answer("second")
        assert (await house.ended(second)).outcome == "completed"
        assert (await house.run(first)).outcome == "cancelled"


async def test_W_10_the_next_run_starts_after_a_failed_one(tmp_path: Path) -> None:
    async with open_worker_harness(tmp_path) as house:
        await house.session()
        await house.submit("one", "one")
        await house.model.asked()
        await house.submit("two", "two")
        house.model.say("half")
        house.model.script.put_nowait(failure("auth", "the key is wrong", status=401, in_stream=True))
        await house.model.asked()
        house.model.answer("fine")
        assert (await house.ended("two")).outcome == "completed"
        failed = await house.run("one")
        assert (failed.outcome, failed.cause) == ("failed", "auth")
        first, second = house.completes()
        assert first["error"] == "Unauthorized: the key is wrong"
        assert first["text"] == "half"
        assert "error" not in second
        assert (await house.outline())[1] == "assistant half [error]"
        (event,) = [event for event in house.of_kind("agent_event") if event["type"] == "error"]
        assert event["run_id"] == "one"


async def test_sessions_run_concurrently(tmp_path: Path) -> None:
    async with open_worker_harness(tmp_path) as house:
        await house.session("s1")
        await house.session("s2")
        await house.submit("a", "a", "s1")
        await house.submit("b", "b", "s2")
        await house.model.asked()
        await house.model.asked()
        assert house.model.running == 2
        await house.dispatcher.cancel("s1")
        assert (await house.ended("a")).outcome == "cancelled"
        assert house.dispatcher.is_session_busy("s2")


async def test_the_first_snapshot_is_immediate_and_later_ones_are_merged(tmp_path: Path) -> None:
    async with open_worker_harness(tmp_path) as house:
        await house.session()
        run_id = await house.submit("hello")
        house.model.say("0 ")
        await until(lambda: house.shown != [])
        for number in range(1, 300):
            house.model.say(f"{number} ")
        await until(lambda: any(b"299" in event.data for event in house.shown))
        assert 2 <= len(house.shown) < 60
        assert all(event.is_snapshot and event.key for event in house.shown)
        assert b"0 " in house.shown[0].data
        numbers_before = house.listener.events[-1].number
        house.model.finish()
        await house.ended(run_id)
        assert house.listener.events[-1].number == numbers_before + 4
        answer = (await house.rows())[1].parts[0].data.text  # type: ignore[union-attr]
        assert answer.split() == [str(number) for number in range(300)]


async def test_a_flush_stores_the_text_of_the_latest_snapshot_before_the_run_ends(tmp_path: Path) -> None:
    async with open_worker_harness(tmp_path) as house:
        await house.session()
        await house.submit("hello")
        house.model.say("partial")
        await until(lambda: house.shown != [])
        await house.dispatcher.flush()
        assert (await house.outline())[1] == "assistant partial"


async def test_growing_text_is_stored_at_the_configured_interval(tmp_path: Path) -> None:
    async with open_worker_harness(tmp_path, limits=Limits(snapshot_store_s=0.01)) as house:
        await house.session()
        await house.submit("hello")
        house.model.say("one ")
        await until(lambda: house.shown != [])
        house.model.say("two")
        while (await house.outline())[1:] != ["assistant one two"]:  # noqa: ASYNC110 - the write is not announced
            await asyncio.sleep(0)


async def test_growing_text_is_not_stored_before_the_interval(tmp_path: Path) -> None:
    async with open_worker_harness(tmp_path, limits=Limits(snapshot_store_s=3600.0)) as house:
        await house.session()
        run_id = await house.submit("hello")
        house.model.say("one ")
        await until(lambda: house.shown != [])
        assert "one" not in (await house.outline())[1]
        house.model.say("two")
        house.model.finish()
        await house.ended(run_id)
        assert (await house.outline())[1] == "assistant one two [end_turn]"


async def test_a_flush_for_one_client_publishes_a_snapshot_to_the_others(tmp_path: Path) -> None:
    async with open_worker_harness(tmp_path, limits=Limits(snapshot_interval_s=3600.0)) as house:
        await house.session()
        await house.submit("hello")
        house.model.say("one ")
        await until(lambda: house.shown != [])
        house.model.say("two")
        await until(lambda: house.model.script.empty())
        for _ in range(5):
            await asyncio.sleep(0)  # so that the turn receives the text
        await house.dispatcher.flush()
        assert (await house.outline())[1] == "assistant one two"
        assert b"one two" in house.shown[-1].data, "other clients would not see this text until the model sends more"


async def test_a_run_over_its_time_limit_fails_with_cause_deadline(tmp_path: Path) -> None:
    async with open_worker_harness(tmp_path, limits=Limits(run_max_s=0.05)) as house:
        await house.session()
        run_id = await house.submit("hello")
        ended = await house.ended(run_id)
        assert (ended.outcome, ended.cause) == ("failed", "deadline")
        assert "longer than 0.05 s" in house.completes()[0]["error"]


async def test_D01_a_run_on_a_full_disk_fails_and_its_end_is_stored_in_the_reserve(tmp_path: Path) -> None:
    async with open_worker_harness(tmp_path) as house:
        await house.session()
        run_id = await house.submit("hello")
        await house.model.asked()
        await fill_disk(house)
        house.model.say("x" * 60_000)
        house.model.call("c1", "hold")
        ended = await house.ended(run_id)
        assert (ended.outcome, ended.cause) == ("failed", "storage")
        assert len(house.completes()) == 1
        assert house.listener.fatal == []
        with pytest.raises(LimitReached) as refused:
            await house.submit("y" * 60_000)
        assert refused.value.code == "storage_full"
        assert house.dispatcher.open_runs == 0
        assert (await house.rows())[0].role == "user"


async def fill_disk(house: WorkerHarness) -> None:
    """Forbid the database file to grow."""

    def job(transaction: Transaction) -> None:
        count = transaction.connection.execute(text("PRAGMA page_count")).scalar_one()
        transaction.connection.execute(text(f"PRAGMA max_page_count = {count}"))

    await house.database.write(job)


async def test_run_complete_is_the_last_event_of_a_run(tmp_path: Path) -> None:
    async with open_worker_harness(tmp_path) as house:
        await house.session()
        first = await house.submit("one", "one")
        await house.model.asked()
        await house.submit("two", "two")
        house.model.answer("a")
        await house.model.asked()
        house.model.answer("b")
        await house.ended("two")
        for run_id in (first, "two"):
            own = [event for event in house.listener.events if event.run_id == run_id]
            assert own[-1].kind == "run_complete"
            assert payload(own[-1])["run_id"] == run_id
        assert [outline(row) for row in await house.rows()] == [
            "user one",
            "assistant a [end_turn]",
            "user two",
            "assistant b [end_turn]",
        ]
