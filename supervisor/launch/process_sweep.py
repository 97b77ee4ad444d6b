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

from protocol.worker_spec import MARKER

_PAUSE_S = 0.005
_LOOKS_MAX = 16
_EXEC_S = 0.001
_EXEC_LOOKS = 250
"""Looks at a process in the middle of an exec, which shows no environment, and the pause between two of them. A busy
machine may leave it there for some time."""
_EMPTY_LOOKS = 8
"""Looks at one whose environment is empty. For a moment of every exec it is, while the kernel counts the variables."""
_DEAD = (b"Z", b"X")
_KERNEL_THREAD = 0x0020_0000
"""PF_KTHREAD of the flags in /proc/PID/stat (include/linux/sched.h)."""


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
    for look in range(_EXEC_LOOKS):
        if not blank:
            break
        time.sleep(_EXEC_S)
        again = {pid: _carries(pid, needle) for pid in blank}
        found += [pid for pid, carries in again.items() if carries]
        blank = [pid for pid, carries in again.items() if carries is None and _may_show_one(pid, look)]
    return [pid for pid in found if _is_alive(pid)]


def sweep(workspace_id: str, *, keep: Collection[int], timeout_s: float) -> int:
    """SIGKILL every marked process but those in `keep`, again until none is left; returns how many there were.

    A process that forks while we look is found in the next round. Ends after `timeout_s` seconds at the latest.
    """
    deadline = time.monotonic() + timeout_s
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
    """Does this process carry the marker? None when that cannot be seen now: it is in the middle of an exec."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            environment = file.read()
    except OSError:
        return False  # gone, or somebody else's
    return needle in environment if environment else None


def _may_show_one(pid: int, look: int) -> bool:
    """Of a process that shows no environment: may it show one later?

    Threads of the kernel and the dead never do. Start and end of an environment (fields 50 and 51, proc_pid_stat(5))
    are zero until an exec has laid it out, and equal where there is none.
    """
    status = _status(pid)
    if not status or status[0] in _DEAD or int(status[6]) & _KERNEL_THREAD:
        return False
    start, end = status[47:49]
    return look < _EMPTY_LOOKS or start != end or start == b"0"


def _is_alive(pid: int) -> bool:
    status = _status(pid)
    return bool(status) and status[0] not in _DEAD


def _status(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat from the third on, the state; empty when the process is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return []
