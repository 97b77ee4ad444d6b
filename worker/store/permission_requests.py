"""The statements of asks and grants: what was asked, what became of it, and what sessions may do without asking."""

from dataclasses import dataclass

import msgspec
from sqlalchemy import Connection, bindparam, select, update
from sqlalchemy.dialects.sqlite import insert

from protocol.api.permission import PermissionNotification, QuestionNotification
from worker.store.database import Transaction
from worker.store.rows import RequestState, StoredRequest
from worker.store.schema import ASKS, GRANTS

_C, _G = ASKS.c, GRANTS.c
_ADD = insert(ASKS)
_END = (
    update(ASKS)
    .where(_C.id == bindparam("ask"), _C.state == "open")
    .values(
        state=bindparam("new_state"),
        resolution=bindparam("why"),
        ended_at_ms=bindparam("now_ms"),
        body=b"",
    )
)
_OPEN_OF_RUN = (
    select(_C.id, _C.kind, _C.session_id, _C.tool_call_id)
    .where(_C.run_id == bindparam("rid"), _C.state == "open")
    .order_by(_C.number)
)
_GRANT = insert(GRANTS).on_conflict_do_nothing()
_IS_GRANTED = select(_G.granted_at_ms).where(
    _G.session_id == bindparam("sid"),
    _G.tool == bindparam("name"),
    _G.action == bindparam("what"),
    _G.path == bindparam("place"),
)
_OUTCOME = select(_C.state, _C.resolution).where(_C.id == bindparam("ask"))


@dataclass(frozen=True)
class RequestOutcome:
    """What became of a request: its state, and a word or sentence on why."""

    state: RequestState
    resolution: str


def add(
    connection: Connection,
    asked: StoredRequest,
    *,
    body: msgspec.Struct | None,
    number: int,
    now_ms: int,
    refused: str = "",
) -> None:
    """Store a request, open, or with `refused` as one that was denied at once for that reason."""
    connection.execute(
        _ADD,
        {
            "id": asked.id,
            "kind": asked.kind,
            "session_id": asked.session_id,
            "run_id": asked.run_id,
            "tool_call_id": asked.tool_call_id,
            "tool": asked.tool,
            "action": asked.action,
            "path": asked.path,
            "body": msgspec.json.encode(body) if body is not None else b"",
            "number": number,
            "state": RequestState.RESOLVED.value if refused else RequestState.OPEN.value,
            "resolution": refused,
            "asked_at_ms": now_ms,
            "ended_at_ms": now_ms if refused else 0,
        },
    )


def outcome(connection: Connection, ask_id: str) -> RequestOutcome | None:
    """What became of a request; None when there was none with this id."""
    row = connection.execute(_OUTCOME, {"ask": ask_id}).one_or_none()
    return None if row is None else RequestOutcome(RequestState(row.state), row.resolution)


def end(connection: Connection, ask_id: str, state: RequestState, resolution: str, now_ms: int) -> bool:
    """End an open request; False when it is not open, and then nothing is changed."""
    values = {"ask": ask_id, "new_state": state.value, "why": resolution, "now_ms": now_ms}
    return connection.execute(_END, values).rowcount > 0


def end_of_run(transaction: Transaction, run_id: str, state: RequestState, resolution: str, now_ms: int) -> None:
    """The run ends: so does what it still asks, and clients are told, before they hear of the run's end (W-47)."""
    for row in transaction.connection.execute(_OPEN_OF_RUN, {"rid": run_id}).all():
        end(transaction.connection, row.id, state, resolution, now_ms)
        tell_end(transaction, row.id, row.kind, row.session_id, run_id, row.tool_call_id, granted=False)


def tell_end(
    transaction: Transaction,
    ask_id: str,
    kind: str,
    session_id: str,
    run_id: str,
    tool_call_id: str,
    *,
    granted: bool,
) -> None:
    """The one notification that closes a request in every client."""
    if kind == "question":
        told = QuestionNotification(batch_id=ask_id)
        transaction.emit(told, session_id=session_id, run_id=run_id, key=ask_id)
    else:
        notify(transaction, session_id, run_id, tool_call_id, granted=granted, denied=not granted)


def notify(
    transaction: Transaction,
    session_id: str,
    run_id: str,
    tool_call_id: str,
    *,
    granted: bool = False,
    denied: bool = False,
) -> None:
    """How it stands with the permission of a tool call; with neither it waits."""
    told = PermissionNotification(tool_call_id=tool_call_id, granted=granted, denied=denied)
    transaction.emit(told, session_id=session_id, run_id=run_id, key=tool_call_id)


def grant(connection: Connection, asked: StoredRequest, now_ms: int) -> None:
    """The session may do this from now on, as it was asked and stored (W-48)."""
    connection.execute(
        _GRANT,
        {
            "session_id": asked.session_id,
            "tool": asked.tool,
            "action": asked.action,
            "path": asked.path,
            "granted_at_ms": now_ms,
        },
    )


def is_granted(connection: Connection, asked: StoredRequest) -> bool:
    """Was exactly this granted to the session before?"""
    values = {"sid": asked.session_id, "name": asked.tool, "what": asked.action, "place": asked.path}
    return connection.execute(_IS_GRANTED, values).one_or_none() is not None
