"""Finds and ends everything that a worker started, by the marker in its environment.

One interface, so that delegated cgroups can take its place where they exist. Processes that scrub their environment
escape a marker; their tools' own session and the subreaper catch the ordinary ones (P8). The scan reads /proc and
may block for tens of milliseconds: call it on a thread.
"""

import contextlib
import os
import signal
import time
from collections.abc import Collection

from protocol.spec import MARKER

_PAUSE_S = 0.005
_LOOKS_MAX = 16
_EXEC_LOOKS = 8
_EXEC_S = 0.001
"""Between two looks at processes that show no environment: in the middle of an exec, or threads of the kernel."""


def marked(workspace_id: str) -> list[int]:
    """The living processes whose environment carries this workspace's marker.

    Looked for until a look shows nothing new: one that forks and leaves while we read would hide its child. On a
    machine where something new appears all the time this ends after a few looks; `sweep` looks again.
    """
    needle = f"{MARKER}={workspace_id}\0".encode()
    found: list[int] = []
    blank: list[int] = []
    seen: set[str] = set()
    for _ in range(_LOOKS_MAX):
        new = [name for name in os.listdir("/proc") if name.isdigit() and name not in seen]
        if not new:
            break
        seen.update(new)
        for pid in map(int, new):
            match _carries(pid, needle):
                case True:
                    found.append(pid)
                case None:
                    blank.append(pid)
    for _ in range(_EXEC_LOOKS):
        if not blank:
            break
        time.sleep(_EXEC_S)
        again = {pid: _carries(pid, needle) for pid in blank}
        found += [pid for pid, carries in again.items() if carries]
        blank = [pid for pid, carries in again.items() if carries is None]
    return [pid for pid in found if _is_alive(pid)]


def sweep(workspace_id: str, *, keep: Collection[int], within_s: float) -> int:
    """SIGKILL every marked process but those in `keep`, again until none is left; returns how many there were.

    A process that forks while we look is found in the next round. Ends after `within_s` seconds at the latest.
    """
    deadline = time.monotonic() + within_s
    ended: set[int] = set()
    while True:
        left = [pid for pid in marked(workspace_id) if pid not in keep]
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        ended.update(left)
        if not left or time.monotonic() > deadline:
            return len(ended)
        time.sleep(_PAUSE_S)  # on a thread; lets the kernel take them away before the next look


def _carries(pid: int, needle: bytes) -> bool | None:
    """Does this process carry the marker? None when it shows no environment at all: a moment of every exec."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            environment = file.read()
    except OSError:
        return False  # gone, or somebody else's
    return needle in environment if environment else None


def _is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False
