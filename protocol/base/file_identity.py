"""Tell a file or directory from a copy of it: by its inode and the time of its birth.

A moved or renamed file keeps both. A copy, and a file that was restored from a backup, have others, although their
content is the same. The device is left out: its number changes with a reboot, a loop device or a snapshot.
"""

import ctypes
import os
import struct
from pathlib import Path

_AT_FDCWD = -100
_STATX_BTIME = 0x800
_STATX_BYTES = 256
_BTIME_OFFSET = 80
"""Of `stx_btime` in struct statx (statx(2)): seconds as a signed 64-bit, nanoseconds as an unsigned 32-bit number."""


def file_identity(path: Path) -> str:
    """Return `inode:birth`; the birth is in nanoseconds since the epoch, 0 where the file system does not know it.

    Raises OSError when the file does not exist.
    """
    return f"{os.stat(path).st_ino}:{birth_ns(path)}"


def birth_ns(path: str | Path) -> int:
    """Return when the file was made, in nanoseconds since the epoch; 0 when that is unknown, or there is no file."""
    statx = getattr(ctypes.CDLL(None), "statx", None)
    if statx is None:  # another C library
        return 0
    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    if statx(_AT_FDCWD, os.fsencode(path), 0, _STATX_BTIME, buffer) != 0:
        return 0
    (known,) = struct.unpack_from("=I", buffer)
    seconds, nanoseconds = struct.unpack_from("=qI", buffer, _BTIME_OFFSET)
    return seconds * 1_000_000_000 + nanoseconds if known & _STATX_BTIME else 0
