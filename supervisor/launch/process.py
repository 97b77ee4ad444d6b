"""One process by pidfd: wait, signal, identity. Works for processes that are not our children.

The identity of a process is its boot id, pid and start ticks: the kernel may reuse a pid (S11).
"""

import asyncio
import contextlib
import os
import signal
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """The id of this boot of this machine; "" where the kernel does not tell."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def start_ticks(pid: int) -> int | None:
    """When the process began, in clock ticks since boot; None if there is none, or only its corpse."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            after_name = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if after_name[0] in (b"Z", b"X") else int(after_name[19])


class ProcessHandle:
    """A process held by a pidfd, so that nothing we do can hit a stranger with the same pid."""

    def __init__(self, pid: int, ticks: int, descriptor: int) -> None:
        self.pid = pid
        self.start_ticks = ticks
        self._descriptor = descriptor
        self._ended: asyncio.Future[None] | None = None

    @classmethod
    def open(cls, pid: int, ticks: int) -> "ProcessHandle | None":
        """The process with this identity, or None when it is gone."""
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:
            return None
        # Checked after opening: from here on the descriptor cannot mean anybody else.
        if start_ticks(pid) != ticks:
            os.close(descriptor)
            return None
        return cls(pid, ticks, descriptor)

    async def ended(self) -> None:
        """Wait for the end of the process."""
        if self._descriptor < 0:
            return
        loop = asyncio.get_running_loop()
        if self._ended is None:
            self._ended = loop.create_future()
            loop.add_reader(self._descriptor, self._readable)
        await asyncio.shield(self._ended)

    def send(self, number: signal.Signals) -> None:
        """Signal it; nothing happens when it is dead."""
        if self._descriptor >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, number)

    def close(self) -> None:
        """Let go of it, dead or alive."""
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
