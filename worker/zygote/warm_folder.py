"""Make the temporary directory of a throwaway worker, and remove those that a killed process has left.

A process holds a lock on its directory for as long as it lives, also across PID namespaces that share /tmp. So a
directory that can be locked belongs to no process.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "bulkhead-warm-"


@contextlib.contextmanager
def warm_folder() -> Iterator[Path]:
    """Yield a new directory, which is removed at the end of the block. Raises OSError."""
    remove_left(Path(tempfile.gettempdir()))
    while True:
        with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as name:
            descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if os.fstat(descriptor).st_nlink == 0:
                    continue  # another process took it for a left one before it was locked
                yield Path(name)
                return
            finally:
                os.close(descriptor)


def remove_left(root: Path) -> None:
    """Remove the directories of processes that have ended. Errors are ignored: another user's /tmp is none of ours."""
    for path in root.glob(f"{PREFIX}*"):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if os.fstat(descriptor).st_uid == os.geteuid():
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue  # in use
        finally:
            os.close(descriptor)
