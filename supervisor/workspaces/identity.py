"""Look at the directories that paths lead to, and find the place of their data.

These functions access the file system and may block: call them in a thread.
"""

import contextlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from protocol.base.file_identity import birth_ns
from protocol.errors import BadInput, Denied
from protocol.ids import WorkspaceId
from protocol.workspace_mark import DATABASE_NAME, make_private_dir, read_mark, write_mark
from supervisor.workspaces.recognition import Folder, Identity, Missing, Seen, Unreadable

PATH_LENGTH_MAX = 4096
NAME_LENGTH_MAX = 255
DEFAULT_DATA_DIR = ".bulkhead"


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
    return Identity(str(resolved), status.st_ino, birth_ns(resolved))


def look(identity: Identity, requested: str = "") -> Folder:
    """Return what is at a resolved path now. Raises OSError.

    `requested` names the data directory, "" the default one.
    """
    data_dir = _absolute(identity, requested or DEFAULT_DATA_DIR)
    status = os.stat(identity.path)
    data_key: tuple[int, int] | None = None
    with contextlib.suppress(OSError, ValueError):  # most often there is none yet
        data_status = os.stat(data_dir)
        data_key = (data_status.st_dev, data_status.st_ino)
    return Folder(
        identity=Identity(identity.path, status.st_ino, birth_ns(identity.path)),
        device=status.st_dev,
        data_dir=data_dir,
        data_key=data_key,
        mark=read_mark(Path(data_dir)) if data_key is not None else None,
        has_database=data_key is not None and os.path.exists(os.path.join(data_dir, DATABASE_NAME)),
        is_writable=os.access(identity.path, os.W_OK),
    )


def look_again(identity: Identity, data_dir: str) -> Seen:
    """Return what is at the path of a registration now. A link there counts as no directory."""
    try:
        if not stat.S_ISDIR(os.lstat(identity.path).st_mode):
            return Missing()
        return look(identity, data_dir)
    except (FileNotFoundError, NotADirectoryError):
        return Missing()
    except OSError as error:
        return Unreadable(error.strerror or str(error))


def mark_folder(folder: Folder, data_dir: str, workspace_id: WorkspaceId) -> None:
    """Write the workspace's id into its data directory, unless the folder is gone.

    Raises OSError; the directory may be read-only. The mark is then missing, and only the registration has the id.
    """
    if os.path.isdir(folder.identity.path):  # else the parents of the data directory would be created again
        make_private_dir(Path(data_dir))
        write_mark(Path(data_dir), workspace_id)


def data_dir_for(folder: Folder, requested: str, fallback: Path) -> str:
    """Return the directory of the workspace's own file.

    This is the requested one, else one inside the workspace, else (when that is not writable) `fallback`.
    """
    return folder.data_dir if requested or folder.is_writable else str(fallback)


def moved_data_dir(old: Identity, new: Identity, data_dir: str) -> str:
    """Return the data directory after a move: one inside the folder moves with it."""
    if is_inside(old, data_dir):
        return os.path.join(new.path, os.path.relpath(data_dir, old.path))
    return data_dir


def is_inside(identity: Identity, data_dir: str) -> bool:
    """Return whether the data directory is inside the folder, by its path."""
    return data_dir.startswith(identity.path.rstrip("/") + "/")


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
