"""Manage the runtime directory: modes, owner, lock, epoch, token file, and the paths in it.

The lock (`supervisor.lock`, flock) is held for the life of the process and released last. Only its holder may change
anything else in the directory or remove stale sockets.
"""

import contextlib
import os
import resource
import stat
from pathlib import Path

from protocol.base.atomic_file import replace_file
from protocol.ids import Epoch, RandomSource, new_token
from supervisor.owner_lock import DirectoryTaken, OwnerLock, RuntimeTaken
from supervisor.private_directory import RuntimeRefused, make_private

__all__ = ["RuntimeDir", "RuntimeRefused", "RuntimeTaken", "allow_descriptors", "read_or_make_token"]

TOKEN_LENGTH_MIN = 16
DESCRIPTORS_WANTED = 65536


class RuntimeDir:
    """One runtime directory, locked from `lock` to `unlock`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = OwnerLock(path)
        self._epoch = Epoch(0)

    @property
    def router_socket(self) -> Path:
        """Return the path of the socket that workers connect to."""
        return self.path / "router.sock"

    @property
    def workers(self) -> Path:
        """Return the directory for records and logs of workers."""
        return self.path / "workers"

    @property
    def token_file(self) -> Path:
        """Return the path of the token for TCP, unless another file is configured."""
        return self.path / "token"

    @property
    def _epoch_file(self) -> Path:
        return self.path / "epoch"

    @property
    def is_locked(self) -> bool:
        """Return whether this process holds the lock."""
        return self._lock.is_held

    def prepare(self) -> None:
        """Create the directory, or check the existing one. Raises RuntimeRefused."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            make_private(self.path)
            make_private(self.workers)
        except OSError as error:
            raise RuntimeRefused(f"cannot use {self.path} as runtime directory: {error.strerror}") from error

    def lock(self) -> None:
        """Take the lock. Raises RuntimeTaken, which names the owner."""
        try:
            self._lock.take()
        except DirectoryTaken as error:
            raise RuntimeTaken(
                f"cannot start: {error} owns {self.path}; stop it with `bulkhead stop`, or choose another --runtime-dir"
            ) from None

    def announce(self, listeners: list[str]) -> None:
        """Write into the lock file which process holds it and where it listens."""
        self._lock.announce(listeners=listeners)

    def next_epoch(self, *, at_least: int = 0) -> Epoch:
        """Return the number of this supervisor, one more than the last of this directory and than `at_least`.

        It is in the file before it is used. When the file was lost, workers that know a higher epoch refuse this
        supervisor and are replaced.
        """
        assert self.is_locked
        try:
            last = int(self._epoch_file.read_text())
        except (FileNotFoundError, ValueError):
            last = 0
        self._epoch = Epoch(max(last, at_least) + 1)
        replace_file(self._epoch_file, f"{self._epoch}\n".encode())
        return self._epoch

    def restore(self) -> bool:
        """Make again what was removed while this process owns the directory; return whether anything was.

        Without it no worker can be started. Raises RuntimeRefused, RuntimeTaken when another supervisor was quicker,
        OSError.
        """
        if not self._lock.is_held or (self._lock.is_in_place and self.workers.is_dir() and self._epoch_file.exists()):
            return False
        self.prepare()
        if not self._lock.is_in_place:
            self.lock()
        replace_file(self._epoch_file, f"{self._epoch}\n".encode())
        return True

    def refresh(self) -> None:
        """Set the times of everything in the directory to now, so that no cleaner takes it for abandoned."""
        for folder in (self.path, self.workers):
            with contextlib.suppress(OSError):
                for entry in [*os.scandir(folder), folder]:
                    with contextlib.suppress(OSError):
                        os.utime(entry, follow_symlinks=False)

    def unlock(self) -> None:
        """Release the directory, as the last act of a supervisor."""
        self._lock.release()


def allow_descriptors() -> None:
    """Raise the soft limit of open files towards the hard one: the usual 1024 is less than the clients accepted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = DESCRIPTORS_WANTED if hard == resource.RLIM_INFINITY else min(DESCRIPTORS_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < target:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))


def read_or_make_token(path: Path, source: RandomSource) -> str:
    """Read the token in `path`, or write a new one when the file is missing. Raises RuntimeRefused."""
    try:
        status = path.stat()
        token = path.read_text().strip()
    except FileNotFoundError:
        token = new_token(source)
        try:
            replace_file(path, token.encode() + b"\n", sync=True)
        except OSError as error:
            raise RuntimeRefused(f"cannot write the token file {path}: {error.strerror}") from error
        return token
    except (OSError, UnicodeDecodeError) as error:
        raise RuntimeRefused(f"cannot read the token file {path}: {error}") from error
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise RuntimeRefused(f"cannot trust the token file {path}: other users may read it; run `chmod 600 {path}`")
    if len(token) < TOKEN_LENGTH_MIN or not token.isascii() or not token.isprintable() or " " in token:
        raise RuntimeRefused(
            f"cannot use the token in {path}: it must be one word of at least {TOKEN_LENGTH_MIN} ASCII characters; "
            "remove the file to have one created"
        )
    return token
