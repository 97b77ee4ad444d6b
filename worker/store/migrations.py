"""Migrate a workspace's file to the schema of this code: ordered steps by `PRAGMA user_version`, in one transaction.

A new file gets the whole schema; a file of older code gets the steps that it lacks. Both have the same result.
"""

import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path

from protocol.base.file_identity import file_identity
from protocol.base.logs import fields
from protocol.ids import RandomSource
from worker.store.database_file import StorageUnusable
from worker.store.disk_reserve import RESERVE_ROW_BYTES, RESERVE_ROWS
from worker.store.error_classes import is_corrupt
from worker.store.schema import (
    ASKS,
    ASKS_OPEN,
    ASKS_SESSION,
    DDL,
    FILES,
    GRANTS,
    SCHEMA_VERSION,
    index_ddl,
    table_ddl,
)


class SchemaNewer(Exception):
    """The file was written by newer code. It is left untouched (EXIT_SCHEMA)."""


def _create(connection: sqlite3.Connection, random: RandomSource, identity: str) -> None:
    for statement in DDL:
        connection.execute(statement)
    values = {"log_id": _new_log_id(random), "file": identity}
    connection.executemany("INSERT INTO meta (key, value) VALUES (?, ?)", values.items())
    connection.executemany(
        "INSERT INTO reserve (id, space) VALUES (?, zeroblob(?))",
        [(number, RESERVE_ROW_BYTES) for number in range(RESERVE_ROWS)],
    )


def _add_file_history(connection: sqlite3.Connection) -> None:
    connection.execute(table_ddl(FILES))


def _add_asks(connection: sqlite3.Connection) -> None:
    for column in ("permission_policy TEXT DEFAULT '' NOT NULL", "permission_wait_s FLOAT DEFAULT '0' NOT NULL"):
        connection.execute(f"ALTER TABLE runs ADD COLUMN {column}")
    for statement in (table_ddl(ASKS), table_ddl(GRANTS), index_ddl(ASKS_OPEN), index_ddl(ASKS_SESSION)):
        connection.execute(statement)


STEPS: tuple[Callable[[sqlite3.Connection], None], ...] = (_add_file_history, _add_asks)
"""Step n migrates from version n + 1 to n + 2."""


def bring_up_to_date(connection: sqlite3.Connection, path: Path, random: RandomSource, log: logging.Logger) -> None:
    """Migrate the file at `path`, and give its event log an id of its own. Raises SchemaNewer, sqlite3.Error."""
    identity = file_identity(path)
    migrate(connection, random, identity)
    try:
        if own_log(connection, random, identity):
            log.info("the database is a copy: its event log has a new id", extra=fields(path=path))
    except sqlite3.Error as error:  # a full disk; it is tried again at the next start
        if is_corrupt(error):
            raise
        log.warning("cannot give the event log a new id", extra=fields(error=error))


def migrate(connection: sqlite3.Connection, random: RandomSource, identity: str) -> int:
    """Run the missing steps and return their number. `identity` is that of `file_identity`.

    Raises SchemaNewer, or sqlite3.Error with nothing changed.
    """
    version = schema_version(connection)
    if version == SCHEMA_VERSION:
        return 0
    connection.execute("BEGIN IMMEDIATE")
    try:
        if version == 0:
            _create(connection, random, identity)
        else:
            for step in STEPS[version - 1 :]:
                step(connection)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return SCHEMA_VERSION - version


def own_log(connection: sqlite3.Connection, random: RandomSource, identity: str) -> bool:
    """Give the event log a new id if this file is a copy of another one, or was restored; return whether it is.

    The two histories differ from here on, so a cursor in one must not be taken for a place in the other. `identity` is
    that of `file_identity`. Raises sqlite3.Error with nothing changed.
    """
    row = connection.execute("SELECT value FROM meta WHERE key = 'file'").fetchone()
    if row is not None and row[0] == identity:
        return False
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('file', ?)", (identity,))
        if row is not None:
            connection.execute("UPDATE meta SET value = ? WHERE key = 'log_id'", (_new_log_id(random),))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return row is not None


def _new_log_id(random: RandomSource) -> str:
    """Return a random id for an event log, so that readers notice another one in its place."""
    return f"{random.getrandbits(64):016x}"


def check_schema(connection: sqlite3.Connection) -> None:
    """Check that a read-only file has the present schema. Raises SchemaNewer, StorageUnusable."""
    version = schema_version(connection)
    if version < SCHEMA_VERSION:
        raise StorageUnusable(
            f"cannot read the database: its schema has version {version} and would have to be brought to "
            f"{SCHEMA_VERSION}, but it is read-only; make it and its directory writable"
        )


def schema_version(connection: sqlite3.Connection) -> int:
    """Return the schema version of the file, 0 for an empty one; change nothing. Raises SchemaNewer."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise SchemaNewer(
            f"cannot open the database: its schema has version {version}, this code knows {SCHEMA_VERSION}; "
            "use the newer Bulkhead that wrote it"
        )
    return version
