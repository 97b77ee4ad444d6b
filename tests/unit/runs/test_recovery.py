"""What a worker does with the file of one that died: ends what had begun, starts what had not, repairs the answer."""

from pathlib import Path

from protocol.api.message import (
    FinishData,
    FinishPart,
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
from protocol.limits import Limits
from tests.support.harness.worker_harness import open_worker_harness, outline
from worker.runs import message_rows
from worker.store import messages, rows, runs, sessions
from worker.store.database import Transaction
from worker.store.rows import StoredRun


class Wreck:
    """Writes what a dead worker left."""

    def __init__(self, transaction: Transaction) -> None:
        self.transaction = transaction
        self.connection = transaction.connection
        self.count = 0
        sessions.create(self.connection, Session(id="s1", title="named", created_at=1, updated_at=1))

    def run(
        self, run_id: str, *, active: bool = False, into: str = "", deaths: int = 0, has_own_turn: bool = True
    ) -> None:
        self.count += 1
        run = StoredRun(
            id=run_id,
            session_id="s1",
            accept_seq=self.count,
            prompt=f"do {run_id}",
            has_own_turn=has_own_turn,
            deaths=deaths,
        )
        runs.accept(self.connection, run)
        if active:
            runs.start(self.connection, run_id, 5, into)

    def user(self, run_id: str) -> None:
        row = message_rows.user_row(row_id=f"u-{run_id}", session_id="s1", prompt=f"do {run_id}", attachments=[], now=1)
        messages.create(self.connection, row, run_id=run_id)

    def assistant(self, run_id: str, name: str, *parts: Part) -> None:
        row = Message(id=name, session_id="s1", role="assistant", parts=list(parts), model="m", provider="p")
        messages.create(self.connection, row, run_id=run_id)
        runs.set_message(self.connection, run_id, name)

    def result(self, run_id: str, call_id: str) -> None:
        result = ToolResultData(tool_call_id=call_id, name="bash", content="ok")
        row = message_rows.tool_row(row_id=f"t-{call_id}", session_id="s1", result=result, now=1)
        messages.create(self.connection, row, run_id=run_id)


def call(call_id: str, finished: bool = True) -> ToolCallPart:
    return ToolCallPart(
        ToolCallData(id=call_id, name="bash", input='{"a"' if not finished else "{}", finished=finished)
    )


def finish(reason: str) -> FinishPart:
    return FinishPart(FinishData(reason=reason, time=1))  # type: ignore[arg-type]


async def test_W04_a_run_that_streamed_ends_interrupted_with_its_text(tmp_path: Path) -> None:
    def wreck(transaction: Transaction) -> None:
        left = Wreck(transaction)
        left.run("r", active=True)
        left.user("r")
        left.assistant(
            "r", "a1", ReasoningPart(ReasoningData(thinking="hm", started_at=1)), TextPart(TextData(text="so far"))
        )

    async with open_worker_harness(tmp_path, before=wreck) as house:
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
        assert house.model.requests.qsize() == 1  # nothing of the dead run was asked again


async def test_W05_open_tool_calls_get_an_interrupted_result(tmp_path: Path) -> None:
    def wreck(transaction: Transaction) -> None:
        left = Wreck(transaction)
        left.run("r", active=True)
        left.user("r")
        left.assistant("r", "a1", call("c1"), call("c2"), call("c3", finished=False))
        left.result("r", "c1")

    async with open_worker_harness(tmp_path, before=wreck) as house:
        assert await house.outline() == [
            "user do r",
            "assistant call:c1:{} call:c2:{} call:c3:{} [error]",
            "tool result:c1",
            "tool error:c2",
            "tool error:c3",
        ]


async def test_W_04_a_finished_row_is_not_written_again(tmp_path: Path) -> None:
    def wreck(transaction: Transaction) -> None:
        left = Wreck(transaction)
        left.run("r", active=True)
        left.user("r")
        left.assistant("r", "a1", call("c1"), finish("tool_use"))
        left.result("r", "c1")

    async with open_worker_harness(tmp_path, before=wreck) as house:
        told = [outline(row) for row in await house.rows()]
        assert told == ["user do r", "assistant call:c1:{} [tool_use]", "tool result:c1", "assistant [error]"]
        assert (await house.run("r")).message_id == (await house.rows())[-1].id


async def test_a_run_that_died_before_its_first_row_gets_one(tmp_path: Path) -> None:
    def wreck(transaction: Transaction) -> None:
        left = Wreck(transaction)
        left.run("r", active=True)
        left.user("r")

    async with open_worker_harness(tmp_path, before=wreck) as house:
        assert await house.outline() == ["user do r", "assistant [error]"]
        assert (await house.rows())[-1].model == "led"


async def test_W03_runs_that_had_not_begun_start_in_their_order(tmp_path: Path) -> None:
    def wreck(transaction: Transaction) -> None:
        left = Wreck(transaction)
        left.run("active", active=True)
        left.user("active")
        left.run("first")
        left.run("second")

    async with open_worker_harness(tmp_path, before=wreck) as house:
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


async def test_a_folded_run_ends_with_its_interrupted_host(tmp_path: Path) -> None:
    def wreck(transaction: Transaction) -> None:
        left = Wreck(transaction)
        left.run("host", active=True)
        left.user("host")
        left.run("guest", active=True, into="host", has_own_turn=False)
        left.user("guest")
        left.assistant("host", "a1", TextPart(TextData(text="both")))

    async with open_worker_harness(tmp_path, before=wreck) as house:
        guest = await house.run("guest")
        assert (guest.outcome, guest.folded_into, guest.message_id) == ("interrupted", "host", "a1")
        assert sorted(house.recovered.interrupted) == ["guest", "host"]
        assert len(house.completes()) == 2


async def test_W17_a_prompt_that_kills_its_worker_is_not_tried_for_ever(tmp_path: Path) -> None:
    def wreck(transaction: Transaction) -> None:
        left = Wreck(transaction)
        left.run("poison", deaths=2)
        left.run("once", deaths=1)

    async with open_worker_harness(tmp_path, before=wreck, limits=Limits(poison_deaths_max=2)) as house:
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
    def wreck(transaction: Transaction) -> None:
        left = Wreck(transaction)
        left.run("r", active=True)
        left.run("q")
        sessions.remove(transaction.connection, "s1")

    async with open_worker_harness(tmp_path, before=wreck) as house:
        assert (await house.run("r")).outcome == "interrupted"
        house.dispatcher.resume(house.recovered.waiting)
        ended = await house.ended("q")
        assert (ended.outcome, ended.cause) == ("failed", "session_deleted")
        assert house.completes()[1]["message_id"] == ""


async def test_W_20_an_agent_that_died_is_paid_for_by_its_caller(tmp_path: Path) -> None:
    def wreck(transaction: Transaction) -> None:
        left = Wreck(transaction)
        left.run("r", active=True)
        left.user("r")
        child = Session(id="child", parent_session_id="s1", created_at=1, updated_at=1)
        sessions.create(left.connection, child)
        agent = StoredRun(id="a", session_id="child", accept_seq=7, prompt="find", has_own_turn=True, kind=rows.TASK)
        runs.accept(left.connection, agent)
        runs.start(left.connection, "a", 5)
        sessions.account(left.connection, "child", input_tokens=9, output_tokens=9, cost=0.5, now=1)
        sessions.account(left.connection, "s1", input_tokens=3, output_tokens=3, cost=0.25, now=1)

    for before in (wreck, None):  # the second start finds nothing more to pay
        async with open_worker_harness(tmp_path, before=before) as house:
            session = await house.database.read(lambda connection: sessions.get(connection, "s1"))
            assert session is not None
            assert (session.cost, session.prompt_tokens) == (0.75, 3)


async def test_recovery_twice_is_recovery_once(tmp_path: Path) -> None:
    def wreck(transaction: Transaction) -> None:
        left = Wreck(transaction)
        left.run("r", active=True)
        left.user("r")

    async with open_worker_harness(tmp_path, before=wreck) as house:
        first = await house.rows()
    async with open_worker_harness(tmp_path) as house:
        assert house.recovered.interrupted == []
        assert await house.rows() == first
        assert house.listener.events == []
