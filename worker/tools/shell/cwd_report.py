"""The small file to which the shell of `bash` writes its last directory (W-61)."""

import contextlib
import os
import re
import stat
from pathlib import Path

REPORT_MAX_BYTES = 4097  # the longest path, and a newline
_NAME = re.compile(r"bulkhead-([1-9][0-9]*)-[0-9a-f]{16}\.cwd")


def report_path(folder: Path, marker: str) -> Path:
    """Return a path that no other command uses. `marker` begins with the pid of this worker."""
    return folder / f"bulkhead-{marker}.cwd"


def take_report(report: Path) -> Path | None:
    """Read the report and remove it. The command knows the path too: None for anything but a path of a directory."""
    data = b""
    with contextlib.suppress(OSError):
        # A link could show a file that the command may not read itself; a pipe would never end.
        fd = os.open(report, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                data = os.read(fd, REPORT_MAX_BYTES + 1)
        finally:
            os.close(fd)
    with contextlib.suppress(OSError):
        report.unlink()
    if not data.startswith(b"/") or len(data) > REPORT_MAX_BYTES:
        return None
    directory = Path(os.fsdecode(data.removesuffix(b"\n")))
    try:
        return directory if directory.is_dir() else None
    except (OSError, ValueError):
        return None


def sweep_reports(folder: Path) -> None:
    """Remove the reports that killed workers of this user left behind."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if (name := _NAME.fullmatch(entry.name)) and not Path("/proc", name[1]).exists():
                with contextlib.suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_uid == os.getuid():
                        os.unlink(entry.path)
