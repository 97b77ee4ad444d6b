"""Resolve a path given to a tool and decide whether it is inside the workspace (W-41). Blocks: for threads.

The decision is made on resolved paths, component by component: a symbolic link that leads out is outside, `..` is
followed, a sibling directory whose name has the same prefix is not inside. For a path outside, most tools ask for
permission (`tools/files/path_permission.py`); `locate_inside` refuses it, for tools that have to stay inside.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from worker.store.open_file_guard import is_guarded
from worker.toolkit.tool import ToolError


@dataclass(frozen=True)
class ResolvedPath:
    """A path given to a tool: the resolved path, and how to show it (relative to the workspace when inside)."""

    path: Path
    inside: bool
    shown: str


def locate(workspace: Path, given: str) -> ResolvedPath:
    """Resolve `given`, a relative path from the workspace. The path need not exist. Raises ToolError."""
    try:
        path = Path(os.path.realpath(workspace / given))
    except (ValueError, OSError) as error:  # a NUL byte; too long
        raise ToolError(f"cannot use path {given!r}: {error}") from error
    root = Path(os.path.realpath(workspace))
    inside = path == root or root in path.parents
    return ResolvedPath(path, inside, str(path.relative_to(root)) if inside else str(path))


def locate_inside(workspace: Path, given: str, *, verb: str) -> ResolvedPath:
    """Resolve a path like `locate` for a tool that has to stay inside. Raises ToolError saying what was refused."""
    if not given:
        raise ToolError(f"cannot {verb}: the path is empty; give a path, absolute or relative to {workspace}")
    resolved = locate(workspace, given)
    if not resolved.inside:
        target = "" if str(resolved.path) == given else f" (it leads to {resolved.path})"
        raise ToolError(
            f"cannot {verb} {given}{target}: it is outside the workspace {workspace}, and this tool works only inside; "
            "use a path inside the workspace"
        )
    return resolved


def check_workspace(workspace: Path, verb: str) -> None:
    """Raise ToolError when the directory of the workspace is missing (H05)."""
    if not workspace.is_dir():
        raise ToolError(
            f"cannot {verb}: the directory of the workspace {workspace} is missing; it must come back first"
        )


def open_inside(resolved: ResolvedPath) -> int:
    """Open the regular file at `resolved` for reading, without following a last-moment symbolic link out (X07).

    Returns a descriptor. Raises ToolError when it is not a regular file, OSError when it cannot be opened.
    """
    if is_guarded(resolved.path):
        raise ToolError(
            f"cannot open {resolved.shown}: it is the database of this workspace, which is in use; read a copy of it"
        )
    # Without O_NONBLOCK, opening a named pipe would wait for a writer.
    fd = os.open(resolved.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            raise ToolError(f"cannot open {resolved.shown}: it is a directory; use ls")
        if not stat.S_ISREG(mode):
            raise ToolError(f"cannot open {resolved.shown}: it is not a regular file")
        check_still_there(fd, resolved.path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def check_still_there(fd: int, path: Path) -> None:
    """Raise ToolError unless `fd` is the file at the resolved `path`: a parent directory may have been replaced."""
    try:
        real = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:  # no /proc here; this check is only a second line of defence
        return
    if real != str(path):
        raise ToolError(f"cannot open {path}: it was moved while it was being opened; try again")


def check_directory(resolved: ResolvedPath, *, verb: str) -> None:
    """Raise ToolError unless the path is a directory. Blocks."""
    try:
        mode = resolved.path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise ToolError(f"cannot {verb} {resolved.shown}: it does not exist") from None
    except OSError as error:
        raise ToolError(f"cannot {verb} {resolved.shown}: {error.strerror}") from error
    if not stat.S_ISDIR(mode):
        raise ToolError(f"cannot {verb} {resolved.shown}: it is not a directory")
