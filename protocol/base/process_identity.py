"""Identify processes of this machine and hold them by pidfd, whether or not they are our children.

The kernel reuses pids. A process is identified by its boot id, pid and start time in clock ticks since boot (S11).
"""

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_KERNEL_THREAD = 0x0020_0000
"""PF_KTHREAD of the flags in /proc/PID/stat (include/linux/sched.h)."""


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """The fields of /proc/PID/stat that Bulkhead uses (proc_pid_stat(5)). Pid and `start_ticks` are the identity."""

    pid: int
    parent: int
    group: int
    session: int
    start_ticks: int
    is_dead: bool  # a zombie, or about to disappear
    is_kernel_thread: bool
    environment_start: int  # addresses in the memory of the process; 0 for a process of another user
    environment_end: int


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """Tells one process from all others that had or will have its pid."""

    pid: int
    start_ticks: int
    boot_id: str


def parse_stat(line: bytes) -> ProcessStat:
    """Parse the content of /proc/PID/stat. Raises ValueError, IndexError for anything else."""
    # The name in the second field may hold spaces and parentheses: the last one closes it.
    pid, _, rest = line.partition(b" ")
    fields = rest.rpartition(b")")[2].split()
    return ProcessStat(
        pid=int(pid),
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        start_ticks=int(fields[19]),
        is_dead=fields[0] in (b"Z", b"X"),
        is_kernel_thread=bool(int(fields[6]) & _KERNEL_THREAD),
        environment_start=int(fields[47]),
        environment_end=int(fields[48]),
    )


def read_stat(pid: int) -> ProcessStat | None:
    """Return the state of a process; None when it does not exist."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return parse_stat(file.read())
    except (OSError, ValueError, IndexError):
        return None


def start_ticks(pid: int) -> int | None:
    """Return when the process started, in clock ticks since boot; None when it does not exist or is a zombie."""
    stat = read_stat(pid)
    return None if stat is None or stat.is_dead else stat.start_ticks


def boot_id() -> str:
    """Return the id of this boot of this machine; "" where the kernel does not provide it."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def own_start_ticks() -> int:
    """Return when this process started, in clock ticks since boot; 0 where there is no /proc."""
    return start_ticks(os.getpid()) or 0


def own_identity() -> ProcessIdentity:
    """Return the identity of this process; zero and "" for what the system does not provide."""
    return ProcessIdentity(os.getpid(), own_start_ticks(), boot_id())


class ProcessHandle:
    """Holds a process by a pidfd, so that no signal can reach another process with the same pid.

    A context manager that closes the handle.
    """

    def __init__(self, pid: int, ticks: int, descriptor: int) -> None:
        self.pid = pid
        self.start_ticks = ticks
        self._descriptor = descriptor
        self._ended: asyncio.Future[None] | None = None

    @classmethod
    def open(cls, pid: int, ticks: int) -> "ProcessHandle | None":
        """Open the process with this pid and start time; None when it is dead or no descriptor is left."""
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:
            return None
        # Checked after opening: from now on the descriptor cannot refer to another process.
        if start_ticks(pid) != ticks:
            os.close(descriptor)
            return None
        return cls(pid, ticks, descriptor)

    def __enter__(self) -> "ProcessHandle":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def ended(self) -> None:
        """Wait until the process has ended; a zombie has. Returns at once when the handle is closed."""
        if self._descriptor < 0:
            return
        loop = asyncio.get_running_loop()
        if self._ended is None:
            self._ended = loop.create_future()
            loop.add_reader(self._descriptor, self._readable)
        await asyncio.shield(self._ended)

    async def ended_within(self, timeout_s: float) -> bool:
        """Wait until the process has ended; False when it still runs after `timeout_s` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.ended()
        except TimeoutError:
            return False
        return True

    def send(self, number: signal.Signals) -> None:
        """Send a signal; does nothing when the process is dead. Raises PermissionError for another user's process."""
        if self._descriptor >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, number)

    def close(self) -> None:
        """Release the descriptor, whether or not the process lives. May be called again."""
        if self._descriptor < 0:
            return
        if self._ended is not None:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            if not self._ended.done():
                self._ended.cancel()
        os.close(self._descriptor)
        self._descriptor = -1

    def _readable(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)
