"""Reading a file whole and replacing it in one step. Blocking: for threads."""

import contextlib
import hashlib
import itertools
import os
from dataclasses import dataclass

from worker.toolkit.paths import Place, check_still_there, open_inside
from worker.toolkit.tool import ToolError

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

    Parents are made. `mode` is the mode to keep, None for a new file; owner and extended attributes are kept as well.
    Raises ToolError, also for a file that is protected from writing: it could be replaced all the same.
    """
    if mode is not None and not (mode & 0o222 and os.access(place.path, os.W_OK, effective_ids=True)):
        raise ToolError(f"cannot write {place.shown}: it is protected from writing; allow writing with chmod first")
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
    temporary = f".{os.fsdecode(os.fsencode(name)[:100])}.{os.getpid()}.{next(_names)}.bulkhead~"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, NEW_FILE_MODE, dir_fd=parent)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            if mode is not None:
                _keep_owner(fd, parent, name)
                os.fchmod(fd, mode)  # after the owner, a change of which takes bits away
            os.fsync(fd)
        os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=parent)
        raise


def _keep_owner(fd: int, parent: int, name: str) -> None:
    """Give the new file owner, access list and labels of the one that it replaces, as far as we may."""
    with contextlib.suppress(OSError):
        old = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
        try:
            before, now = os.fstat(old), os.fstat(fd)
            if (before.st_uid, before.st_gid) != (now.st_uid, now.st_gid):
                try:
                    os.fchown(fd, before.st_uid, before.st_gid)
                except OSError:  # the group may be one of ours, though the owner is somebody else
                    with contextlib.suppress(OSError):
                        os.fchown(fd, -1, before.st_gid)
            for attribute in os.listxattr(old):
                if attribute != "security.capability":  # it does not outlive a change of the content anywhere
                    with contextlib.suppress(OSError):
                        os.setxattr(fd, attribute, os.getxattr(old, attribute))
        finally:
            os.close(old)
