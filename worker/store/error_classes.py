"""Classify errors of the storage: what the caller gets, and whether the worker may continue."""

import sqlite3
from dataclasses import dataclass

from sqlalchemy.exc import DBAPIError

from protocol.errors import BulkheadError, LimitReached, Unavailable

_FULL = 13
_BUSY = (5, 6)  # SQLITE_BUSY, SQLITE_LOCKED
_CORRUPT = (11, 26)  # SQLITE_CORRUPT, SQLITE_NOTADB
# A wrong statement or a violated constraint: an error of the job, the file is sound.
_OF_THE_JOB = (0, 1, 18, 19, 20, 21, 25)


@dataclass(frozen=True)
class StorageErrorClass:
    """`error` goes to the caller. `is_fatal`: what is in memory can no longer be trusted, start again from the file."""

    error: BulkheadError
    is_full: bool = False
    is_fatal: bool = False


def storage_fault(error: BaseException) -> StorageErrorClass | None:
    """Classify `error`; return None when it comes from the job itself."""
    original = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(original, OSError):
        return StorageErrorClass(_failed(original), is_fatal=True)
    if not isinstance(original, sqlite3.Error):
        return None
    code = _code(original)
    if code == _FULL:
        message = "cannot store this: the disk is full; free some space and try again"
        return StorageErrorClass(LimitReached(message, code="storage_full"), is_full=True)
    if code in _BUSY:
        message = "cannot store this now: another process holds the database; try again"
        return StorageErrorClass(Unavailable(message, code="storage_busy", retry_after_s=1.0))
    if code in _OF_THE_JOB:
        return None
    return StorageErrorClass(_failed(original), is_fatal=True)


def is_corrupt(error: BaseException) -> bool:
    """Return whether the file is damaged, so that starting again from it does not help."""
    original = error.orig if isinstance(error, DBAPIError) else error
    return isinstance(original, sqlite3.Error) and _code(original) in _CORRUPT


def _code(error: sqlite3.Error) -> int:
    return (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def _failed(error: BaseException) -> BulkheadError:
    return Unavailable(
        f"cannot tell whether this was stored: the storage failed ({error}); try again with the same run id",
        code="storage_failed",
        retry_after_s=1.0,
    )
