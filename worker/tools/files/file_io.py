"""Read a whole file, and replace it in one step. Blocks: for threads."""

import contextlib
import hashlib
import itertools
import os
from dataclasses import dataclass

from worker.toolkit.paths import ResolvedPath, check_still_there, open_inside
from worker.toolkit.tool import ToolError

NEW_FILE_MODE = 0o666  # minus the umask, as for any file that a user creates
_temporary_numbers = itertools.count()


@dataclass(frozen=True)
class Content:
    """The content and mode of a file at one moment."""

    data: bytes
    mode: int

    @property
    def sha256(self) -> str:
        """The hash under which the ledger stores this content."""
        return sha256(self.data)

    def text(self, shown: str) -> str:
        """Decode the content. Raises ToolError when it is not UTF-8."""
        try:
            return self.data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ToolError(f"cannot read {shown}: it is not UTF-8 text (byte {error.start})") from error


def sha256(data: bytes) -> str:
    """Hash a content; hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def read_content(resolved: ResolvedPath, max_bytes: int) -> Content | None:
    """Read the whole file; None when it does not exist. Raises ToolError when it is too large or not a regular file."""
    try:
        fd = open_inside(resolved)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ToolError(f"cannot read {resolved.shown}: {error.strerror}") from error
    with open(fd, "rb") as file:
        mode = os.fstat(fd).st_mode
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ToolError(f"cannot read {resolved.shown} as a whole: it is larger than {max_bytes} bytes; use bash")
    return Content(data, mode & 0o7777)


def replace_content(resolved: ResolvedPath, data: bytes, mode: int | None) -> None:
    """Replace the file in one step: readers see the old file or the new one, and a crash leaves one of them.

    Creates missing parents. Keeps owner, extended attributes and `mode`, which is None for a new file.
    Raises ToolError, also for a file that is protected from writing: a rename would replace it all the same.
    """
    if mode is not None and not (mode & 0o222 and os.access(resolved.path, os.W_OK, effective_ids=True)):
        raise ToolError(f"cannot write {resolved.shown}: it is protected from writing; allow writing with chmod first")
    try:
        resolved.path.parent.mkdir(parents=True, exist_ok=True)
        parent = os.open(resolved.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            check_still_there(parent, resolved.path.parent)
            _replace_in(parent, resolved.path.name, data, mode)
        finally:
            os.close(parent)
    except OSError as error:
        raise ToolError(f"cannot write {resolved.shown}: {error.strerror}") from error


def _replace_in(parent: int, name: str, data: bytes, mode: int | None) -> None:
    temporary = f".{os.fsdecode(os.fsencode(name)[:100])}.{os.getpid()}.{next(_temporary_numbers)}.bulkhead~"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, NEW_FILE_MODE, dir_fd=parent)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            if mode is not None:
                _keep_owner(fd, parent, name)
                os.fchmod(fd, mode)  # after the owner: changing that clears some bits
            os.fsync(fd)
        os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=parent)
        raise


def _keep_owner(fd: int, parent: int, name: str) -> None:
    """Copy owner, access list and labels of the replaced file to the new one, as far as permitted."""
    with contextlib.suppress(OSError):
        old_fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
        try:
            old_status, new_status = os.fstat(old_fd), os.fstat(fd)
            if (old_status.st_uid, old_status.st_gid) != (new_status.st_uid, new_status.st_gid):
                try:
                    os.fchown(fd, old_status.st_uid, old_status.st_gid)
                except OSError:  # another owner, but perhaps a group that this process is in
                    with contextlib.suppress(OSError):
                        os.fchown(fd, -1, old_status.st_gid)
            for attribute in os.listxattr(old_fd):
                if attribute != "security.capability":  # the kernel drops it with any change of the content
                    with contextlib.suppress(OSError):
                        os.setxattr(fd, attribute, os.getxattr(old_fd, attribute))
        finally:
            os.close(old_fd)
