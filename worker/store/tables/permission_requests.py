"""Read and write the tables of requests and grants: each request with its outcome, and what a session may do."""

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
    _G.path == bindparam("file"),
)
_OUTCOME = select(_C.state, _C.resolution).where(_C.id == bindparam("ask"))


@dataclass(frozen=True)
class RequestOutcome:
    """The stored outcome of a request: its state, and a word or sentence on why."""

    state: RequestState
    resolution: str


def add(
    connection: Connection,
    request: StoredRequest,
    *,
    body: msgspec.Struct | None,
    number: int,
    now_ms: int,
    refused: str = "",
) -> None:
    """Store an open request, or with `refused` one that was denied at once for that reason."""
    connection.execute(
        _ADD,
        {
            "id": request.id,
            "kind": request.kind,
            "session_id": request.session_id,
            "run_id": request.run_id,
            "tool_call_id": request.tool_call_id,
            "tool": request.tool,
            "action": request.action,
            "path": request.path,
            "body": msgspec.json.encode(body) if body is not None else b"",
            "number": number,
            "state": RequestState.RESOLVED.value if refused else RequestState.OPEN.value,
            "resolution": refused,
            "asked_at_ms": now_ms,
            "ended_at_ms": now_ms if refused else 0,
        },
    )


def outcome(connection: Connection, request_id: str) -> RequestOutcome | None:
    """Return the outcome of a request; None when there was none with this id."""
    row = connection.execute(_OUTCOME, {"ask": request_id}).one_or_none()
    return None if row is None else RequestOutcome(RequestState(row.state), row.resolution)


def end(connection: Connection, request_id: str, state: RequestState, resolution: str, now_ms: int) -> bool:
    """End an open request. Return False, and change nothing, when it is not open."""
    values = {"ask": request_id, "new_state": state.value, "why": resolution, "now_ms": now_ms}
    return connection.execute(_END, values).rowcount > 0


def end_of_run(transaction: Transaction, run_id: str, state: RequestState, resolution: str, now_ms: int) -> None:
    """End the open requests of a run that ends, and notify clients before the event of the run's end (W-47)."""
    for row in transaction.connection.execute(_OPEN_OF_RUN, {"rid": run_id}).all():
        end(transaction.connection, row.id, state, resolution, now_ms)
        notify_end(transaction, row.id, row.kind, row.session_id, run_id, row.tool_call_id, granted=False)


def notify_end(
    transaction: Transaction,
    request_id: str,
    kind: str,
    session_id: str,
    run_id: str,
    tool_call_id: str,
    *,
    granted: bool,
) -> None:
    """Emit the one notification that closes a request in every client."""
    if kind == "question":
        notification = QuestionNotification(batch_id=request_id)
        transaction.emit(notification, session_id=session_id, run_id=run_id, key=request_id)
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
    """Emit the state of a tool call's permission; with neither `granted` nor `denied` it waits."""
    notification = PermissionNotification(tool_call_id=tool_call_id, granted=granted, denied=denied)
    transaction.emit(notification, session_id=session_id, run_id=run_id, key=tool_call_id)


def grant(connection: Connection, request: StoredRequest, now_ms: int) -> None:
    """Let the session do from now on what this request is about, as it was stored (W-48)."""
    connection.execute(
        _GRANT,
        {
            "session_id": request.session_id,
            "tool": request.tool,
            "action": request.action,
            "path": request.path,
            "granted_at_ms": now_ms,
        },
    )


def is_granted(connection: Connection, request: StoredRequest) -> bool:
    """Return whether exactly this was granted to the session before."""
    values = {"sid": request.session_id, "name": request.tool, "what": request.action, "file": request.path}
    return connection.execute(_IS_GRANTED, values).one_or_none() is not None
