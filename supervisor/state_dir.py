"""Own the state directory: lock, identity, epoch, and the paths in it. It survives a reboot and cleaners of /tmp.

The lock is beside the list of workspaces, because two supervisors with different runtime directories must not use one
list. The identity marks the processes of the workers, so that no sweep ends those of another state directory.
"""

import json
from pathlib import Path

from protocol.base.atomic_file import replace_file
from protocol.ids import Epoch, RandomSource
from supervisor.owner_lock import DirectoryTaken, OwnerLock, RuntimeTaken
from supervisor.private_directory import make_private

_ID_BYTES = 4


class StateDir:
    """One state directory, locked from `lock` to `unlock`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.identity = ""
        self._lock = OwnerLock(path)
        self._epoch = Epoch(0)

    @property
    def records(self) -> Path:
        """Return the directory for the records of workers."""
        return self.path / "workers"

    def prepare(self) -> None:
        """Create the directory, or check the existing one. Raises RuntimeRefused, OSError."""
        self.path.mkdir(parents=True, exist_ok=True)
        make_private(self.path)
        make_private(self.records)

    def lock(self) -> None:
        """Take the lock. Raises RuntimeTaken, which names the owner; OSError."""
        try:
            self._lock.take()
        except DirectoryTaken as error:
            raise RuntimeTaken(
                f"cannot start: {error} owns the state directory {self.path}; use that server, stop it with "
                "`bulkhead stop`, or choose another --state-dir"
            ) from None

    def announce(self, runtime_dir: Path, listeners: list[str]) -> None:
        """Write into the lock file where the owner listens; clients without a runtime directory find it there."""
        self._lock.announce(runtime_dir=str(runtime_dir), listeners=listeners)

    def load_identity(self, random: RandomSource) -> str:
        """Return the identity of this directory, made once. A copy of the directory gets one of its own.

        The inode of the directory tells a copy from the original, which keeps it when it is renamed. Raises OSError.
        """
        try:
            stored = json.loads((self.path / "identity").read_bytes())
            known, inode = str(stored["id"]), int(stored["inode"])
        except (OSError, ValueError, KeyError, TypeError):
            known, inode = "", -1
        if not known or inode != self.path.stat().st_ino:
            known = random.getrandbits(8 * _ID_BYTES).to_bytes(_ID_BYTES, "big").hex()
        self.identity = known
        self._store_identity()
        return known

    def last_epoch(self) -> Epoch:
        """Return the number of the last supervisor of this directory, 0 for none."""
        try:
            return Epoch(int((self.path / "epoch").read_text()))
        except (OSError, ValueError):
            return Epoch(0)

    def store_epoch(self, epoch: Epoch) -> None:
        """Write the number of this supervisor to disk. Raises OSError."""
        self._epoch = epoch
        replace_file(self.path / "epoch", f"{epoch}\n".encode(), sync=True)

    def restore(self) -> bool:
        """Make again what was removed while this process owns the directory; return whether anything was.

        Raises RuntimeRefused, RuntimeTaken when another supervisor was quicker, OSError.
        """
        if not self._lock.is_held or (self._lock.is_in_place and self.records.is_dir()):
            return False
        self.prepare()
        if not self._lock.is_in_place:
            self.lock()
            self._store_identity()
            replace_file(self.path / "epoch", f"{self._epoch}\n".encode())
        return True

    def unlock(self) -> None:
        """Release the directory, as the last act of a supervisor."""
        self._lock.release()

    def _store_identity(self) -> None:
        data = json.dumps({"id": self.identity, "inode": self.path.stat().st_ino}).encode()
        path = self.path / "identity"
        if not path.exists() or path.read_bytes() != data:
            replace_file(path, data)
