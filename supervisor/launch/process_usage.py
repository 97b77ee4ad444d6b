"""What one process uses: memory and processor, as the operators' routes show it."""

from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one process. `uss_bytes` is its private memory, only when asked for: it costs the kernel a walk."""

    rss_bytes: int
    uss_bytes: int | None
    cpu_s: float


def measure(pid: int, is_full: bool) -> Usage | None:
    """What the process uses now; None when it is gone. May block for milliseconds: call it on a thread."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times = process.cpu_times()
            if is_full:
                memory = process.memory_full_info()
                return Usage(memory.rss, memory.uss, times.user + times.system)
            return Usage(process.memory_info().rss, None, times.user + times.system)
    except psutil.Error:
        return None
