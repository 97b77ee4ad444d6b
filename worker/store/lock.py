"""The lock of a data directory: at most one worker owns it (P10).

An flock, taken after the fork, closed on exec, so that no child of a tool inherits it (D09). The file is never
unlinked: a second file of that name would be a second lock.
"""

import errno
import fcntl
import json
import os
import time
from pathlib import Path

from protocol.base.process_identity import own_start_ticks

LOCK_NAME = "bulkhead.lock"
_POLL_S = 0.02


class Locked(Exception):
    """Another process owns the data directory; the message names it."""


class NoLocks(Exception):
    """The file system of the data directory knows no locks; nothing may be stored there (D11)."""


class DataLock:
    """Holds the lock for the life of the process, or until `release`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, data_dir: Path, *, generation: int, timeout_s: float) -> "DataLock":
        """Take the lock; blocks at most `timeout_s` seconds for an owner that is just dying.

        Raises Locked, NoLocks, OSError.
        """
        path = data_dir / LOCK_NAME
        descriptor, may_write = _open(path)
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() + _POLL_S > deadline:
                    owner = _owner(descriptor)
                    os.close(descriptor)
                    raise Locked(
                        f"cannot use data directory {data_dir}: {owner} owns it; "
                        "end that process or use another directory"
                    ) from None
                time.sleep(_POLL_S)  # an flock has no waiting with a bound; the loop does not run yet
            except OSError as error:
                os.close(descriptor)
                raise NoLocks(
                    f"cannot lock data directory {data_dir}: {error}; it needs a file system with locks"
                ) from error
        if not may_write:
            return cls(descriptor)  # nobody is told who we are
        info = {"pid": os.getpid(), "start_ticks": own_start_ticks(), "generation": generation}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(info).encode() + b"\n", 0)
        return cls(descriptor)

    def release(self) -> None:
        """Give the directory free. The file stays."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _open(path: Path) -> tuple[int, bool]:
    """The file to lock, and whether it may be written. Where nothing may be written there may be only the directory."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), True
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC), False
    except FileNotFoundError:
        return os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), False


def _owner(descriptor: int) -> str:
    try:
        info = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {info['pid']} (generation {info['generation']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
