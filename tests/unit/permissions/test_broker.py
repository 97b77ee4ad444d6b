"""Test the permission broker on a real database: its rows, its events, and a decision that cannot be stored."""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from protocol.api.permission import PermissionRequest, QuestionItem, QuestionRequest, QuestionResponse
from protocol.api.session import Session
from protocol.base.clock import SystemClock
from protocol.errors import Conflict, LimitReached
from protocol.limits import DEFAULT_LIMITS, Limits
from tests.support.harness.store import StoreListener, open_database
from worker.permissions.broker import BrokerAnswer, PermissionBroker
from worker.permissions.gate import PermissionGate, RunPolicy, request_path
from worker.permissions.questions import batch_of, in_order
from worker.permissions.rules import Rules
from worker.store.database import Database
from worker.store.rows import RequestState, StoredRequest
from worker.store.tables import permission_requests, sessions
from worker.toolkit.tool import AccessRequest, ToolDenied


@contextlib.asynccontextmanager
async def open_broker(
    tmp_path: Path, limits: Limits = DEFAULT_LIMITS
) -> AsyncIterator[tuple[PermissionBroker, Database, StoreListener]]:
    """Open a broker on a database that holds the session `s`."""
    listener = StoreListener()
    database = await open_database(tmp_path / "workspace.db", listener, limits)
    await database.write(lambda transaction: sessions.create(transaction.connection, Session(id="s")))
    broker = PermissionBroker(
        database=database,
        limits=limits,
        clock=SystemClock(),
        random=random.Random(1),
        log=logging.getLogger("bulkhead.test"),
    )
    try:
        yield broker, database, listener
    finally:
        await broker.close()
        await database.close(5)


def start_request(
    broker: PermissionBroker, request_id: str = "a", timeout_s: float | None = None
) -> asyncio.Task[BrokerAnswer]:
    call_id = f"call-{request_id}"
    stored = StoredRequest(request_id, "permission", "s", "r", call_id, tool="bash", action="execute", path="/w")
    request = PermissionRequest(id=request_id, session_id="s", tool_call_id=call_id, tool_name="bash")
    return asyncio.ensure_future(broker.ask(stored, request, timeout_s=timeout_s))


async def wait_until_open(broker: PermissionBroker, count: int = 1) -> None:
    async with asyncio.timeout(5):
        while len(broker.open_permissions()) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_a_decision_that_cannot_be_stored_leaves_the_request_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_broker(tmp_path) as (broker, database, _listener):
        waiting = start_request(broker)
        await wait_until_open(broker)
        write = database.write

        async def refuse(*_: object, **__: object) -> None:
            raise LimitReached("cannot store this: the disk is full", code="storage_full")

        monkeypatch.setattr(database, "write", refuse)
        with pytest.raises(LimitReached):
            await broker.decide("a", "permission", "allow", granted=True)
        monkeypatch.setattr(database, "write", write)
        assert [request.id for request in broker.open_permissions()] == ["a"]
        assert not waiting.done()
        assert await broker.decide("a", "permission", "deny", granted=False)
        assert not (await waiting).granted


async def test_a_grant_for_the_session_answers_all_equivalent_requests(tmp_path: Path) -> None:
    async with open_broker(tmp_path) as (broker, database, listener):
        waiting = [start_request(broker, ask_id) for ask_id in "abc"]
        await wait_until_open(broker, 3)
        assert await broker.decide("b", "permission", "allow_session", granted=True, for_session=True)
        assert all(reply.granted for reply in await asyncio.gather(*waiting))
        assert (await start_request(broker, "d")).granted
        assert broker.open_count == 0
        outcome = await database.read(lambda connection: permission_requests.outcome(connection, "a"))
        assert outcome == permission_requests.RequestOutcome(RequestState.RESOLVED, "allow_session of b")
        kinds = [event.kind for event in listener.events if event.key in ("call-a", "a")]
        assert kinds == ["permission_notification", "permission_request", "permission_notification"]


async def test_a_decision_after_the_run_ended_is_refused_and_grants_nothing(tmp_path: Path) -> None:
    async with open_broker(tmp_path) as (broker, database, listener):
        waiting = start_request(broker)
        await wait_until_open(broker)
        await database.write(
            lambda transaction: permission_requests.end_of_run(transaction, "r", RequestState.CANCELLED, "over", 1)
        )
        with pytest.raises(Conflict) as late:
            await broker.decide("a", "permission", "allow_session", granted=True, for_session=True)
        assert late.value.code == "no_longer_asked"
        assert not (await waiting).granted
        assert [event.kind for event in listener.events][-1] == "permission_notification"
        assert len(listener.events) == 3
        again = start_request(broker, "b")  # the late decision granted nothing
        await wait_until_open(broker)
        again.cancel()
        await asyncio.wait({again})
        assert broker.open_count == 0


async def test_the_no_client_timeout_counts_only_while_no_client_is_attached(tmp_path: Path) -> None:
    async with open_broker(tmp_path, Limits(permission_wait_s=0.05)) as (broker, database, _listener):
        broker.attached(1)
        waiting = start_request(broker)
        await wait_until_open(broker)
        bounded = start_request(broker, "b", timeout_s=0.02)
        assert "0.02 s" in (await bounded).why
        assert not waiting.done()
        broker.attached(0)
        assert "0.05 s" in (await waiting).why
        outcome = await database.read(lambda connection: permission_requests.outcome(connection, "a"))
        assert outcome == permission_requests.RequestOutcome(RequestState.EXPIRED, "no client answered within 0.05 s")


async def test_the_gate_applies_its_rules_in_order(tmp_path: Path) -> None:
    async with open_broker(tmp_path) as (broker, _database, listener):

        async def run_inline(job: Callable[[], str]) -> str:
            return job()

        def gate(policy: str = "", may_allow: bool = True, **rules: Any) -> PermissionGate:
            return PermissionGate(
                broker,
                rules=lambda: Rules(**rules),
                policy=RunPolicy(policy, 1.0),  # type: ignore[arg-type]
                may_allow=lambda: may_allow,
                workspace=tmp_path,
                in_thread=run_inline,
            )

        def access(**more: Any) -> AccessRequest:
            return AccessRequest(
                "s", "r", "c", "bash", "execute", ".", "run \udcff", {"command": "x\udcff", "n": [1, None]}, **more
            )

        await gate(skip=True).permit(access())
        await gate(allowed=frozenset({"bash:execute"})).permit(access())
        await gate("allow").permit(access())
        assert listener.events == []
        await gate("deny").permit(access(approved=True))  # a hook of the user approved the call
        assert [event.kind for event in listener.events] == ["permission_notification"]
        with pytest.raises(ToolDenied, match="allowed_tools"):
            await gate("deny").permit(access())
        broker.said(False)
        with pytest.raises(ToolDenied, match="cannot answer"):
            await gate().permit(access())
        waiting = asyncio.ensure_future(gate("allow", may_allow=False).permit(access()))
        await wait_until_open(broker)
        [request] = broker.open_permissions()
        assert (request.path, request.params) == (str(tmp_path), {"command": "x?", "n": [1, None]})
        assert await broker.decide(request.id, "permission", "allow_session", granted=True, for_session=True)
        await waiting
        await gate("deny").permit(access())  # granted to the session


def test_the_path_of_a_request_is_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, expected in (
        (".", tmp_path),
        ("", tmp_path),
        (str(tmp_path / "file"), tmp_path),
        (str(tmp_path), tmp_path),
        (str(tmp_path / "new"), tmp_path / "new"),
    ):
        assert request_path(path, tmp_path) == str(expected)


def test_answers_are_matched_to_their_batch_and_their_question() -> None:
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
