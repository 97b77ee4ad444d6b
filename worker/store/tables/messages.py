"""Read and write the table of messages. The order of a conversation is `seq`, never the clock (W-23)."""

from typing import Any

import msgspec
from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update

from protocol.api.message import Message, Part
from worker.store.schema import MESSAGES
from worker.store.tables import sessions

_C = MESSAGES.c
_INSERT = insert(MESSAGES)
_UPDATE = (
    update(MESSAGES)
    .where(_C.id == bindparam("mid"))
    .values(
        parts=bindparam("new_parts"),
        model=bindparam("new_model"),
        provider=bindparam("new_provider"),
        updated_at=bindparam("now"),
    )
)
_DELETE = delete(MESSAGES).where(_C.id == bindparam("mid"))
_ANY = select(_C.id).where(_C.session_id == bindparam("sid")).limit(1)
_GET = select(MESSAGES).where(_C.id == bindparam("mid"))
_OF_SESSION = select(MESSAGES).where(_C.session_id == bindparam("sid")).order_by(_C.seq)
_FROM = (
    select(MESSAGES)
    .where(
        _C.session_id == bindparam("sid"),
        _C.seq >= select(_C.seq).where(_C.id == bindparam("mid")).scalar_subquery(),
    )
    .order_by(_C.seq)
)
_OF_RUN = select(MESSAGES).where(_C.session_id == bindparam("sid"), _C.run_id == bindparam("rid")).order_by(_C.seq)
_USER_OF_SESSION = select(MESSAGES).where(_C.session_id == bindparam("sid"), _C.role == "user").order_by(_C.seq.desc())
_USER = select(MESSAGES).where(_C.role == "user").order_by(_C.seq.desc()).limit(bindparam("count"))

_parts = msgspec.json.Decoder(list[Part])


def create(connection: Connection, message: Message, *, run_id: str) -> None:
    """Store a new row at the end of its conversation and count it in its session."""
    connection.execute(
        _INSERT,
        {
            "id": message.id,
            "session_id": message.session_id,
            "run_id": run_id,
            "role": message.role,
            "parts": msgspec.json.encode(message.parts),
            "model": message.model,
            "provider": message.provider,
            "is_summary_message": message.is_summary_message,
            "created_at": message.created_at,
            "updated_at": message.updated_at,
        },
    )
    sessions.count_message(connection, message.session_id, message.updated_at)


def change(connection: Connection, message: Message) -> None:
    """Store the new state of a message; a row that was deleted meanwhile stays deleted."""
    connection.execute(
        _UPDATE,
        {
            "mid": message.id,
            "new_parts": msgspec.json.encode(message.parts),
            "new_model": message.model,
            "new_provider": message.provider,
            "now": message.updated_at,
        },
    )


def remove(connection: Connection, message: Message, now: int) -> None:
    """Delete a row and subtract it from the count of its session."""
    connection.execute(_DELETE, {"mid": message.id})
    sessions.count_message_less(connection, message.session_id, now)


def has_any(connection: Connection, session_id: str) -> bool:
    """Return whether the session has messages."""
    return connection.execute(_ANY, {"sid": session_id}).first() is not None


def get(connection: Connection, message_id: str) -> Message | None:
    """Return the message, or None."""
    row = connection.execute(_GET, {"mid": message_id}).one_or_none()
    return None if row is None else _message(row)


def of_session(connection: Connection, session_id: str) -> list[Message]:
    """Return the whole conversation, oldest first; empty for an unknown session."""
    return [_message(row) for row in connection.execute(_OF_SESSION, {"sid": session_id})]


def history(connection: Connection, session_id: str, summary_message_id: str) -> list[Message]:
    """Return the part of the conversation that the model gets: from its summary on, oldest first."""
    if not summary_message_id:
        return of_session(connection, session_id)
    return [_message(row) for row in connection.execute(_FROM, {"sid": session_id, "mid": summary_message_id})]


def of_run(connection: Connection, session_id: str, run_id: str) -> list[Message]:
    """Return the rows that one run wrote, oldest first."""
    return [_message(row) for row in connection.execute(_OF_RUN, {"sid": session_id, "rid": run_id})]


def user_of_session(connection: Connection, session_id: str) -> list[Message]:
    """Return the user's messages of a session, newest first."""
    return [_message(row) for row in connection.execute(_USER_OF_SESSION, {"sid": session_id})]


def user_of_workspace(connection: Connection, count: int) -> list[Message]:
    """Return at most `count` messages of the user in any session, newest first."""
    return [_message(row) for row in connection.execute(_USER, {"count": count})]


def _message(row: Row[*tuple[Any, ...]]) -> Message:
    # Unpacked, because each access by name costs as much as the rest: conversations have thousands of rows.
    _seq, row_id, session_id, _run_id, role, parts, model, provider, is_summary, created_at, updated_at = row
    return Message(
        id=row_id,
        session_id=session_id,
        role=role,
        parts=_parts.decode(parts),
        model=model,
        provider=provider,
        is_summary_message=bool(is_summary),
        created_at=created_at,
        updated_at=updated_at,
    )
