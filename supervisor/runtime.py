"""The runtime directory: modes, owner, lock, epoch, token file, and where everything in it lies.

The lock (`supervisor.lock`, flock) is held for the life of the process and released last. Everything else in the
directory may only be changed, and stale sockets only be removed, while it is held.
"""

import contextlib
import errno
import fcntl
import json
import os
import resource
import stat
from pathlib import Path

from protocol.base.atomic_file import replace_file
from protocol.base.process_identity import own_start_ticks
from protocol.ids import Epoch, RandomSource, new_token
from protocol.version import BULKHEAD_VERSION

TOKEN_LENGTH_MIN = 16
DESCRIPTORS_WANTED = 65536


class RuntimeRefused(Exception):
    """The directory cannot be used as it is; the text says why and what would be right. Exit code 2."""


class RuntimeTaken(Exception):
    """Another supervisor owns the directory; the text names it. Exit code 3."""


class RuntimeDir:
    """One runtime directory, locked from `lock` to `unlock`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_fd: int | None = None
        self._listeners: list[str] = []
        self._epoch = Epoch(0)

    @property
    def router_socket(self) -> Path:
        """Where workers connect."""
        return self.path / "router.sock"

    @property
    def workers(self) -> Path:
        """Records and logs of workers."""
        return self.path / "workers"

    @property
    def token_file(self) -> Path:
        """The token for TCP, unless another file was named."""
        return self.path / "token"

    @property
    def is_locked(self) -> bool:
        """Do we own the directory?"""
        return self._lock_fd is not None

    def prepare(self) -> None:
        """Make the directory, or check the one that is there. Raises RuntimeRefused."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            make_private(self.path)
            make_private(self.workers)
        except OSError as error:
            raise RuntimeRefused(f"cannot use {self.path} as runtime directory: {error.strerror}") from error

    def lock(self) -> None:
        """Take the lock or say who has it. Raises RuntimeTaken."""
        path = self.path / "supervisor.lock"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = _owner_of(os.pread(fd, 65536, 0))
            os.close(fd)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise RuntimeTaken(
                f"cannot start: {owner} owns {self.path}; stop it with `bulkhead stop`, or choose another --runtime-dir"
            ) from None
        self._lock_fd = fd
        self.announce([])

    def announce(self, listeners: list[str]) -> None:
        """Write into the lock file who holds it and where it listens."""
        assert self._lock_fd is not None
        self._listeners = listeners
        owner = {"pid": os.getpid(), "start_ticks": own_start_ticks(), "version": BULKHEAD_VERSION}
        data = json.dumps({**owner, "listeners": listeners}).encode()
        os.pwrite(self._lock_fd, data, 0)
        os.ftruncate(self._lock_fd, len(data))

    def next_epoch(self) -> Epoch:
        """Count this supervisor: one more than the last of this directory, on disk before it is used."""
        assert self.is_locked
        path = self.path / "epoch"
        try:
            last = int(path.read_text())
        except (FileNotFoundError, ValueError):
            last = 0  # a lost file starts again; workers of an older supervisor then refuse us and are replaced
        replace_file(path, f"{last + 1}\n".encode(), sync=True)
        self._epoch = Epoch(last + 1)
        return self._epoch

    def restore(self) -> bool:
        """Make again what somebody removed while we own it; says whether that was so.

        Without it no worker could be started any more. Records of workers are lost, and so is a token file: the next
        supervisor starts workers anew. Raises RuntimeRefused, RuntimeTaken when another one was quicker, OSError.
        """
        if self._lock_fd is None:
            return False
        is_ours = _is_at(self._lock_fd, self.path / "supervisor.lock")
        if is_ours and self.workers.is_dir():
            return False
        self.prepare()
        if not is_ours:
            old, listeners = self._lock_fd, self._listeners
            self.lock()  # the old file has no name any more: it protects nothing
            os.close(old)
            self.announce(listeners)
            replace_file(self.path / "epoch", f"{self._epoch}\n".encode(), sync=True)
        return True

    def unlock(self) -> None:
        """Give the directory free; the last thing a supervisor does. The file stays: removing it would race."""
        if self._lock_fd is not None:
            os.ftruncate(self._lock_fd, 0)
            os.close(self._lock_fd)
            self._lock_fd = None


def allow_descriptors() -> None:
    """Raise our soft limit of open files towards the hard one: the usual 1024 is less than the clients we take."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_WANTED if hard == resource.RLIM_INFINITY else min(DESCRIPTORS_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def make_private(path: Path) -> None:
    """A directory of our own with mode 0700, made or checked. Raises RuntimeRefused, OSError."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        pass
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise RuntimeRefused(f"cannot use {path}: it is not a directory; remove it or choose another place")
    if found.st_uid != os.getuid():
        raise RuntimeRefused(
            f"cannot use {path}: it belongs to user {found.st_uid} and we are {os.getuid()}; choose another place"
        )
    if stat.S_IMODE(found.st_mode) != 0o700:
        path.chmod(0o700)


def read_or_make_token(path: Path, source: RandomSource) -> str:
    """The token in `path`; a new one is written there when the file is missing. Raises RuntimeRefused."""
    try:
        found = path.stat()
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
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise RuntimeRefused(
            f"cannot trust the token file {path}: others may read it; `chmod 600 {path}` makes it right"
        )
    if len(token) < TOKEN_LENGTH_MIN or not token.isascii() or not token.isprintable() or " " in token:
        raise RuntimeRefused(
            f"cannot use the token in {path}: it must be one word of at least {TOKEN_LENGTH_MIN} ASCII characters; "
            "remove the file to have one made"
        )
    return token


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _owner_of(data: bytes) -> str:
    try:
        owner = json.loads(data)
        return f"the supervisor with pid {owner['pid']} (version {owner['version']})"
    except (ValueError, KeyError, TypeError):
        return "another supervisor that is just starting or leaving"
