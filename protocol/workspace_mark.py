"""Read and write the mark of a workspace: the file `workspace-id` in its data directory.

The mark travels with the folder when it is renamed, moved, copied or restored, and so tells which workspace it is. It
is not trusted blindly: a folder may come from anywhere, so only a regular file of this user with a well-formed id
counts. What a mark means is decided in supervisor/workspaces/recognition.py.
"""

import os
import re
import stat
from pathlib import Path

from protocol.base.atomic_file import replace_file
from protocol.ids import WorkspaceId

MARK_NAME = "workspace-id"
DATABASE_NAME = "workspace.db"
"""The file of a workspace, beside the mark. Only its worker opens it."""

_READ_MAX_BYTES = 64
# Only the form that `new_uuid` makes: the id becomes part of file names.
_ID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\n?\Z")


def read_mark(data_dir: Path) -> WorkspaceId | None:
    """Return the id in the mark of this data directory, or None when there is no valid one. Blocks; never raises."""
    try:
        # O_NONBLOCK: a FIFO of this name would block the open.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(data_dir / MARK_NAME, flags)
    except (OSError, ValueError):
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            return None
        data = os.read(descriptor, _READ_MAX_BYTES)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return WorkspaceId(data.decode().strip()) if _ID.match(data) else None


def write_mark(data_dir: Path, workspace_id: WorkspaceId) -> None:
    """Write the mark, replacing another one in one step. Blocks. Raises OSError.

    It is not synced: after a power cut the file may be empty, which counts as no mark; the next use writes it again.
    """
    if _ID.match(workspace_id.encode()):  # another form would not be read
        replace_file(data_dir / MARK_NAME, workspace_id.encode() + b"\n")


def remove_mark(data_dir: Path, workspace_id: WorkspaceId) -> None:
    """Remove the mark if it has this id. Blocks. Raises OSError."""
    if read_mark(data_dir) == workspace_id:
        (data_dir / MARK_NAME).unlink(missing_ok=True)


def make_private_dir(data_dir: Path) -> None:
    """Create a data directory, accessible only to this user and ignored by version control. Blocks. Raises OSError."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    ignore = data_dir / ".gitignore"
    if not ignore.exists() and os.access(data_dir, os.W_OK):  # a read-only one is used as it is (D03)
        ignore.write_text("*\n")
