"""Read and write which files a session has read, by content hash, because file times are too coarse (W-65)."""

from sqlalchemy import Connection, bindparam, select
from sqlalchemy.dialects.sqlite import insert

from protocol.base.clock import Clock
from worker.store.database import Database, Transaction
from worker.store.schema import READ_FILES

_C = READ_FILES.c
_NEW = insert(READ_FILES).values(
    session_id=bindparam("sid"), path=bindparam("file"), sha256=bindparam("hash"), read_at_ms=bindparam("now_ms")
)
_RECORD = _NEW.on_conflict_do_update(
    index_elements=[_C.session_id, _C.path],
    set_={"sha256": _NEW.excluded.sha256, "read_at_ms": _NEW.excluded.read_at_ms},
)
_LAST = select(_C.sha256, _C.read_at_ms).where(_C.session_id == bindparam("sid"), _C.path == bindparam("file"))
_LIST = select(_C.path).where(_C.session_id == bindparam("sid")).order_by(_C.read_at_ms.desc(), _C.path)


def record(connection: Connection, session_id: str, path: str, sha256: str, now_ms: int) -> None:
    """Record that the session has seen this content of the file at `path`."""
    connection.execute(_RECORD, {"sid": session_id, "file": path, "hash": sha256, "now_ms": now_ms})


def last(connection: Connection, session_id: str, path: str) -> tuple[str, int] | None:
    """Return hash and time (Unix milliseconds) of the last read, or None."""
    row = connection.execute(_LAST, {"sid": session_id, "file": path}).one_or_none()
    return None if row is None else (row.sha256, row.read_at_ms)


def paths(connection: Connection, session_id: str) -> list[str]:
    """Return the paths that the session has read, most recently read first."""
    return [row.path for row in connection.execute(_LIST, {"sid": session_id})]


class StoredFileLedger:
    """Keep what a session has read; tools check it before they change a file."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def last_read(self, session_id: str, path: str) -> str | None:
        """Return the content hash that the session has seen last, or None."""
        read = await self._database.read(lambda connection: last(connection, session_id, path))
        return None if read is None else read[0]

    async def record_read(self, session_id: str, path: str, sha256: str) -> None:
        """Record that the session has now seen this content."""
        now_ms = int(self._clock.wall() * 1000)

        def job(transaction: Transaction) -> None:
            record(transaction.connection, session_id, path, sha256, now_ms)

        await self._database.write(job)
