"""Store the registered workspaces in a small SQLite file: one row each, one commit for each change.

All work happens on one thread, where SQLAlchemy is imported too, so that the server answers before that is done. The
client's environment is not stored; it may contain secrets.
"""

import asyncio
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from protocol.errors import Unavailable
from protocol.ids import WorkspaceId
from supervisor.workspaces.identity import Identity

if TYPE_CHECKING:
    from sqlalchemy import Connection

T = TypeVar("T")
SCHEMA_VERSION = 1
_CREATE = """
create table registrations (
    id text primary key,
    path text not null unique,
    asked_path text not null,
    device integer not null,
    inode integer not null,
    data_dir text not null,
    skip_permissions integer not null,
    debug integer not null,
    channels text not null,
    registered_at_ms integer not null
) strict
"""


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
        self._text: Callable[[str], Any] = str

    async def open(self) -> list[Registration]:
        """Open or create the file and return all rows. Raises WorkspaceTableFailed."""
        return await self.in_thread(self._open)

    async def add(self, registration: Registration) -> None:
        """Store a new workspace; it is on disk when this returns. Raises WorkspaceTableFailed."""
        await self.in_thread(lambda: self._write(_INSERT, _to_row(registration)))

    async def remove(self, workspace_id: WorkspaceId) -> None:
        """Delete the row of a workspace. Raises WorkspaceTableFailed."""
        await self.in_thread(lambda: self._write("delete from registrations where id = :id", {"id": workspace_id}))

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run `work`, which may block, on the thread of this table."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def close(self) -> None:
        """Close the file and end the thread."""
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
                version = self._connection.exec_driver_sql("pragma user_version").scalar_one()
                if version > SCHEMA_VERSION:
                    raise WorkspaceTableFailed(f"cannot read {self._path}: a newer Bulkhead wrote it; use that one")
                if version == 0:
                    self._connection.exec_driver_sql(_CREATE)
                    self._connection.exec_driver_sql(f"pragma user_version = {SCHEMA_VERSION}")
                rows = self._connection.exec_driver_sql("select * from registrations").mappings().all()
            return [_from_row(dict(row)) for row in rows]
        except (SQLAlchemyError, OSError) as error:
            reason = getattr(error, "orig", None) or error
            raise WorkspaceTableFailed(
                f"cannot open {self._path}: {reason}; move the file away to start afresh"
            ) from error

    def _write(self, statement: str, values: dict[str, Any]) -> None:
        from sqlalchemy.exc import SQLAlchemyError

        if self._connection is None:
            raise WorkspaceTableFailed("cannot write the list of workspaces: it is closed")
        try:
            with self._connection.begin():
                self._connection.execute(self._text(statement), values)
        except SQLAlchemyError as error:
            raise WorkspaceTableFailed(f"cannot write {self._path}: {error}") from error

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


_COLUMNS = (
    *("id", "path", "asked_path", "device", "inode", "data_dir"),
    *("skip_permissions", "debug", "channels", "registered_at_ms"),
)
_INSERT = f"insert into registrations ({', '.join(_COLUMNS)}) values ({', '.join(':' + name for name in _COLUMNS)})"


def _to_row(registration: Registration) -> dict[str, Any]:
    return {
        "id": registration.id,
        "path": registration.identity.path,
        "asked_path": registration.asked_path,
        "device": _signed(registration.identity.device),
        "inode": _signed(registration.identity.inode),
        "data_dir": registration.data_dir,
        "skip_permissions": int(registration.skip_permissions),
        "debug": int(registration.debug),
        "channels": json.dumps(registration.channels),
        "registered_at_ms": registration.registered_at_ms,
    }


def _from_row(row: dict[str, Any]) -> Registration:
    return Registration(
        id=WorkspaceId(row["id"]),
        identity=Identity(row["path"], row["device"] % 2**64, row["inode"] % 2**64),
        asked_path=row["asked_path"],
        data_dir=row["data_dir"],
        skip_permissions=bool(row["skip_permissions"]),
        debug=bool(row["debug"]),
        channels=tuple(json.loads(row["channels"])),
        registered_at_ms=row["registered_at_ms"],
    )


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number
