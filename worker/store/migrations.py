"""Migrate a workspace's file to the schema of this code: ordered steps by `PRAGMA user_version`, in one transaction.

A new file gets the whole schema; a file of older code gets the steps that it lacks. Both have the same result.
"""

import sqlite3
from collections.abc import Callable

from protocol.ids import RandomSource
from worker.store.database_file import StorageUnusable
from worker.store.disk_reserve import RESERVE_ROW_BYTES, RESERVE_ROWS
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


def _create(connection: sqlite3.Connection, random: RandomSource) -> None:
    for statement in DDL:
        connection.execute(statement)
    # The random id of the event log is created with the file, so that readers notice a replaced file.
    log_id = f"{random.getrandbits(64):016x}"
    connection.execute("INSERT INTO meta (key, value) VALUES ('log_id', ?)", (log_id,))
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


def migrate(connection: sqlite3.Connection, random: RandomSource) -> int:
    """Run the missing steps and return their number. Raises SchemaNewer, or sqlite3.Error with nothing changed."""
    version = schema_version(connection)
    if version == SCHEMA_VERSION:
        return 0
    connection.execute("BEGIN IMMEDIATE")
    try:
        if version == 0:
            _create(connection, random)
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
