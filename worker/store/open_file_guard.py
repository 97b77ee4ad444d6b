"""Guard the files of the open database: in this process nothing but SQLite may open them (D10).

Closing any descriptor of a file drops all POSIX locks that the process holds on it, also those of SQLite. Another
program that opens and closes the database would then assume that it is the last one, and remove the log in use.
"""

import os
from pathlib import Path

_guarded: tuple[Path, ...] = ()


def guard_file(database: Path) -> None:
    """Guard this database from now on, and no other: a process has one."""
    global _guarded
    _guarded = tuple(database.with_name(database.name + suffix) for suffix in ("", "-wal", "-shm"))


def is_guarded(path: Path) -> bool:
    """Return whether this is a guarded file, under any name; False when that cannot be determined. Blocks."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return False
    for guarded in _guarded:
        try:
            if os.path.samestat(status, os.stat(guarded)):
                return True
        except OSError:
            continue
    return False
