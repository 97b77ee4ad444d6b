"""The database file seen from outside: may it be written (D03), and is it still the one that we opened (D05)?

SQLite asks neither: it opens a file that it may not write for reading without a word, and goes on with one that was
unlinked or replaced. All methods are for the database thread but `is_moved`, which is safe everywhere.
"""

import contextlib
import os
import sqlite3
from pathlib import Path

from protocol.errors import Unavailable
from worker.store.open_file_guard import guard

READ_ONLY = "read-only"
MOVED = "storage moved"


class StorageUnusable(Exception):
    """The file cannot be opened; it is left as it is, never replaced by an empty one (D04, EXIT_STORAGE)."""


class StorageCorrupt(StorageUnusable):
    """What stands in the file is no database, or no sound one (EXIT_CORRUPT)."""


class Place:
    """Where the database is. `is_read_only` is decided by `connect`, for as long as the connection lives."""

    def __init__(self, path: Path) -> None:
        self.is_read_only = False
        self._path = path
        self._sides = tuple(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))
        self._inode = (0, 0)

    def connect(self, busy_s: float) -> sqlite3.Connection:
        """Open the file, or make it where there is none. Raises sqlite3.Error, OSError, StorageUnusable."""
        guard(self._path)
        self.is_read_only = self._path.exists() and not self.may_write()
        if self.is_read_only:
            raw = self._connect_for_reading(busy_s)
        else:
            for side in self._sides:
                # Made while the file could not be written, they have its mode of then.
                with contextlib.suppress(OSError):
                    if not os.access(side, os.W_OK):
                        os.chmod(side, 0o600)
            raw = sqlite3.connect(self._path, timeout=busy_s, isolation_level=None, cached_statements=256)
        return raw

    def remember(self) -> None:
        """This is the file: it is for us alone, and any other at its path is a stranger. Raises OSError."""
        status = os.stat(self._path)
        if not self.is_read_only and status.st_mode & 0o7777 != 0o600:
            os.chmod(self._path, 0o600)
        self._inode = (status.st_dev, status.st_ino)

    def may_write(self) -> bool:
        """May the file be written, and others be made beside it? False as well when it is gone."""
        return os.access(self._path, os.W_OK) and os.access(self._path.parent, os.W_OK)

    def is_moved(self) -> bool:
        """Was the file unlinked or replaced while it is open?"""
        try:
            status = os.stat(self._path)
        except OSError:
            return True
        return (status.st_dev, status.st_ino) != self._inode

    def refusal(self) -> Unavailable:
        """What a write is told that cannot be done here; nothing of it was stored."""
        if self.is_read_only:
            why = "is read-only; make it and its directory writable"
        else:
            why = "was moved or replaced while in use; put it back, or restart the workspace to use what is there"
        return Unavailable(
            f"cannot store this: the database {self._path} {why}", code="storage_failed", retryable=False
        )

    def _connect_for_reading(self, busy_s: float) -> sqlite3.Connection:
        """Without a write-ahead log the file is whole, and is read without making files beside it."""
        wal = self._sides[0]
        is_whole = not wal.exists() or wal.stat().st_size == 0
        uri = f"{self._path.absolute().as_uri()}?mode=ro" + ("&immutable=1" if is_whole else "")
        raw = sqlite3.connect(uri, uri=True, timeout=busy_s, isolation_level=None, cached_statements=256)
        try:
            raw.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except sqlite3.Error:
            raw.close()
            raise
        return raw
