"""Make directories that only this user may use, and check those that exist."""

import os
import stat
from pathlib import Path


class RuntimeRefused(Exception):
    """A directory cannot be used as it is; the text says why and what would be right. Exit code 2."""


def make_private(path: Path) -> None:
    """Create a directory with mode 0700, or check the owner of the existing one. Raises RuntimeRefused, OSError."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        pass
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise RuntimeRefused(f"cannot use {path}: it is not a directory; remove it or choose another path")
    if status.st_uid != os.getuid():
        raise RuntimeRefused(
            f"cannot use {path}: it belongs to user {status.st_uid}, and this server runs as {os.getuid()}; "
            "choose another path"
        )
    if stat.S_IMODE(status.st_mode) != 0o700:
        path.chmod(0o700)
