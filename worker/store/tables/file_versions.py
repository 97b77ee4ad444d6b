"""Read and write the versions of files that a session changed: version 0 is the content before its first change.

Versions are counted per session and path, so that no session hides the changes of another (W-64). Content that is too
long is not kept, and of a file that changes often only the first and the newest versions are kept.
"""

import zlib

from sqlalchemy import Connection, Row, bindparam, delete, func, insert, select

from protocol.api.file import FileVersion
from protocol.base.clock import Clock
from protocol.ids import RandomSource, new_uuid
from protocol.limits import Limits
from worker.store.database import Database, Transaction
from worker.store.schema import FILES
from worker.store.tables import sessions

_C = FILES.c
_INSERT = insert(FILES)
_LAST = (
    select(FILES)
    .where(_C.session_id == bindparam("sid"), _C.path == bindparam("file"))
    .order_by(_C.version.desc())
    .limit(1)
)
_OF_SESSION = select(FILES).where(_C.session_id == bindparam("sid")).order_by(_C.version, _C.path)
_COUNT = select(func.count()).where(_C.session_id == bindparam("sid"), _C.path == bindparam("file"))
_THIN = delete(FILES).where(
    _C.session_id == bindparam("sid"), _C.path == bindparam("file"), _C.version > 0, _C.version <= bindparam("through")
)


def of_session(connection: Connection, session_id: str) -> list[FileVersion]:
    """Return all versions that are kept for a session, by version."""
    return [_shape(row) for row in connection.execute(_OF_SESSION, {"sid": session_id})]


def last(connection: Connection, session_id: str, path: str) -> FileVersion | None:
    """Return the newest version of a file in a session, None for none."""
    row = connection.execute(_LAST, {"sid": session_id, "file": path}).one_or_none()
    return None if row is None else _shape(row)


def add(connection: Connection, version: FileVersion) -> None:
    """Store one version."""
    connection.execute(
        _INSERT,
        {
            "id": version.id,
            "session_id": version.session_id,
            "path": version.path,
            "content": zlib.compress(version.content.encode("utf-8", "replace")),
            "version": version.version,
            "created_at": version.created_at,
        },
    )


def thin(connection: Connection, session_id: str, path: str, newest: int, kept: int) -> None:
    """Delete the versions between the first and the newest `kept`."""
    count = connection.execute(_COUNT, {"sid": session_id, "file": path}).scalar_one()
    if count > kept + 1:
        connection.execute(_THIN, {"sid": session_id, "file": path, "through": newest - kept})


class StoredHistory:
    """Record the changes that tools make; implements `FileHistory`."""

    def __init__(self, database: Database, limits: Limits, clock: Clock, random: RandomSource) -> None:
        self._database = database
        self._limits = limits
        self._clock = clock
        self._random = random

    async def record(self, session_id: str, path: str, old: str | None, new: str) -> None:
        """Record a change of a file. Content that another program wrote meanwhile becomes a version too."""
        most = self._limits.history_file_max_bytes
        if len(new.encode("utf-8", "replace")) > most or len((old or "").encode("utf-8", "replace")) > most:
            return

        def job(transaction: Transaction) -> None:
            connection = transaction.connection
            if not sessions.exists(connection, session_id):
                return
            newest = last(connection, session_id, path)
            number = -1 if newest is None else newest.version
            if newest is None or (old is not None and newest.content != old):
                number += 1
                self._add(transaction, session_id, path, number, old or "")
            number += 1
            self._add(transaction, session_id, path, number, new)
            thin(connection, session_id, path, number, self._limits.history_versions_kept)

        await self._database.write(job)

    def _add(self, transaction: Transaction, session_id: str, path: str, number: int, content: str) -> None:
        now = int(self._clock.wall())
        version = FileVersion(
            id=new_uuid(self._random),
            session_id=session_id,
            path=path,
            content=content,
            version=number,
            created_at=now,
            updated_at=now,
        )
        add(transaction.connection, version)
        transaction.emit(version, session_id=session_id, key=path)


def _shape(row: Row[tuple[object, ...]]) -> FileVersion:
    return FileVersion(
        id=row.id,
        session_id=row.session_id,
        path=row.path,
        content=zlib.decompress(row.content).decode(),
        version=row.version,
        created_at=row.created_at,
        updated_at=row.created_at,
    )
