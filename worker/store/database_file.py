"""Check the database file from outside: whether it may be written (D03), and whether it is still the open one (D05).

SQLite checks neither: it silently opens a read-only file for reading, and keeps using one that was unlinked or
replaced. All methods are for the database thread except `is_moved`, which may be called anywhere.
"""

import contextlib
import os
import sqlite3
from pathlib import Path

from protocol.errors import Unavailable
from worker.store.open_file_guard import guard_file

READ_ONLY = "read-only"
MOVED = "storage moved"


class StorageUnusable(Exception):
    """The file cannot be used. It is left as it is and never replaced by an empty one (D04, EXIT_STORAGE)."""


class StorageCorrupt(StorageUnusable):
    """The file is not a database, or a damaged one (EXIT_CORRUPT)."""


class DatabaseFile:
    """Open the file at a path and watch it. `connect` decides `is_read_only` for the life of the connection."""

    def __init__(self, path: Path) -> None:
        self.is_read_only = False
        self._path = path
        self._side_files = tuple(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))
        self._inode = (0, 0)

    def connect(self, busy_s: float) -> sqlite3.Connection:
        """Open the file, or create it. Raises sqlite3.Error, OSError, StorageUnusable."""
        guard_file(self._path)
        self.is_read_only = self._path.exists() and not self.may_write()
        if self.is_read_only:
            raw = self._connect_for_reading(busy_s)
        else:
            for side_file in self._side_files:
                # Created while the file was read-only, they still have its former mode.
                with contextlib.suppress(OSError):
                    if not os.access(side_file, os.W_OK):
                        os.chmod(side_file, 0o600)
            raw = sqlite3.connect(self._path, timeout=busy_s, isolation_level=None, cached_statements=256)
        return raw

    def remember(self) -> None:
        """Remember the identity of the open file, and restrict it to the owner. Raises OSError."""
        status = os.stat(self._path)
        if not self.is_read_only and status.st_mode & 0o7777 != 0o600:
            os.chmod(self._path, 0o600)
        self._inode = (status.st_dev, status.st_ino)

    def may_write(self) -> bool:
        """Return whether the file may be written and files may be created beside it; False when it does not exist."""
        return os.access(self._path, os.W_OK) and os.access(self._path.parent, os.W_OK)

    def is_moved(self) -> bool:
        """Return whether the file was unlinked or replaced while it is open."""
        try:
            status = os.stat(self._path)
        except OSError:
            return True
        return (status.st_dev, status.st_ino) != self._inode

    def refusal(self) -> Unavailable:
        """Make the error for a write that is refused; nothing of it was stored."""
        if self.is_read_only:
            why = "is read-only; make it and its directory writable"
        else:
            why = "was moved or replaced while in use; put it back, or restart the workspace to use what is there"
        return Unavailable(
            f"cannot store this: the database {self._path} {why}", code="storage_failed", retryable=False
        )

    def _connect_for_reading(self, busy_s: float) -> sqlite3.Connection:
        """Open the file read-only. Without a write-ahead log it is complete, and no files are created beside it."""
        wal = self._side_files[0]
        is_complete = not wal.exists() or wal.stat().st_size == 0
        uri = f"{self._path.absolute().as_uri()}?mode=ro" + ("&immutable=1" if is_complete else "")
        raw = sqlite3.connect(uri, uri=True, timeout=busy_s, isolation_level=None, cached_statements=256)
        try:
            raw.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except sqlite3.Error:
            raw.close()
            raise
        return raw
