"""What a process of the house costs now: memory, processor time, descriptors."""

import os
import resource
from pathlib import Path


def resident_bytes(pid: int) -> int:
    """The memory that it has now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def peak_bytes(pid: int) -> int:
    """The most memory that it ever had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def cpu_s(pid: int) -> float:
    """The processor time that it has used, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descriptors(pid: int) -> set[int]:
    """Its open descriptors."""
    return {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
