"""The files of the database that is open in this process: nothing but SQLite may open them here (D10).

Closing any descriptor of a file drops all POSIX locks that the process holds on it, those of SQLite too. Another
program that opens and closes the database would then take itself for the last one, and remove the log that we write to.
"""

import os
from pathlib import Path

_guarded: tuple[Path, ...] = ()


def guard(database: Path) -> None:
    """From now on this one is guarded, and no other: a process has one."""
    global _guarded
    _guarded = tuple(database.with_name(database.name + suffix) for suffix in ("", "-wal", "-shm"))


def is_guarded(path: Path) -> bool:
    """Is this one of them, by whatever name? False when it cannot be found out. Blocks."""
    try:
        asked = os.stat(path)
    except (OSError, ValueError):
        return False
    for ours in _guarded:
        try:
            if os.path.samestat(asked, os.stat(ours)):
                return True
        except OSError:
            continue
    return False
