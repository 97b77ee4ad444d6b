"""Let one supervisor own a directory: a locked file in it that names the owner.

The lock (flock) lives as long as its process. The file stays after it: removing it would race with the next owner.
"""

import errno
import fcntl
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path

from protocol.base.process_identity import boot_id, own_start_ticks
from protocol.version import BULKHEAD_VERSION

LOCK_NAME = "supervisor.lock"
_READ_MAX = 65536


class DirectoryTaken(Exception):
    """Another supervisor owns the directory; the text names it."""


class RuntimeTaken(Exception):
    """This supervisor cannot start, because another one owns a directory; the text names both. Exit code 3."""


class OwnerLock:
    """The lock of one directory, held from `take` to `release`."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / LOCK_NAME
        self._descriptor: int | None = None
        self._details: Mapping[str, object] = {}

    @property
    def is_held(self) -> bool:
        """Return whether this process holds the lock."""
        return self._descriptor is not None

    @property
    def is_in_place(self) -> bool:
        """Return whether the locked file is still the one at the path; one without a name protects nothing."""
        try:
            return self._descriptor is not None and os.path.samestat(os.fstat(self._descriptor), self.path.stat())
        except OSError:
            return False

    def take(self) -> None:
        """Take the lock, also when an older file of it is held. Raises DirectoryTaken with the owner, OSError."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = _describe_owner(os.pread(descriptor, _READ_MAX, 0))
            os.close(descriptor)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise DirectoryTaken(owner) from None
        older, self._descriptor = self._descriptor, descriptor
        if older is not None:
            os.close(older)
        self.announce(**self._details)

    def announce(self, **details: object) -> None:
        """Write into the file which process holds it, with these details."""
        assert self._descriptor is not None
        self._details = details
        owner = {
            "pid": os.getpid(),
            "start_ticks": own_start_ticks(),
            "boot_id": boot_id(),
            "host": socket.gethostname(),
            "version": BULKHEAD_VERSION,
        }
        data = json.dumps({**owner, **details}).encode()
        os.pwrite(self._descriptor, data, 0)
        os.ftruncate(self._descriptor, len(data))

    def release(self) -> None:
        """Empty the file and release the lock. Does nothing when it is not held."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None


def _describe_owner(data: bytes) -> str:
    try:
        owner = json.loads(data)
        text = f"the supervisor with pid {owner['pid']} (version {owner['version']})"
        if owner.get("host", socket.gethostname()) != socket.gethostname():
            text += f" on the machine {owner['host']}"
        if owner.get("listeners"):
            text += f", which listens at {' '.join(map(str, owner['listeners']))},"
        return text
    except (ValueError, KeyError, TypeError, AttributeError):
        return "another supervisor that is starting or ending"
