"""Store the registered workspaces in a small SQLite file: one row each, one commit for each change.

All work happens on one thread, where SQLAlchemy is imported too, so that the server answers before that is done. The
client's environment is not stored; it may contain secrets. A file that was removed or replaced while the server runs is
noticed by the next change, which writes all rows again.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from protocol.errors import Unavailable
from protocol.ids import WorkspaceId
from supervisor.workspaces.recognition import Identity

if TYPE_CHECKING:
    from sqlalchemy import Connection

T = TypeVar("T")
SCHEMA_VERSION = 2
_CREATE = """
create table registrations (
    id text primary key,
    path text not null unique,
    asked_path text not null,
    inode integer not null,
    birth_ns integer not null default 0,
    data_dir text not null,
    skip_permissions integer not null,
    debug integer not null,
    channels text not null,
    registered_at_ms integer not null
) strict
"""


_FROM_1 = (
    "alter table registrations add column birth_ns integer not null default 0",  # written by the next use
    "alter table registrations drop column device",
)


class WorkspaceTableFailed(Unavailable):
    """The file cannot be opened or written; the text has the reason."""

    default_code = "storage_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """The stored row of a workspace: its stable id, its directory, and the flags of its first creator."""

    id: WorkspaceId
    identity: Identity
    asked_path: str  # as the first creator wrote it; clients show this one
    data_dir: str
    skip_permissions: bool = False
    debug: bool = False
    channels: tuple[str, ...] = ()
    registered_at_ms: int = 0


class WorkspaceTable:
    """The file. Inode numbers above 2**63 are stored as negative numbers."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="workspace_table")
        self._connection: Connection | None = None
        self._is_open = False
        self._file: tuple[int, int] | None = None  # device and inode of the open file
        self._rows: dict[WorkspaceId, Registration] = {}
        self._text: Callable[[str], Any] = str

    async def open(self) -> list[Registration]:
        """Open or create the file and return all rows. Raises WorkspaceTableFailed."""
        return await self.in_thread(self._open)

    async def put(self, registration: Registration, *, replaces: WorkspaceId | None = None) -> None:
        """Store a workspace, and delete the row of `replaces`; both are on disk when this returns.

        A row with the same id is replaced. Raises WorkspaceTableFailed, with nothing changed.
        """
        await self.in_thread(lambda: self._put(registration, replaces))

    async def remove(self, workspace_id: WorkspaceId) -> None:
        """Delete the row of a workspace. Raises WorkspaceTableFailed."""
        await self.in_thread(lambda: self._remove(workspace_id))

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run `work`, which may block, on the thread of this table."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def close(self) -> None:
        """Close the file and end the thread."""
        self._is_open = False
        await self.in_thread(self._close)
        self._thread.shutdown(wait=True)

    def _open(self) -> list[Registration]:
        from sqlalchemy import create_engine, event, text
        from sqlalchemy.exc import SQLAlchemyError
        from sqlalchemy.pool import NullPool

        self._text = text
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            engine = create_engine(f"sqlite+pysqlite:///{self._path}", poolclass=NullPool)

            @event.listens_for(engine, "connect")
            def prepare(connection: Any, _record: object) -> None:
                connection.isolation_level = None  # the `begin` event below starts transactions
                for pragma in ("busy_timeout = 5000", "journal_mode = WAL", "synchronous = FULL"):
                    connection.execute(f"pragma {pragma}")

            @event.listens_for(engine, "begin")
            def begin(connection: "Connection") -> None:
                connection.exec_driver_sql("begin immediate")

            self._connection = engine.connect()
            with self._connection.begin():
                self._bring_up_to_date(self._connection)
                rows = self._connection.exec_driver_sql("select * from registrations").mappings().all()
            self._file = _identity_of(self._path)
            found = [_from_row(dict(row)) for row in rows]
        except (SQLAlchemyError, OSError) as error:
            reason = getattr(error, "orig", None) or error
            raise WorkspaceTableFailed(
                f"cannot open {self._path}: {reason}; move the file away to start afresh"
            ) from error
        self._rows = {registration.id: registration for registration in found}
        self._is_open = True
        return found

    def _bring_up_to_date(self, connection: "Connection") -> None:
        version = connection.exec_driver_sql("pragma user_version").scalar_one()
        if version > SCHEMA_VERSION:
            raise WorkspaceTableFailed(f"cannot read {self._path}: a newer Bulkhead wrote it; use that one")
        if version == SCHEMA_VERSION:
            return
        for statement in (_CREATE,) if version == 0 else _FROM_1:
            connection.exec_driver_sql(statement)
        connection.exec_driver_sql(f"pragma user_version = {SCHEMA_VERSION}")

    def _put(self, registration: Registration, replaces: WorkspaceId | None) -> None:
        statements = [(_DELETE, {"id": replaces})] if replaces is not None else []
        self._write([*statements, (_PUT, _to_row(registration))])
        if replaces is not None:
            self._rows.pop(replaces, None)
        self._rows[registration.id] = registration

    def _remove(self, workspace_id: WorkspaceId) -> None:
        self._write([(_DELETE, {"id": workspace_id})])
        self._rows.pop(workspace_id, None)

    def _write(self, statements: list[tuple[str, dict[str, Any]]]) -> None:
        import sqlite3

        from sqlalchemy.exc import SQLAlchemyError

        if not self._is_open:
            raise WorkspaceTableFailed("cannot write the list of workspaces: it is closed")
        try:
            if self._connection is None or _identity_of(self._path) != self._file:
                statements = [*self._start_again(), *statements]
            assert self._connection is not None
            with self._connection.begin():
                for statement, values in statements:
                    self._connection.execute(self._text(statement), values)
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            raise WorkspaceTableFailed(f"cannot write {self._path}: {error}") from error

    def _start_again(self) -> list[tuple[str, dict[str, Any]]]:
        """Open the file that is at the path now, or a new one; return the statements that write all rows to it."""
        rows = dict(self._rows)
        if self._connection is not None:
            # Into the old file; SQLite would apply what stays in the log to the new one.
            raw = self._connection.connection.driver_connection  # SQLAlchemy would begin a transaction first
            assert raw is not None
            raw.execute("pragma wal_checkpoint(truncate)")
        self._close()
        self._file = None
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._path.exists():
            for suffix in ("-wal", "-shm"):  # of the removed file: SQLite would apply them to the new one
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{self._path}{suffix}")
        try:
            others = {one.identity.path: one.id for one in self._open()}
        finally:
            self._rows = rows
        clashes = [others[one.identity.path] for one in rows.values() if one.identity.path in others]
        deletes: list[tuple[str, dict[str, Any]]] = [(_DELETE, {"id": one}) for one in clashes]
        return [*deletes, *((_PUT, _to_row(one)) for one in rows.values())]

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _identity_of(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


_COLUMNS = (
    *("id", "path", "asked_path", "inode", "birth_ns", "data_dir"),
    *("skip_permissions", "debug", "channels", "registered_at_ms"),
)
_DELETE = "delete from registrations where id = :id"
_PUT = (
    f"insert into registrations ({', '.join(_COLUMNS)}) values ({', '.join(':' + name for name in _COLUMNS)}) "
    f"on conflict (id) do update set {', '.join(f'{name} = excluded.{name}' for name in _COLUMNS[1:])}"
)


def _to_row(registration: Registration) -> dict[str, Any]:
    return {
        "id": registration.id,
        "path": registration.identity.path,
        "asked_path": registration.asked_path,
        "inode": _signed(registration.identity.inode),
        "birth_ns": registration.identity.birth_ns,
        "data_dir": registration.data_dir,
        "skip_permissions": int(registration.skip_permissions),
        "debug": int(registration.debug),
        "channels": json.dumps(registration.channels),
        "registered_at_ms": registration.registered_at_ms,
    }


def _from_row(row: dict[str, Any]) -> Registration:
    return Registration(
        id=WorkspaceId(row["id"]),
        identity=Identity(row["path"], row["inode"] % 2**64, row["birth_ns"]),
        asked_path=row["asked_path"],
        data_dir=row["data_dir"],
        skip_permissions=bool(row["skip_permissions"]),
        debug=bool(row["debug"]),
        channels=tuple(json.loads(row["channels"])),
        registered_at_ms=row["registered_at_ms"],
    )


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number
