"""The small file in which the shell of `bash` says where it ended (W-61)."""

import contextlib
import os
import re
import stat
from pathlib import Path

REPORT_MAX_BYTES = 4097  # the longest path, and the end of its line
_NAME = re.compile(r"bulkhead-([1-9][0-9]*)-[0-9a-f]{16}\.cwd")


def report_path(folder: Path, marker: str) -> Path:
    """A file that no other command has. `marker` begins with the pid of this worker."""
    return folder / f"bulkhead-{marker}.cwd"


def take_report(report: Path) -> Path | None:
    """What the shell wrote, and remove it. The command knows the path too, so anything may lie there: None for that."""
    data = b""
    with contextlib.suppress(OSError):
        # A link would show what the command may not read itself; a pipe would never end.
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
    found = Path(os.fsdecode(data.removesuffix(b"\n")))
    try:
        return found if found.is_dir() else None
    except (OSError, ValueError):
        return None


def sweep_reports(folder: Path) -> None:
    """Remove our reports of workers that do not live any more: one that is killed leaves them behind."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if (found := _NAME.fullmatch(entry.name)) and not Path("/proc", found[1]).exists():
                with contextlib.suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_uid == os.getuid():
                        os.unlink(entry.path)
