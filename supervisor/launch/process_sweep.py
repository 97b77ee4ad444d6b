"""Find and kill everything that a worker started, by the marker in its environment.

One interface, so that delegated cgroups can replace the scan where they exist. The scan reads /proc and may block for
tens of milliseconds: call it on a thread.
"""

import contextlib
import os
import signal
import time
from collections.abc import Collection

from protocol.base.marker_scan import find_marked, process_ids
from protocol.base.process_identity import start_ticks
from protocol.worker_spec import MARKER

_PAUSE_S = 0.005
_EXEC_WAIT_S = 0.25
"""For processes in the middle of an exec. Long, because nothing looks for leftovers of this worker again."""


def marked(marker: str) -> list[int]:
    """Return the living processes whose environment carries this value of MARKER."""
    pids = find_marked(MARKER, marker, pids=process_ids(), exec_wait_s=_EXEC_WAIT_S)
    return [pid for pid in pids if start_ticks(pid) is not None]


def sweep(marker: str, *, keep: Collection[int], timeout_s: float) -> int:
    """SIGKILL every marked process except those in `keep` until none is left; return how many were found.

    A process that forks during a scan is found in the next round. Ends after `timeout_s` seconds at the latest.
    """
    deadline = time.monotonic() + timeout_s
    killed: set[int] = set()
    while True:
        living = [pid for pid in marked(marker) if pid not in keep]
        for pid in living:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        killed.update(living)
        if not living or time.monotonic() > deadline:
            return len(killed)
        time.sleep(_PAUSE_S)  # on a thread; gives the kernel time to remove them before the next scan
