"""Read and write the table of runs: every accepted prompt, its state and its outcome."""

import msgspec
from sqlalchemy import Connection, Row, bindparam, func, insert, select, update

from protocol.api.agent import RunOutcome
from protocol.api.message import Attachment
from worker.store.rows import StoredRun
from worker.store.schema import RUNS

_C = RUNS.c
_INSERT = insert(RUNS)
_GET = select(RUNS).where(_C.id == bindparam("rid"))
_LIST = select(RUNS).order_by(_C.accept_seq.desc()).limit(bindparam("count"))
_LIST_SESSION = _LIST.where(_C.session_id == bindparam("sid"))
_OPEN = select(RUNS).where(_C.state != "ended").order_by(_C.accept_seq)
_LAST = select(func.max(_C.accept_seq))
_OPEN_ONE = update(RUNS).where(_C.id == bindparam("rid"), _C.state != "ended")
_COUNT_DEATH = _OPEN_ONE.values(deaths=_C.deaths + 1)
_ACTIVE = _OPEN_ONE.values(state="active", started_at_ms=bindparam("now_ms"), folded_into=bindparam("into"))
_SET_MESSAGE = _OPEN_ONE.values(message_id=bindparam("mid"))
_END = _OPEN_ONE.values(
    state="ended",
    outcome=bindparam("new_outcome"),
    cause=bindparam("new_cause"),
    message_id=bindparam("mid"),
    folded_into=bindparam("into"),
    ended_at_ms=bindparam("now_ms"),
)


def accept(connection: Connection, run: StoredRun) -> None:
    """Store a new run. Raises IntegrityError when its id is taken."""
    connection.execute(
        _INSERT,
        {
            "id": run.id,
            "session_id": run.session_id,
            "accept_seq": run.accept_seq,
            "state": run.state,
            "prompt": run.prompt,
            "attachments": msgspec.json.encode(run.attachments),
            "keyed": run.has_own_turn,
            "kind": run.kind,
            "deaths": run.deaths,
            "accepted_at_ms": run.accepted_at_ms,
            "permission_policy": run.permission_policy,
            "permission_wait_s": run.permission_wait_s,
        },
    )


def get(connection: Connection, run_id: str) -> StoredRun | None:
    """Return the run, or None."""
    row = connection.execute(_GET, {"rid": run_id}).one_or_none()
    return None if row is None else _run(row)


def newest(connection: Connection, count: int, session_id: str = "") -> list[StoredRun]:
    """Return at most `count` runs, the newest first; of one session if it is given."""
    if session_id:
        rows = connection.execute(_LIST_SESSION, {"count": count, "sid": session_id})
    else:
        rows = connection.execute(_LIST, {"count": count})
    return [_run(row) for row in rows]


def open_runs(connection: Connection) -> list[StoredRun]:
    """Return every run that has not ended, in the order of acceptance."""
    return [_run(row) for row in connection.execute(_OPEN)]


def last_accept_seq(connection: Connection) -> int:
    """Return the highest accept sequence ever given out, 0 for none."""
    return connection.execute(_LAST).scalar() or 0


def count_death(connection: Connection, run_id: str) -> None:
    """Count a possible death before the run starts, so that it is known if the run ends its worker."""
    connection.execute(_COUNT_DEATH, {"rid": run_id})


def start(connection: Connection, run_id: str, now_ms: int, folded_into: str = "") -> bool:
    """Mark the run as active: it is never executed again. Return False when it has ended already."""
    return connection.execute(_ACTIVE, {"rid": run_id, "now_ms": now_ms, "into": folded_into}).rowcount > 0


def set_message(connection: Connection, run_id: str, message_id: str) -> None:
    """Record the run's last assistant row."""
    connection.execute(_SET_MESSAGE, {"rid": run_id, "mid": message_id})


def end(
    connection: Connection,
    run_id: str,
    *,
    outcome: RunOutcome,
    cause: str,
    message_id: str,
    now_ms: int,
    folded_into: str = "",
) -> bool:
    """End the run. Return False, and change nothing, when it has ended already (P2)."""
    values = {
        "rid": run_id,
        "new_outcome": outcome,
        "new_cause": cause,
        "mid": message_id,
        "into": folded_into,
        "now_ms": now_ms,
    }
    return connection.execute(_END, values).rowcount > 0


def _run(row: Row[tuple[object, ...]]) -> StoredRun:
    return StoredRun(
        id=row.id,
        session_id=row.session_id,
        accept_seq=row.accept_seq,
        prompt=row.prompt,
        attachments=msgspec.json.decode(row.attachments, type=list[Attachment]),
        has_own_turn=bool(row.keyed),
        kind=row.kind,
        state=row.state,
        outcome=row.outcome,
        cause=row.cause,
        message_id=row.message_id,
        folded_into=row.folded_into,
        deaths=row.deaths,
        accepted_at_ms=row.accepted_at_ms,
        started_at_ms=row.started_at_ms,
        ended_at_ms=row.ended_at_ms,
        permission_policy=row.permission_policy,
        permission_wait_s=row.permission_wait_s,
    )
