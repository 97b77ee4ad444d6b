"""Inside the workspace or not: decided on resolved paths, component by component (W-41). Blocking: for threads.

A symbolic link that leads out is outside, `..` is followed, a sibling whose name begins alike is not inside. Outside
is closed to the file tools for now: there is nobody yet who could be asked.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from worker.store.open_file_guard import is_guarded
from worker.toolkit.tool import ToolError


@dataclass(frozen=True)
class ResolvedPath:
    """A path that a tool was given: where it really is, and how to show it (relative to the workspace when inside)."""

    path: Path
    inside: bool
    shown: str


def locate(workspace: Path, given: str) -> ResolvedPath:
    """Find out where `given` leads; a relative path counts from the workspace. The path need not exist."""
    try:
        path = Path(os.path.realpath(workspace / given))
    except (ValueError, OSError) as error:  # a NUL byte; too long
        raise ToolError(f"cannot use path {given!r}: {error}") from error
    root = Path(os.path.realpath(workspace))
    inside = path == root or root in path.parents
    return ResolvedPath(path, inside, str(path.relative_to(root)) if inside else str(path))


def locate_inside(workspace: Path, given: str, *, verb: str) -> ResolvedPath:
    """The same, for a tool that has to stay inside. Raises ToolError saying what `verb` was refused."""
    if not given:
        raise ToolError(f"cannot {verb}: the path is empty; give a path, absolute or relative to {workspace}")
    place = locate(workspace, given)
    if not place.inside:
        leads = "" if str(place.path) == given else f" (it leads to {place.path})"
        raise ToolError(
            f"cannot {verb} {given}{leads}: it is outside the workspace {workspace}, and outside paths cannot be "
            "allowed yet; use a path inside the workspace"
        )
    return place


def check_workspace(workspace: Path, verb: str) -> None:
    """Raise ToolError when the directory of the workspace has gone away (H05)."""
    if not workspace.is_dir():
        raise ToolError(
            f"cannot {verb}: the directory of the workspace {workspace} is missing; it must come back first"
        )


def open_inside(place: ResolvedPath) -> int:
    """Open the regular file at `place` for reading, without following a last-moment symbolic link out (X07).

    Returns a descriptor. Raises ToolError for what is not a regular file, OSError when it cannot be opened.
    """
    if is_guarded(place.path):
        raise ToolError(
            f"cannot open {place.shown}: it is the database of this workspace, which is in use; read a copy of it"
        )
    # Without O_NONBLOCK, opening a named pipe would wait for a writer.
    fd = os.open(place.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            raise ToolError(f"cannot open {place.shown}: it is a directory; use ls")
        if not stat.S_ISREG(mode):
            raise ToolError(f"cannot open {place.shown}: it is not a regular file")
        check_still_there(fd, place.path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def check_still_there(fd: int, path: Path) -> None:
    """Raise ToolError unless `fd` is the thing at the resolved `path`; else a directory on the way was exchanged."""
    try:
        real = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:  # no /proc here; the check is a second line only
        return
    if real != str(path):
        raise ToolError(f"cannot open {path}: it was moved while it was being opened; try again")


def check_directory(place: ResolvedPath, *, verb: str) -> None:
    """Raise ToolError unless the place is a directory. Blocks."""
    try:
        mode = place.path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise ToolError(f"cannot {verb} {place.shown}: it does not exist") from None
    except OSError as error:
        raise ToolError(f"cannot {verb} {place.shown}: {error.strerror}") from error
    if not stat.S_ISDIR(mode):
        raise ToolError(f"cannot {verb} {place.shown}: it is not a directory")
