"""Test recovery: a new worker ends the started runs of a dead one, starts the others and completes their messages."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from protocol.api.message import (
    FinishData,
    FinishPart,
    FinishReason,
    Message,
    Part,
    ReasoningData,
    ReasoningPart,
    TextData,
    TextPart,
    ToolCallData,
    ToolCallPart,
    ToolResultData,
)
from protocol.api.session import Session
from protocol.limits import DEFAULT_LIMITS, Limits
from tests.support.harness.worker_harness import WorkerHarness, open_worker_harness
from worker.runs import message_rows
from worker.store import rows
from worker.store.database import Transaction
from worker.store.rows import StoredRun
from worker.store.tables import messages, runs, sessions


@dataclass(frozen=True)
class UnfinishedRun:
    """A run that had not ended when its worker died, with the rows that were stored for it."""

    id: str
    answer: Sequence[Part] = ()  # the parts of its assistant row `a1`, which exists when there are any
    results: Sequence[str] = ()  # the ids of the tool calls whose results are stored
    started: bool = True
    merged_into: str = ""
    has_own_turn: bool = True
    deaths: int = 0


def store_runs(transaction: Transaction, *unfinished: UnfinishedRun) -> None:
    """Store the session s1 and its runs in this order: first all runs with their prompts, then all answers."""
    connection = transaction.connection
    sessions.create(connection, Session(id="s1", title="named", created_at=1, updated_at=1))
    for number, run in enumerate(unfinished, 1):
        prompt = f"do {run.id}"
        accepted = StoredRun(
            id=run.id,
            session_id="s1",
            accept_seq=number,
            prompt=prompt,
            has_own_turn=run.has_own_turn,
            deaths=run.deaths,
        )
        runs.accept(connection, accepted)
        if run.started:
            runs.start(connection, run.id, 5, run.merged_into)
            user = message_rows.user_row(row_id=f"u-{run.id}", session_id="s1", prompt=prompt, attachments=[], now=1)
            messages.create(connection, user, run_id=run.id)
    for run in unfinished:
        if run.answer:
            answer = Message(
                id="a1", session_id="s1", role="assistant", parts=list(run.answer), model="m", provider="p"
            )
            messages.create(connection, answer, run_id=run.id)
            runs.set_message(connection, run.id, "a1")
        for call_id in run.results:
            result = ToolResultData(tool_call_id=call_id, name="bash", content="ok")
            row = message_rows.tool_row(row_id=f"t-{call_id}", session_id="s1", result=result, now=1)
            messages.create(connection, row, run_id=run.id)


def open_after_crash(
    path: Path, *unfinished: UnfinishedRun, limits: Limits = DEFAULT_LIMITS
) -> AbstractAsyncContextManager[WorkerHarness]:
    """Open a worker on the database of one that died with these runs."""
    return open_worker_harness(path, limits=limits, before=lambda transaction: store_runs(transaction, *unfinished))


def call(call_id: str, finished: bool = True) -> ToolCallPart:
    return ToolCallPart(ToolCallData(id=call_id, name="bash", input="{}" if finished else '{"a"', finished=finished))


def finish(reason: FinishReason) -> FinishPart:
    return FinishPart(FinishData(reason=reason, time=1))


async def test_W04_a_run_that_was_streaming_ends_interrupted_and_keeps_its_text(tmp_path: Path) -> None:
    answer: list[Part] = [ReasoningPart(ReasoningData(thinking="hm", started_at=1)), TextPart(TextData(text="so far"))]
    async with open_after_crash(tmp_path, UnfinishedRun("r", answer)) as house:
        assert house.recovered.interrupted == ["r"]
        ended = await house.run("r")
        assert (ended.outcome, ended.cause, ended.message_id) == ("interrupted", "worker_died", "a1")
        assert await house.outline() == ["user do r", "assistant so far [error]"]
        last = (await house.rows())[-1]
        assert last.parts[0].data.finished_at > 0  # type: ignore[union-attr]
        assert last.parts[-1].data.message == "Interrupted"  # type: ignore[union-attr]
        (done,) = house.completes()
        assert done["text"] == "so far"
        assert done["error"].startswith("Interrupted: ")
        await house.submit("next", "next")
        house.model.answer("works")
        assert (await house.ended("next")).outcome == "completed"
        assert house.model.requests.qsize() == 1  # no request of the dead run was repeated


async def test_W05_open_tool_calls_get_an_interrupted_result(tmp_path: Path) -> None:
    answer: list[Part] = [call("c1"), call("c2"), call("c3", finished=False)]
    async with open_after_crash(tmp_path, UnfinishedRun("r", answer, results=["c1"])) as house:
        assert await house.outline() == [
            "user do r",
            "assistant call:c1:{} call:c2:{} call:c3:{} [error]",
            "tool result:c1",
            "tool error:c2",
            "tool error:c3",
        ]


async def test_W_04_a_finished_row_is_not_written_again(tmp_path: Path) -> None:
    answer: list[Part] = [call("c1"), finish("tool_use")]
    async with open_after_crash(tmp_path, UnfinishedRun("r", answer, results=["c1"])) as house:
        assert await house.outline() == [
            "user do r",
            "assistant call:c1:{} [tool_use]",
            "tool result:c1",
            "assistant [error]",
        ]
        assert (await house.run("r")).message_id == (await house.rows())[-1].id


async def test_a_run_that_died_before_its_answer_was_stored_gets_an_answer_that_says_so(tmp_path: Path) -> None:
    async with open_after_crash(tmp_path, UnfinishedRun("r")) as house:
        assert await house.outline() == ["user do r", "assistant [error]"]
        assert (await house.rows())[-1].model == "led"


async def test_W03_runs_that_had_not_started_start_in_the_order_of_their_acceptance(tmp_path: Path) -> None:
    first, second = UnfinishedRun("first", started=False), UnfinishedRun("second", started=False)
    async with open_after_crash(tmp_path, UnfinishedRun("active"), first, second) as house:
        assert [waiting.id for waiting in house.recovered.waiting] == ["first", "second"]
        house.dispatcher.resume(house.recovered.waiting)
        third = await house.submit("third", "third")
        for text in ("one", "two", "three"):
            house.model.answer(text)
            await house.model.asked()
        await house.ended(third)
        ends = [(done["run_id"], done.get("text", "")) for done in house.completes()]
        assert ends[0][0] == "active"
        assert ends[1:] == [("first", "one"), ("second", "two"), ("third", "three")]
        assert (await house.run("third")).accept_seq == 4


async def test_a_merged_run_ends_with_the_interrupted_run_it_was_merged_into(tmp_path: Path) -> None:
    host = UnfinishedRun("host", [TextPart(TextData(text="both"))])
    guest = UnfinishedRun("guest", merged_into="host", has_own_turn=False)
    async with open_after_crash(tmp_path, host, guest) as house:
        ended = await house.run("guest")
        assert (ended.outcome, ended.folded_into, ended.message_id) == ("interrupted", "host", "a1")
        assert sorted(house.recovered.interrupted) == ["guest", "host"]
        assert len(house.completes()) == 2


async def test_W17_a_prompt_that_kills_its_worker_repeatedly_is_failed(tmp_path: Path) -> None:
    poison, once = UnfinishedRun("poison", started=False, deaths=2), UnfinishedRun("once", started=False, deaths=1)
    async with open_after_crash(tmp_path, poison, once, limits=Limits(poison_deaths_max=2)) as house:
        assert house.recovered.failed == ["poison"]
        ended = await house.run("poison")
        assert (ended.outcome, ended.cause) == ("failed", "crashed_repeatedly")
        assert [waiting.id for waiting in house.recovered.waiting] == ["once"]
        house.dispatcher.resume(house.recovered.waiting)
        await house.model.asked()
        assert (await house.run("once")).deaths == 2  # counted before it starts again
        house.model.answer("fine")
        assert (await house.ended("once")).outcome == "completed"


async def test_a_run_of_a_deleted_session_still_ends(tmp_path: Path) -> None:
    def store(transaction: Transaction) -> None:
        store_runs(transaction, UnfinishedRun("r"), UnfinishedRun("q", started=False))
        sessions.remove(transaction.connection, "s1")

    async with open_worker_harness(tmp_path, before=store) as house:
        assert (await house.run("r")).outcome == "interrupted"
        house.dispatcher.resume(house.recovered.waiting)
        ended = await house.ended("q")
        assert (ended.outcome, ended.cause) == ("failed", "session_deleted")
        assert house.completes()[1]["message_id"] == ""


async def test_W_20_the_cost_of_a_sub_agent_that_died_is_added_to_its_parent_session(tmp_path: Path) -> None:
    def store(transaction: Transaction) -> None:
        connection = transaction.connection
        store_runs(transaction, UnfinishedRun("r"))
        child = Session(id="child", parent_session_id="s1", created_at=1, updated_at=1)
        sessions.create(connection, child)
        agent = StoredRun(id="a", session_id="child", accept_seq=7, prompt="find", has_own_turn=True, kind=rows.TASK)
        runs.accept(connection, agent)
        runs.start(connection, "a", 5)
        sessions.account(connection, "child", input_tokens=9, output_tokens=9, cost=0.5, now=1)
        sessions.account(connection, "s1", input_tokens=3, output_tokens=3, cost=0.25, now=1)

    for before in (store, None):  # the second start adds nothing
        async with open_worker_harness(tmp_path, before=before) as house:
            session = await house.database.read(lambda connection: sessions.get(connection, "s1"))
            assert session is not None
            assert (session.cost, session.prompt_tokens) == (0.75, 3)


async def test_a_second_recovery_changes_nothing(tmp_path: Path) -> None:
    async with open_after_crash(tmp_path, UnfinishedRun("r")) as house:
        first = await house.rows()
    async with open_worker_harness(tmp_path) as house:
        assert house.recovered.interrupted == []
        assert await house.rows() == first
        assert house.listener.events == []
