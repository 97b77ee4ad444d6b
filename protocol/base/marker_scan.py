"""Find processes by a variable in their environment, however they detached themselves. Blocks: call it on a thread.

A process keeps the environment that it got at its last exec, also after `setsid` and a double fork. Between fork and
exec it still shows its parent's environment, and so the marker if the parent has one. In the middle of an exec it
shows an empty environment for a moment; such a process is looked at again. Processes that clear their environment
escape the scan; the subreaper and the session of a tool's command catch the ordinary ones.
"""

import os
import time
from collections.abc import Iterable, Iterator

from protocol.base.process_identity import read_stat

_LISTINGS_MAX = 32
"""Listings of /proc per scan. Beside a process that forks all the time there is always something new."""
_PAUSE_S = 0.001
"""Between two looks at processes in the middle of an exec."""
_EMPTY_LOOKS = 8
"""Looks at a process whose environment is laid out and empty. It is so for a moment of every exec, while the kernel
counts the variables."""


def process_ids() -> Iterator[int]:
    """Yield all pids. Lists /proc until a listing shows nothing new: a process that forks and exits meanwhile would
    hide its child, which is on no earlier listing."""
    seen: set[str] = set()
    for _ in range(_LISTINGS_MAX):
        new = [name for name in os.listdir("/proc") if name.isdecimal() and name not in seen]
        if not new:
            return
        seen.update(new)
        yield from map(int, new)


def find_marked(name: str, value: str, *, pids: Iterable[int], exec_wait_s: float) -> list[int]:
    """Return those of `pids` that have the variable `name` with this value in their environment.

    `exec_wait_s`: how long to wait for processes in the middle of an exec; on a busy machine one may stay there for
    long. Nothing is waited for while there is no such process.
    """
    marker = f"{name}={value}".encode()
    marked: list[int] = []
    unclear: list[int] = []
    for pid in pids:
        match _carries(pid, marker):
            case True:
                marked.append(pid)
            case None:
                unclear.append(pid)
    for look in range(round(exec_wait_s / _PAUSE_S)):
        unclear = [pid for pid in unclear if _may_show_environment(pid, look)]
        if not unclear:
            break
        time.sleep(_PAUSE_S)
        results = {pid: _carries(pid, marker) for pid in unclear}
        marked += [pid for pid, carries in results.items() if carries]
        unclear = [pid for pid, carries in results.items() if carries is None]
    return marked


def _carries(pid: int, marker: bytes) -> bool | None:
    """Return whether the process carries the marker; None while it shows no environment at all."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            environment = file.read()
    except OSError:
        return False  # it has ended, or belongs to another user
    return marker in environment.split(b"\0") if environment else None


def _may_show_environment(pid: int, look: int) -> bool:
    """Return whether a process that shows no environment may show one later.

    Kernel threads and dead processes never do. Start and end of an environment are zero until an exec has laid it out,
    and equal when it is empty.
    """
    stat = read_stat(pid)
    if stat is None or stat.is_dead or stat.is_kernel_thread:
        return False
    start, end = stat.environment_start, stat.environment_end
    return look < _EMPTY_LOOKS or start != end or start == 0
