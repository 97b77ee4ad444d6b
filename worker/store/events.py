"""Read and write the event log: numbers without holes, replay from a number, pruning of the oldest."""

from sqlalchemy import Connection, bindparam, delete, func, insert, select

from protocol.events import Event
from protocol.ids import RunId, SessionId
from worker.store.schema import EVENTS, META

_APPEND = insert(EVENTS).values(
    number=bindparam("number"),
    kind=bindparam("kind"),
    key=bindparam("key"),
    session_id=bindparam("session_id"),
    run_id=bindparam("run_id"),
    data=bindparam("data"),
)
_LAST = select(func.max(EVENTS.c.number))
_FIRST = select(func.min(EVENTS.c.number))
_SINCE = select(EVENTS).where(EVENTS.c.number > bindparam("after")).order_by(EVENTS.c.number).limit(bindparam("count"))
_PRUNE = delete(EVENTS).where(EVENTS.c.number <= bindparam("number"))
# Counted from the newest backwards; the length of a value is known without reading it.
_SIZES = select(
    EVENTS.c.number,
    func.sum(func.length(EVENTS.c.data)).over(order_by=EVENTS.c.number.desc()).label("total"),
).subquery()
_TOO_MUCH = select(func.max(_SIZES.c.number)).where(_SIZES.c.total > bindparam("most"))
_LOG_ID = select(META.c.value).where(META.c.key == "log_id")


def append(connection: Connection, event: Event) -> None:
    """Store `event` under its number."""
    connection.execute(
        _APPEND,
        {
            "number": event.number,
            "kind": event.kind,
            "key": event.key,
            "session_id": event.session_id,
            "run_id": event.run_id,
            "data": event.data,
        },
    )


def last_number(connection: Connection) -> int:
    """Return the number of the newest event, 0 for none."""
    return connection.execute(_LAST).scalar() or 0


def since(connection: Connection, after: int, count: int) -> list[Event] | None:
    """Return at most `count` events after `after`, oldest first; None when some were deleted or never existed."""
    newest = last_number(connection)
    oldest = connection.execute(_FIRST).scalar() or 1
    if after > newest or after < oldest - 1:
        return None
    rows = connection.execute(_SINCE, {"after": after, "count": count})
    return [
        Event(
            kind=row.kind,
            data=row.data,
            number=row.number,
            key=row.key,
            session_id=SessionId(row.session_id),
            run_id=RunId(row.run_id),
        )
        for row in rows
    ]


def prune(connection: Connection, *, kept: int, kept_bytes: int) -> None:
    """Delete the oldest events, so that at most `kept` are left, with at most `kept_bytes` of data or a single event.

    A client that had not read them gets a `reset`.
    """
    newest = last_number(connection)
    through = max(newest - kept, connection.execute(_TOO_MUCH, {"most": kept_bytes}).scalar() or 0)
    through = min(through, newest - 1)
    if through > 0:
        connection.execute(_PRUNE, {"number": through})


def log_id(connection: Connection) -> str:
    """Return the random id of the log; a copy of the file gets another one when it is opened."""
    value: str = connection.execute(_LOG_ID).scalar_one()
    return value
