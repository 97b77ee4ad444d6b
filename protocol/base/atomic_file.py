"""Replace a file in one step: readers see the old content or the new one, and a crash leaves one of them.

The file tools replace a user's file by themselves (worker/tools/files/file_io.py): by directory descriptor, so that no
exchanged directory can lead them elsewhere, with owner and attributes kept and several writers at a time.
"""

import os
from pathlib import Path


def replace_file(
    path: Path, data: bytes, *, mode: int = 0o600, sync: bool = False, sync_directory: bool = False
) -> None:
    """Write `data` into a new file of this mode, whatever the umask, and rename it to `path`.

    `sync` writes the content to disk before the rename, `sync_directory` the new entry after it. One writer at a time:
    the temporary file has a fixed name, so that the next writer removes what a killed one left. Raises OSError; the
    file is then as it was, unless only the last sync failed, and no temporary file is left.
    """
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)  # a leftover, or a link that somebody placed there
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            if sync:
                os.fsync(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sync_directory:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
