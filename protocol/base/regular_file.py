"""Read files whose names come from elsewhere: what is there may be a pipe, a device, or much larger than expected."""

import errno
import os
import stat
from pathlib import Path


def read_regular_file(path: Path, max_bytes: int, *, follows_links: bool = True) -> bytes:
    """Return the content, at most one byte more than `max_bytes`, so that the caller sees when it is too long.

    Raises OSError, also (EINVAL) for anything but a regular file; ELOOP for a link that is not followed.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # without O_NONBLOCK, opening a named pipe waits for a writer
    descriptor = os.open(path, flags if follows_links else flags | os.O_NOFOLLOW)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        return file.read(max_bytes + 1)
