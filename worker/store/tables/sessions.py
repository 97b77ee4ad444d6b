"""Read and write the table of sessions. Changes are column by column, so that none overwrites another (W-33)."""

import msgspec
from sqlalchemy import Connection, Row, bindparam, delete, func, insert, literal_column, select, update

from protocol.api.session import Session, Todo
from worker.store.schema import READ_FILES, SESSIONS

UNTITLED = ("", "New Session", "non-interactive")
"""Titles that clients give to a session before its first prompt."""

_C = SESSIONS.c
_INSERT = insert(SESSIONS)
_GET = select(SESSIONS).where(_C.id == bindparam("sid"))
_EXISTS = select(_C.id).where(_C.id == bindparam("sid"))
_TOP = (
    select(SESSIONS)
    .where(_C.parent_session_id == "")
    # Times are whole seconds: with the same second, the newer session comes first.
    .order_by(_C.updated_at.desc(), _C.created_at.desc(), literal_column("rowid").desc())
)
_CHILDREN = select(_C.id).where(_C.parent_session_id == bindparam("sid"))
_UPDATE = update(SESSIONS).where(_C.id == bindparam("sid"))
_PUT = _UPDATE.values(
    title=func.coalesce(bindparam("new_title"), _C.title),
    cost=func.coalesce(bindparam("new_cost"), _C.cost),
    todos=func.coalesce(bindparam("new_todos"), _C.todos),
    updated_at=bindparam("now"),
)
_TITLE = _UPDATE.where(_C.title.in_(UNTITLED)).values(title=bindparam("new_title"))
_RENAME = _UPDATE.where(_C.title == bindparam("old_title")).values(title=bindparam("new_title"))
_ACCOUNT = _UPDATE.values(
    prompt_tokens=func.coalesce(bindparam("input"), _C.prompt_tokens),
    completion_tokens=func.coalesce(bindparam("output"), _C.completion_tokens),
    cost=_C.cost + bindparam("more_cost"),
    updated_at=bindparam("now"),
)
_SUMMARIZED = _UPDATE.values(summary_message_id=bindparam("mid"), prompt_tokens=0, updated_at=bindparam("now"))
_COUNT = _UPDATE.values(message_count=_C.message_count + 1, updated_at=bindparam("now"))
_COUNT_LESS = _UPDATE.values(message_count=_C.message_count - 1, updated_at=bindparam("now"))
_DELETE = delete(SESSIONS).where(_C.id == bindparam("sid"))
_DELETE_READS = delete(READ_FILES).where(READ_FILES.c.session_id == bindparam("sid"))


def create(connection: Connection, session: Session) -> None:
    """Store a new session."""
    connection.execute(
        _INSERT,
        {
            "id": session.id,
            "parent_session_id": session.parent_session_id,
            "title": session.title,
            "created_at": session.created_at,
            "updated_at": session.updated_at,
        },
    )


def get(connection: Connection, session_id: str) -> Session | None:
    """Return the session, or None."""
    row = connection.execute(_GET, {"sid": session_id}).one_or_none()
    return None if row is None else _session(row)


def exists(connection: Connection, session_id: str) -> bool:
    """Return whether there is such a session."""
    return connection.execute(_EXISTS, {"sid": session_id}).first() is not None


def top_level(connection: Connection) -> list[Session]:
    """Return the sessions without a parent, the last changed first."""
    return [_session(row) for row in connection.execute(_TOP)]


def family(connection: Connection, session_id: str) -> list[str]:
    """Return the ids of the session's descendants and then its own, children before their parents."""
    ids: list[str] = []
    for (child,) in connection.execute(_CHILDREN, {"sid": session_id}).all():
        ids += family(connection, child)
    return [*ids, session_id]


def put(
    connection: Connection,
    session_id: str,
    *,
    title: str | None,
    cost: float | None,
    todos: list[Todo] | None,
    now: int,
) -> bool:
    """Change the values that are not None. Return False when there is no such session."""
    stored = None if todos is None else msgspec.json.encode(todos)
    values = {"sid": session_id, "new_title": title, "new_cost": cost, "new_todos": stored, "now": now}
    return connection.execute(_PUT, values).rowcount > 0


def title_if_untitled(connection: Connection, session_id: str, title: str) -> bool:
    """Give a title to a session that has none yet (W-34). Return whether it was changed."""
    return connection.execute(_TITLE, {"sid": session_id, "new_title": title}).rowcount > 0


def rename(connection: Connection, session_id: str, old: str, new: str) -> bool:
    """Replace the title `old`; another title stays. Return whether it was changed."""
    values = {"sid": session_id, "old_title": old, "new_title": new}
    return connection.execute(_RENAME, values).rowcount > 0


def account(
    connection: Connection, session_id: str, *, input_tokens: int, output_tokens: int, cost: float, now: int
) -> None:
    """Record an attempt: its token counts replace the old ones (a zero keeps them), its cost is added."""
    values = {
        "sid": session_id,
        "input": input_tokens or None,
        "output": output_tokens or None,
        "more_cost": cost,
        "now": now,
    }
    connection.execute(_ACCOUNT, values)


def count_message(connection: Connection, session_id: str, now: int) -> None:
    """Add one to the session's count of messages."""
    connection.execute(_COUNT, {"sid": session_id, "now": now})


def count_message_less(connection: Connection, session_id: str, now: int) -> None:
    """Subtract one from the session's count of messages."""
    connection.execute(_COUNT_LESS, {"sid": session_id, "now": now})


def summarized(connection: Connection, session_id: str, message_id: str, now: int) -> None:
    """Let the part of the conversation that the model gets begin with this message."""
    connection.execute(_SUMMARIZED, {"sid": session_id, "mid": message_id, "now": now})


def remove(connection: Connection, session_id: str) -> None:
    """Delete the session; its messages go with it."""
    connection.execute(_DELETE_READS, {"sid": session_id})
    connection.execute(_DELETE, {"sid": session_id})


def _session(row: Row[tuple[object, ...]]) -> Session:
    return Session(
        id=row.id,
        parent_session_id=row.parent_session_id,
        title=row.title,
        message_count=row.message_count,
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens,
        summary_message_id=row.summary_message_id,
        cost=row.cost,
        todos=msgspec.json.decode(row.todos, type=list[Todo]),
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
