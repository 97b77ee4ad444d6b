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


def marked(workspace_id: str) -> list[int]:
    """The living processes whose environment carries this workspace's marker.

    Looked for until a look shows nothing new: one that forks and leaves while we read would hide its child.
    """
    needle = f"{MARKER}={workspace_id}\0".encode()
    found: list[int] = []
    seen: set[str] = set()
    while new := [name for name in os.listdir("/proc") if name.isdigit() and name not in seen]:
        seen.update(new)
        for name in new:
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    environment = file.read()
            except OSError:
                continue  # gone, or somebody else's
            if needle in environment and _is_alive(int(name)):
                found.append(int(name))
    return found


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


def _is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False
