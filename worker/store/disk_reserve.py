"""Reserve disk space, so that a run's end can be written when the disk is full (D01).

There are two kinds. Rows of zeros give their pages to the transaction that deletes them: they help against a limit on
the size of the file. A preallocated file beside the database gives its blocks to the write-ahead log: it helps against
a full disk.
"""

import os
import sqlite3
from pathlib import Path

RESERVE_ROWS = 8
RESERVE_ROW_BYTES = 12 * 1024  # three pages and their overflow: the end of a run with a short answer
RESERVE_FILE_BYTES = 128 * 1024


class DiskReserve:
    """The reserve of one database. All methods are for the database thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.is_whole = False
        self._is_proven = True

    def doubt(self) -> None:
        """Record that a write found no room: the reserve counts as used until a trial row was written."""
        self.is_whole = self._is_proven = False

    def take_file(self) -> None:
        """Give the blocks of the file back to the disk."""
        self.is_whole = False
        try:
            os.unlink(self._path)
        except OSError:
            pass  # it does not exist, and there is nothing else to give back

    def take_row(self, connection: sqlite3.Connection) -> bool:
        """Give the pages of one row to the open transaction; False when none is left."""
        self.is_whole = False
        sql = "DELETE FROM reserve WHERE id = (SELECT max(id) FROM reserve)"
        return connection.execute(sql).rowcount > 0

    def restore(self, connection: sqlite3.Connection) -> None:
        """Complete the reserve again, in a transaction of its own. Raises OSError or sqlite3.Error if still full."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_blocks * 512 < RESERVE_FILE_BYTES:
                os.posix_fallocate(descriptor, 0, RESERVE_FILE_BYTES)
        finally:
            os.close(descriptor)
        missing = RESERVE_ROWS - connection.execute("SELECT count(*) FROM reserve").fetchone()[0]
        if missing or not self._is_proven:
            # One row more than the reserve, written and deleted again: only that proves that there is room.
            _transact(connection, "INSERT OR IGNORE INTO reserve (id, space) VALUES (?, zeroblob(?))", RESERVE_ROWS + 1)
            _transact(connection, "DELETE FROM reserve WHERE id >= ?", RESERVE_ROWS)
        self._is_proven = True
        self.is_whole = True


def _transact(connection: sqlite3.Connection, sql: str, number: int) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        if sql.startswith("INSERT"):
            connection.executemany(sql, [(row, RESERVE_ROW_BYTES) for row in range(number)])
        else:
            connection.execute(sql, (number,))
        connection.execute("COMMIT")
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
