"""Measure CPU time and memory of a process and all its descendants, from /proc."""

import asyncio
import os
from collections import defaultdict
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_REST_S = 0.5
_REST_CPU_S = 0.2  # of one such period; a process that imports or warms up uses all of it
_REST_FALL_S = 0.02  # of one period to the next; less is the resolution of the clock
_REST_S_MAX = 120.0


class ProcessTree:
    """The process `root` and its present descendants."""

    def __init__(self, root: int) -> None:
        self.root = root

    def pids(self) -> list[int]:
        """Return the ids of the processes that exist now, the root first."""
        children = defaultdict(list)
        for entry in os.listdir("/proc"):
            if entry.isdigit() and (fields := _stat(int(entry))):
                children[int(fields[1])].append(int(entry))
        found = [self.root]
        for pid in found:
            found += children[pid]
        return found

    def cpu_s(self) -> float:
        """Return the CPU time of the tree in seconds, with that of descendants whose parent has collected them."""
        ticks = 0
        for pid in self.pids():
            fields = _stat(pid)
            ticks += sum(int(field) for field in fields[11:15])
        return ticks / _TICKS_PER_S

    def pss_mb(self) -> float:
        """Return the proportional set size of the tree in MB: shared pages are divided by the number of users."""
        total_kb = 0
        for pid in self.pids():
            try:
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                continue  # it has ended
            if text:
                total_kb += int(text.partition("\nPss:")[2].split()[0])
        return total_kb / 1024

    async def at_rest(self) -> None:
        """Wait until start-up work in the background is over: the CPU use of half a second is low and does not fall."""
        last = float("inf")
        async with asyncio.timeout(_REST_S_MAX):
            while True:
                before = self.cpu_s()
                await asyncio.sleep(_REST_S)
                used = self.cpu_s() - before
                if used < _REST_CPU_S and last < _REST_CPU_S and used > last - _REST_FALL_S:
                    return
                last = used


def process_cpu_s(pid: int) -> float:
    """Return the CPU time of a process alone in seconds, all its threads included."""
    return sum(int(field) for field in _stat(pid)[11:13]) / _TICKS_PER_S


def thread_cpu_s(pid: int) -> float:
    """Return the CPU time of a process with one thread in seconds, exact to nanoseconds where a tree's is to 10 ms."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat behind the command, or none if the process has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []
