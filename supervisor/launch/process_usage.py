"""Measure the memory and processor time of one process, for the operators' routes."""

from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """Memory and processor time. `uss_bytes` is the private memory; None unless requested, because it is expensive."""

    rss_bytes: int
    uss_bytes: int | None
    cpu_s: float


def measure_process(pid: int, is_full: bool) -> ProcessUsage | None:
    """Measure a process now; None when it does not exist. May block for milliseconds: call it on a thread."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times = process.cpu_times()
            if is_full:
                memory = process.memory_full_info()
                return ProcessUsage(memory.rss, memory.uss, times.user + times.system)
            return ProcessUsage(process.memory_info().rss, None, times.user + times.system)
    except psutil.Error:
        return None
