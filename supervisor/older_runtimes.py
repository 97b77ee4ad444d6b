"""Hold the runtime directories of earlier supervisors in which adopted workers look for theirs.

A worker connects to the socket that it was started with. The next supervisor of the same state directory may have been
given another runtime directory, for instance by cron or ssh; then it listens at the older sockets too.
"""

import logging
from collections.abc import Iterable
from pathlib import Path

from protocol.base.logs import fields
from supervisor.owner_lock import DirectoryTaken, OwnerLock
from supervisor.private_directory import RuntimeRefused, make_private

_SCHEME = "ipc://"


class OlderRuntimes:
    """The locks of these directories, from `take` to `release`."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._locks: list[OwnerLock] = []

    def take(self, endpoints: Iterable[str], own: str) -> list[Path]:
        """Lock the directories of all `endpoints` except the `own`; return the sockets to listen at.

        A directory that another server uses is left alone: the workers that look there are ended at their deadline.
        """
        sockets = []
        for endpoint in sorted(set(endpoints) - {own, ""}):
            path = Path(endpoint.removeprefix(_SCHEME))
            lock = OwnerLock(path.parent)
            try:
                make_private(path.parent)
                lock.take()
            except (DirectoryTaken, RuntimeRefused, OSError) as error:
                self._log.error("older runtime directory not usable", extra=fields(path=path.parent, reason=error))
                continue
            self._locks.append(lock)
            sockets.append(path)
        return sockets

    def release(self) -> None:
        """Release the locks, after the sockets were closed."""
        for lock in self._locks:
            lock.release()
        self._locks.clear()
