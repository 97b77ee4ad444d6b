"""Read the resource usage of a process: memory, CPU time, descriptors."""

import os
import resource
from pathlib import Path


def resident_bytes(pid: int) -> int:
    """Return the resident memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def peak_bytes(pid: int) -> int:
    """Return the peak of the resident memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def cpu_s(pid: int) -> float:
    """Return the CPU time used, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descriptors(pid: int) -> set[int]:
    """Return the open descriptors."""
    return {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
