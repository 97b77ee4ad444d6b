"""The broker with a real database: its rows, its events, and a decision that cannot be stored."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from protocol.api.permission import PermissionRequest, QuestionItem, QuestionRequest, QuestionResponse
from protocol.api.session import Session
from protocol.base.clock import SystemClock
from protocol.errors import Conflict, LimitReached
from protocol.limits import Limits
from tests.support.harness.store import StoreListener, open_database
from tests.support.run_coroutine import run
from worker.permissions.broker import BrokerAnswer, PermissionBroker
from worker.permissions.gate import PermissionGate, RunPolicy, request_path
from worker.permissions.questions import batch_of, in_order
from worker.permissions.rules import Rules
from worker.store import permission_requests, sessions
from worker.store.database import Database
from worker.store.rows import RequestState, StoredRequest
from worker.toolkit.tool import AccessRequest, ToolDenied

Story = Callable[[PermissionBroker, Database, StoreListener], Awaitable[None]]


def tell(tmp_path: Path, story: Story, **limits: Any) -> None:
    async def main() -> None:
        heard = StoreListener()
        database = await open_database(tmp_path / "workspace.db", heard, Limits(**limits))
        await database.write(lambda transaction: sessions.create(transaction.connection, Session(id="s")))
        broker = PermissionBroker(
            database=database,
            limits=Limits(**limits),
            clock=SystemClock(),
            random=random.Random(1),
            log=logging.getLogger("bulkhead.test"),
        )
        try:
            await story(broker, database, heard)
        finally:
            await broker.close()
            await database.close(5)

    run(main())


def asking(broker: PermissionBroker, ask_id: str = "a", **more: Any) -> "asyncio.Task[BrokerAnswer]":
    asked = StoredRequest(ask_id, "permission", "s", "r", f"call-{ask_id}", tool="bash", action="execute", path="/w")
    request = PermissionRequest(id=ask_id, session_id="s", tool_call_id=f"call-{ask_id}", tool_name="bash")
    return asyncio.ensure_future(broker.ask(asked, request, **more))


async def opened(broker: PermissionBroker, count: int = 1) -> None:
    async with asyncio.timeout(5):
        while len(broker.open_permissions()) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def test_a_decision_that_cannot_be_stored_leaves_the_request_open(tmp_path: Path, monkeypatch: Any) -> None:
    async def story(broker: PermissionBroker, database: Database, heard: StoreListener) -> None:
        waiting = asking(broker)
        await opened(broker)
        write = database.write

        async def full(*_: Any, **__: Any) -> Any:
            raise LimitReached("cannot store this: the disk is full", code="storage_full")

        monkeypatch.setattr(database, "write", full)
        with pytest.raises(LimitReached):
            await broker.decide("a", "permission", "allow", granted=True)
        monkeypatch.setattr(database, "write", write)
        assert [request.id for request in broker.open_permissions()] == ["a"]
        assert not waiting.done()
        assert await broker.decide("a", "permission", "deny", granted=False)
        assert not (await waiting).granted

    tell(tmp_path, story)


def test_a_grant_for_the_session_answers_what_is_alike(tmp_path: Path) -> None:
    async def story(broker: PermissionBroker, database: Database, heard: StoreListener) -> None:
        waiting = [asking(broker, ask_id) for ask_id in "abc"]
        await opened(broker, 3)
        assert await broker.decide("b", "permission", "allow_session", granted=True, for_session=True)
        assert all(reply.granted for reply in await asyncio.gather(*waiting))
        assert (await asking(broker, "d")).granted
        assert broker.open_count == 0
        found = await database.read(lambda connection: permission_requests.outcome(connection, "a"))
        assert found == permission_requests.RequestOutcome(RequestState.RESOLVED, "allow_session of b")
        kinds = [event.kind for event in heard.events if event.key in ("call-a", "a")]
        assert kinds == ["permission_notification", "permission_request", "permission_notification"]

    tell(tmp_path, story)


def test_the_answer_and_the_end_of_the_run_at_the_same_time(tmp_path: Path) -> None:
    async def story(broker: PermissionBroker, database: Database, heard: StoreListener) -> None:
        waiting = asking(broker)
        await opened(broker)
        await database.write(
            lambda transaction: permission_requests.end_of_run(transaction, "r", RequestState.CANCELLED, "over", 1)
        )
        with pytest.raises(Conflict) as late:
            await broker.decide("a", "permission", "allow_session", granted=True, for_session=True)
        assert late.value.code == "no_longer_asked"
        assert not (await waiting).granted
        assert [event.kind for event in heard.events][-1] == "permission_notification"
        assert len(heard.events) == 3
        again = asking(broker, "b")  # nothing was granted by the one that came too late
        await opened(broker)
        again.cancel()
        await asyncio.wait({again})
        assert broker.open_count == 0

    tell(tmp_path, story)


def test_time_counts_only_while_nobody_is_there(tmp_path: Path) -> None:
    async def story(broker: PermissionBroker, database: Database, heard: StoreListener) -> None:
        broker.attached(1)
        waiting = asking(broker)
        await opened(broker)
        lonely = asking(broker, "b", timeout_s=0.02)
        assert "0.02 s" in (await lonely).why
        assert not waiting.done()
        broker.attached(0)
        assert "0.05 s" in (await waiting).why
        found = await database.read(lambda connection: permission_requests.outcome(connection, "a"))
        assert found == permission_requests.RequestOutcome(RequestState.EXPIRED, "no client answered within 0.05 s")

    tell(tmp_path, story, permission_wait_s=0.05)


def test_the_gate_goes_through_its_reasons_in_order(tmp_path: Path) -> None:
    async def story(broker: PermissionBroker, database: Database, heard: StoreListener) -> None:
        async def here(job: Callable[[], str]) -> str:
            return job()

        def gate(policy: str = "", may_allow: bool = True, **rules: Any) -> PermissionGate:
            return PermissionGate(
                broker,
                rules=lambda: Rules(**rules),
                policy=RunPolicy(policy, 1.0),  # type: ignore[arg-type]
                may_allow=lambda: may_allow,
                workspace=tmp_path,
                in_thread=here,
            )

        def wish(**more: Any) -> AccessRequest:
            return AccessRequest(
                "s", "r", "c", "bash", "execute", ".", "run \udcff", {"command": "x\udcff", "n": [1, None]}, **more
            )

        await gate(skip=True).permit(wish())
        await gate(allowed=frozenset({"bash:execute"})).permit(wish())
        await gate("allow").permit(wish())
        assert heard.events == []
        await gate("deny").permit(wish(approved=True))  # a hook of the user says so
        assert [event.kind for event in heard.events] == ["permission_notification"]
        with pytest.raises(ToolDenied, match="allowed_tools"):
            await gate("deny").permit(wish())
        broker.said(False)
        with pytest.raises(ToolDenied, match="cannot answer"):
            await gate().permit(wish())
        waiting = asyncio.ensure_future(gate("allow", may_allow=False).permit(wish()))
        await opened(broker)
        [request] = broker.open_permissions()
        assert (request.path, request.params) == (str(tmp_path), {"command": "x?", "n": [1, None]})
        assert await broker.decide(request.id, "permission", "allow_session", granted=True, for_session=True)
        await waiting
        await gate("deny").permit(wish())  # granted to the session

    tell(tmp_path, story)


def test_the_path_of_a_request_is_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, asked in (
        (".", tmp_path),
        ("", tmp_path),
        (str(tmp_path / "file"), tmp_path),
        (str(tmp_path), tmp_path),
        (str(tmp_path / "new"), tmp_path / "new"),
    ):
        assert request_path(path, tmp_path) == str(asked)


def test_answers_find_their_batch_and_their_question() -> None:
    def batch(batch_id: str, *ids: str) -> QuestionRequest:
        items = [QuestionItem(id=one, type="yes_no", question="?") for one in ids]
        return QuestionRequest(id=batch_id, session_id="s", tool_call_id="c", questions=items)

    waiting = [batch("one", "q1", "q2"), batch("two", "q3")]
    assert batch_of(waiting, "two", []) == "two"
    assert batch_of(waiting, "", [QuestionResponse(request_id="q3")]) == "two"
    assert batch_of(waiting, "", [QuestionResponse(yes=True)]) == "one"
    assert batch_of(waiting, "", [QuestionResponse(request_id="gone")]) == ""
    assert batch_of([], "", []) == ""
    questions = waiting[0].questions
    by_id = [QuestionResponse(request_id="q2", yes=True)]
    assert [one.yes for one in in_order(questions, by_id)] == [None, True]
    assert [one.yes for one in in_order(questions, [QuestionResponse(yes=False)])] == [False, None]
