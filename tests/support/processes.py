"""Observe processes from a test: wait by pidfd, send signals, find the processes of a test server by marker."""

import asyncio
import os
import select
import signal
from dataclasses import dataclass
from pathlib import Path

HARNESS_MARKER = "BULKHEAD_TEST_HARNESS"
WORKSPACE_MARKER = "BULKHEAD_WORKSPACE_ID"


@dataclass(frozen=True)
class Identity:
    """The identity of a process; a later process with the same pid has a different one."""

    pid: int
    start_ticks: int


class Process:
    """A process, not necessarily a child of this one, referred to by a pidfd."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = os.pidfd_open(pid)
        self.start_ticks = start_ticks(pid)

    @property
    def identity(self) -> Identity:
        """Pid and start time."""
        return Identity(self.pid, self.start_ticks)

    @property
    def is_alive(self) -> bool:
        """Return whether the process has not exited; a zombie has exited."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return not poll.poll(0)

    @property
    def state(self) -> str:
        """Return the state letter of /proc (`T` is stopped); "" when it has exited."""
        return state_of(self.pid) if self.is_alive else ""

    def send(self, number: signal.Signals) -> None:
        """Send a signal; ignored if the process has exited."""
        try:
            signal.pidfd_send_signal(self._fd, number)
        except ProcessLookupError:
            pass

    async def gone(self, timeout_s: float = 5.0) -> None:
        """Wait until the process has exited: its pidfd becomes readable."""
        loop = asyncio.get_running_loop()
        exited = asyncio.Event()
        loop.add_reader(self._fd, exited.set)
        try:
            async with asyncio.timeout(timeout_s):
                await exited.wait()
        except TimeoutError:
            raise AssertionError(
                f"process {self.pid} did not exit within {timeout_s} s; state {self.state!r}: {title(self.pid)}"
            ) from None
        finally:
            loop.remove_reader(self._fd)

    async def kill(self, timeout_s: float = 5.0) -> None:
        """Send SIGKILL and wait until the process has exited."""
        self.send(signal.SIGKILL)
        await self.gone(timeout_s)

    def close(self) -> None:
        """Close the pidfd."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Pipe:
    """A named pipe: a child writes a line when it has reached a point, and the test waits for that line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path, 0o600)
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)  # opened for writing too: no end of file
        self._data = b""

    async def line(self, timeout_s: float = 10.0) -> str:
        """Return the next line that a child writes."""
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()
        loop.add_reader(self._fd, changed.set)
        try:
            async with asyncio.timeout(timeout_s):
                while b"\n" not in self._data:
                    await changed.wait()
                    changed.clear()
                    self._data += os.read(self._fd, 65536)
        except TimeoutError:
            raise AssertionError(f"no line was written to {self.path} within {timeout_s} s") from None
        finally:
            loop.remove_reader(self._fd)
        line, _, self._data = self._data.partition(b"\n")
        return line.decode()

    def close(self) -> None:
        """Close the pipe."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def start_ticks(pid: int) -> int:
    """Return the start time of a process in clock ticks since boot; 0 when it has exited."""
    fields = _stat(pid)
    return int(fields[19]) if fields else 0


def state_of(pid: int) -> str:
    """Return the state letter of a process; "" when it has exited."""
    fields = _stat(pid)
    return fields[0] if fields else ""


def parent_of(pid: int) -> int:
    """Return the pid of the parent; 0 when the process has exited."""
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def title(pid: int) -> str:
    """Return the command line, as `ps` shows it."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def all_pids() -> list[int]:
    """Return the pids of all processes."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def marked(name: str, value: str) -> list[int]:
    """Return the running processes whose environment contains `name=value`, or `name=value@…`; zombies have none."""
    entry = f"{name}={value}".encode()
    pids = []
    for pid in all_pids():
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if any(found == entry or found.startswith(entry + b"@") for found in environment.split(b"\0")):
            pids.append(pid)
    return pids


def mentioning(text: str) -> list[int]:
    """Return the running processes whose command line contains `text`: a worker has its path in its title."""
    return [pid for pid in all_pids() if pid != os.getpid() and text in title(pid) and state_of(pid) not in ("", "Z")]


def descendants(pid: int) -> list[int]:
    """Return all descendants of a process."""
    result, unvisited = [], [pid]
    while unvisited:
        children = _children(unvisited.pop())
        result += children
        unvisited += children
    return result


def _children(pid: int) -> list[int]:
    pids: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            pids += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    except OSError:
        pass  # it has exited, and has no children
    return pids


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
