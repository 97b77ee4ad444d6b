"""Reading a file whole and replacing it in one step. Blocking: for threads."""

import contextlib
import hashlib
import itertools
import os
from dataclasses import dataclass

from worker.tools.paths import Place, check_still_there, open_inside
from worker.tools.tool import ToolError

NEW_FILE_MODE = 0o666  # minus the umask, as for any file that a user makes
_names = itertools.count()


@dataclass(frozen=True)
class Content:
    """What a file held at one moment."""

    data: bytes
    mode: int

    @property
    def sha256(self) -> str:
        """The hash by which the ledger knows this content."""
        return sha256(self.data)

    def text(self, shown: str) -> str:
        """As text. Raises ToolError when it is not UTF-8."""
        try:
            return self.data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ToolError(f"cannot read {shown}: it is not UTF-8 text (byte {error.start})") from error


def sha256(data: bytes) -> str:
    """The hash of a content, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def read_content(place: Place, max_bytes: int) -> Content | None:
    """The whole file, or None when there is none. Raises ToolError when it is too large or not a regular file."""
    try:
        fd = open_inside(place)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ToolError(f"cannot read {place.shown}: {error.strerror}") from error
    with open(fd, "rb") as file:
        mode = os.fstat(fd).st_mode
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ToolError(f"cannot open {place.shown} as a whole: it is larger than {max_bytes} bytes; use bash")
    return Content(data, mode & 0o7777)


def replace_content(place: Place, data: bytes, mode: int | None) -> None:
    """Put `data` at `place` in one step: readers see the old file or the new one, a crash leaves one of them (D-rows).

    Parents are made. `mode` is the mode to keep, None for a new file. Raises ToolError.
    """
    try:
        place.path.parent.mkdir(parents=True, exist_ok=True)
        parent = os.open(place.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            check_still_there(parent, place.path.parent)
            _replace_in(parent, place.path.name, data, mode)
        finally:
            os.close(parent)
    except OSError as error:
        raise ToolError(f"cannot write {place.shown}: {error.strerror}") from error


def _replace_in(parent: int, name: str, data: bytes, mode: int | None) -> None:
    temporary = f".{name[:100]}.{os.getpid()}.{next(_names)}.bulkhead~"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, NEW_FILE_MODE, dir_fd=parent)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            if mode is not None:
                os.fchmod(fd, mode)
            os.fsync(fd)
        os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=parent)
        raise
