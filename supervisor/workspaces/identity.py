"""Path to key: a resolved path with device and inode; refuses a directory that was exchanged (H06).

These functions ask the file system and may block: call them in a thread.
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
    """One directory: where it is and which one it is."""

    path: str  # resolved, absolute
    device: int
    inode: int

    @property
    def key(self) -> tuple[int, int]:
        """Which directory, whatever its path."""
        return (self.device, self.inode)


def resolve(asked: str, env: Sequence[str]) -> Identity:
    """The directory that a client means by `asked`.

    A relative path counts from the client's own working directory, which its environment tells as `PWD`. Raises
    BadInput when there is no such directory and Denied when it cannot be entered.
    """
    if not asked or "\0" in asked or len(os.fsencode(asked)) > PATH_LENGTH_MAX:
        raise BadInput("cannot use this `path`: it must be the path of a directory, absolute and not empty")
    path = Path(asked)
    if not path.is_absolute():
        base = next((entry[4:] for entry in env if entry.startswith("PWD=/")), None)
        if base is None:
            raise BadInput(f"cannot use the `path` {asked!r}: it is relative to nothing known; send an absolute one")
        path = Path(base) / path
    try:
        resolved = path.resolve(strict=True)
        found = resolved.stat()
    except FileNotFoundError:
        raise BadInput(f"cannot use the `path` {asked}: there is no such directory") from None
    except PermissionError:
        raise Denied(f"cannot use the `path` {asked}: this user may not enter it", code="forbidden") from None
    except (OSError, RuntimeError, ValueError) as error:
        raise BadInput(f"cannot use the `path` {asked}: {error}") from None
    if not stat.S_ISDIR(found.st_mode):
        raise BadInput(f"cannot use the `path` {asked}: it is not a directory")
    if not os.access(resolved, os.R_OK | os.X_OK):
        raise Denied(f"cannot use the `path` {asked}: this user may not read it", code="forbidden")
    return Identity(str(resolved), found.st_dev, found.st_ino)


def check(known: Identity) -> None:
    """Is the directory still where it was, and still the same? Raises Conflict (workspace_moved)."""
    try:
        found = os.stat(known.path, follow_symlinks=False)
    except OSError as error:
        raise Conflict(
            f"cannot use this workspace: its directory {known.path} is missing ({error.strerror}); bring it back",
            code="workspace_moved",
        ) from None
    if (found.st_dev, found.st_ino) != known.key or not stat.S_ISDIR(found.st_mode):
        raise Conflict(
            f"cannot use this workspace: {known.path} is not the directory that it was; if that is right, "
            "DELETE its registration and create it again",
            code="workspace_moved",
        )


def data_dir_for(identity: Identity, asked: str, fallback: Path) -> str:
    """Where the workspace's own file lives: as asked, else inside the workspace, else (not writable) in `fallback`."""
    if asked:
        return _place(identity, asked)
    if os.access(identity.path, os.W_OK):
        return os.path.join(identity.path, ".bulkhead")
    return str(fallback)


def check_data_dir(identity: Identity, asked: str) -> None:
    """Can the workspace's file be kept where the client asks, as far as one can tell before? Raises BadInput, Denied.

    The answer counts for ever, because the first creator's wish does; a worker there would only die again and again.
    """
    place = _place(identity, asked)
    if "\0" in place or len(os.fsencode(place)) > PATH_LENGTH_MAX or _longest_name(place) > NAME_LENGTH_MAX:
        raise BadInput("cannot keep data in this `data_dir`: it must be the path of a directory")
    nearest = place
    try:
        while not _is_there(nearest):
            nearest = os.path.dirname(nearest)
        found = os.stat(nearest)
    except PermissionError:
        raise Denied(f"cannot keep data in {place}: this user may not go there", code="forbidden") from None
    except OSError as error:
        raise BadInput(f"cannot keep data in {place}: {error.strerror}; choose another `data_dir`") from None
    if not stat.S_ISDIR(found.st_mode):
        raise BadInput(f"cannot keep data in {place}: {nearest} is not a directory; choose another `data_dir`")
    if not os.access(nearest, os.R_OK | os.W_OK | os.X_OK):
        raise Denied(f"cannot keep data in {place}: this user may not write to {nearest}", code="forbidden")


def _is_there(path: str) -> bool:
    """Does anything have this name, a link that leads nowhere included? Raises OSError for what cannot be told."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


def _longest_name(path: str) -> int:
    return max(len(os.fsencode(name)) for name in path.split("/"))


def _place(identity: Identity, asked: str) -> str:
    return os.path.normpath(os.path.join(identity.path, os.path.expanduser(asked)))
