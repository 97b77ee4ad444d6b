"""Processes as a test sees them: pidfd waits, signals, and what is left over of a house, by marker and by identity."""

import asyncio
import os
import select
import signal
from dataclasses import dataclass
from pathlib import Path

HOUSE_MARKER = "BULKHEAD_TEST_HOUSE"
WORKSPACE_MARKER = "BULKHEAD_WORKSPACE_ID"


@dataclass(frozen=True)
class Identity:
    """A process that cannot be mistaken for a later one with the same pid."""

    pid: int
    start_ticks: int


class Process:
    """One process, not necessarily a child of ours, held by a pidfd from the moment it is made."""

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
        """Has it not ended yet? A zombie has ended."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return not poll.poll(0)

    @property
    def state(self) -> str:
        """The state letter of /proc (`T` is stopped); "" when it is gone."""
        return state_of(self.pid) if self.is_alive else ""

    def send(self, number: signal.Signals) -> None:
        """Send a signal; a process that is gone is no error."""
        try:
            signal.pidfd_send_signal(self._fd, number)
        except ProcessLookupError:
            pass

    async def gone(self, timeout_s: float = 5.0) -> None:
        """Returns when the process has ended: its pidfd is readable."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(self._fd, ended.set)
        try:
            async with asyncio.timeout(timeout_s):
                await ended.wait()
        except TimeoutError:
            raise AssertionError(
                f"process {self.pid} does not end within {timeout_s} s; state {self.state!r}: {title(self.pid)}"
            ) from None
        finally:
            loop.remove_reader(self._fd)

    async def kill(self, timeout_s: float = 5.0) -> None:
        """SIGKILL; returns when the pidfd says that it is over."""
        self.send(signal.SIGKILL)
        await self.gone(timeout_s)

    def close(self) -> None:
        """Give the descriptor back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Pipe:
    """A named pipe: a child says by a line that it has come so far, and the test waits for that fact."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path, 0o600)
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)  # read-write: never at its end
        self._data = b""

    async def line(self, timeout_s: float = 10.0) -> str:
        """The next line that a child wrote."""
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
            raise AssertionError(f"nothing was written into {self.path} within {timeout_s} s") from None
        finally:
            loop.remove_reader(self._fd)
        line, _, self._data = self._data.partition(b"\n")
        return line.decode()

    def close(self) -> None:
        """Give the descriptor back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def start_ticks(pid: int) -> int:
    """When this process began, in clock ticks since boot; 0 when it is gone."""
    fields = _stat(pid)
    return int(fields[19]) if fields else 0


def state_of(pid: int) -> str:
    """The state letter of a process; "" when it is gone."""
    fields = _stat(pid)
    return fields[0] if fields else ""


def parent_of(pid: int) -> int:
    """The parent's pid, 0 when the process is gone."""
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def title(pid: int) -> str:
    """What `ps` would show of it."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def all_pids() -> list[int]:
    """Every process of this machine."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def marked(name: str, value: str) -> list[int]:
    """The living processes whose environment carries `name=value`; zombies have none."""
    wanted = f"{name}={value}".encode()
    found = []
    for pid in all_pids():
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if wanted in environment.split(b"\0"):
            found.append(pid)
    return found


def mentioning(text: str) -> list[int]:
    """The living processes whose command line (or title) contains `text`: a forked worker carries its path there."""
    return [pid for pid in all_pids() if pid != os.getpid() and text in title(pid) and state_of(pid) not in ("", "Z")]


def descendants(pid: int) -> list[int]:
    """Every living process below `pid`."""
    found, waiting = [], [pid]
    while waiting:
        children = _children(waiting.pop())
        found += children
        waiting += children
    return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    except OSError:
        pass  # it is gone, and has no children
    return found


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
