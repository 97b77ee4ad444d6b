"""Find out which directory a path means, and refuse one that was exchanged for another.

These functions access the file system and may block: call them in a thread.
"""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import BadInput, Conflict, Denied

PATH_LENGTH_MAX = 4096
NAME_LENGTH_MAX = 255


@dataclass(frozen=True, slots=True)
class Identity:
    """One directory: its path, and the device and inode that identify it."""

    path: str  # resolved, absolute
    device: int
    inode: int

    @property
    def key(self) -> tuple[int, int]:
        """The identity of the directory, independent of its path."""
        return (self.device, self.inode)


def resolve(requested: str, env: Sequence[str]) -> Identity:
    """Return the directory that a client names.

    A relative path is resolved against the client's own working directory, the `PWD` of its environment. Raises
    BadInput when there is no such directory and Denied when it cannot be entered or read.
    """
    if not requested or "\0" in requested or len(os.fsencode(requested)) > PATH_LENGTH_MAX:
        raise BadInput("cannot use this `path`: it must be the path of a directory, absolute and not empty")
    path = Path(requested)
    if not path.is_absolute():
        base = next((entry[4:] for entry in env if entry.startswith("PWD=/")), None)
        if base is None:
            raise BadInput(
                f"cannot use the `path` {requested!r}: it is relative, and `env` has no PWD; send an absolute one"
            )
        path = Path(base) / path
    try:
        resolved = path.resolve(strict=True)
        status = resolved.stat()
    except FileNotFoundError:
        raise BadInput(f"cannot use the `path` {requested}: there is no such directory") from None
    except PermissionError:
        raise Denied(f"cannot use the `path` {requested}: this user may not enter it", code="forbidden") from None
    except (OSError, RuntimeError, ValueError) as error:
        raise BadInput(f"cannot use the `path` {requested}: {error}") from None
    if not stat.S_ISDIR(status.st_mode):
        raise BadInput(f"cannot use the `path` {requested}: it is not a directory")
    if not os.access(resolved, os.R_OK | os.X_OK):
        raise Denied(f"cannot use the `path` {requested}: this user may not read it", code="forbidden")
    return Identity(str(resolved), status.st_dev, status.st_ino)


def check(identity: Identity) -> None:
    """Raise Conflict `workspace_moved` unless the directory is still at its path."""
    try:
        status = os.stat(identity.path, follow_symlinks=False)
    except OSError as error:
        raise Conflict(
            f"cannot use this workspace: its directory {identity.path} is missing ({error.strerror}); bring it back",
            code="workspace_moved",
        ) from None
    if (status.st_dev, status.st_ino) != identity.key or not stat.S_ISDIR(status.st_mode):
        raise Conflict(
            f"cannot use this workspace: {identity.path} is not the directory that was registered; if that is right, "
            "DELETE its registration and create it again",
            code="workspace_moved",
        )


def data_dir_for(identity: Identity, requested: str, fallback: Path) -> str:
    """Return the directory of the workspace's own file.

    This is the requested one, else one inside the workspace, else (when that is not writable) `fallback`.
    """
    if requested:
        return _absolute(identity, requested)
    if os.access(identity.path, os.W_OK):
        return os.path.join(identity.path, ".bulkhead")
    return str(fallback)


def check_data_dir(identity: Identity, requested: str) -> None:
    """Check in advance whether the workspace's file can be kept in the requested directory. Raises BadInput, Denied.

    The directory is fixed by the first creator; in one that cannot be used, the worker would crash again and again.
    """
    path = _absolute(identity, requested)
    if "\0" in path or len(os.fsencode(path)) > PATH_LENGTH_MAX or _longest_name(path) > NAME_LENGTH_MAX:
        raise BadInput("cannot keep data in this `data_dir`: it must be the path of a directory")
    nearest = path
    try:
        while not _exists(nearest):
            nearest = os.path.dirname(nearest)
        status = os.stat(nearest)
    except PermissionError:
        raise Denied(f"cannot keep data in {path}: this user may not go there", code="forbidden") from None
    except OSError as error:
        raise BadInput(f"cannot keep data in {path}: {error.strerror}; choose another `data_dir`") from None
    if not stat.S_ISDIR(status.st_mode):
        raise BadInput(f"cannot keep data in {path}: {nearest} is not a directory; choose another `data_dir`")
    if not os.access(nearest, os.R_OK | os.W_OK | os.X_OK):
        raise Denied(f"cannot keep data in {path}: this user may not write to {nearest}", code="forbidden")


def _exists(path: str) -> bool:
    """Return whether anything has this name, a dangling link included. Raises OSError when that cannot be found out."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


def _longest_name(path: str) -> int:
    return max(len(os.fsencode(name)) for name in path.split("/"))


def _absolute(identity: Identity, requested: str) -> str:
    return os.path.normpath(os.path.join(identity.path, os.path.expanduser(requested)))
