"""Limit the number of processes of all commands of a worker: kill the largest command above the limit (T05).

Limits of the kernel count per user or need a cgroup. Counting a process tree costs milliseconds, so trees are counted
only when the machine has enough new threads that the limit may be reached, and at a slow rate anyway, because other
programs may have ended as many threads as a command started.
"""

import asyncio
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from protocol.base.clock import Clock
from protocol.base.logs import fields
from protocol.base.tasks import TaskOwner
from protocol.limits import Limits

LOOK_S = 0.1
SURE_S = 2.0
"""Time between two counts at the slow rate; longer where a count takes longer than `SURE_S / SHARE`."""

SHARE = 50
"""The slow rate spends at most one in so many seconds on counting."""
_LOAD = Path("/proc/loadavg")


class LimitedChild(Protocol):
    """A running command with its process tree. `kill_reason` says why the tree is being killed, "" when it is not."""

    pid: int
    kill_reason: str

    async def members(self) -> int:
        """Count the processes of the tree."""
        ...

    def kill_tree(self, why: str) -> None:
        """Kill the whole tree; `why` is shown in the result of the command."""
        ...


class LimitedChildren(Protocol):
    """All running commands of one worker, and what the watch needs of their owner."""

    limits: Limits
    clock: Clock
    tasks: TaskOwner
    log: logging.Logger

    @property
    def running(self) -> Collection[LimitedChild]:
        """The commands that have not ended."""
        ...


class ProcessLimit:
    """Watches the commands of one worker, while there are any."""

    def __init__(self, children: LimitedChildren) -> None:
        self._children = children
        self._task: asyncio.Task[None] | None = None
        self._suspicious_at = 0

    def check_soon(self) -> None:
        """Watch from now on: a command was started."""
        if self._task is None or self._task.done():
            self._suspicious_at = machine_threads() + self._children.limits.tool_processes_max
            self._task = self._children.tasks.start(self._watch(), "process_limit")

    async def _watch(self) -> None:
        limit, clock = self._children.limits.tool_processes_max, self._children.clock
        sure_at = clock.now() + SURE_S
        while self._children.running:
            await asyncio.sleep(LOOK_S)
            now = machine_threads()
            # Threads that other programs end must not raise the threshold.
            self._suspicious_at = min(self._suspicious_at, now + limit)
            if now >= self._suspicious_at or clock.now() >= sure_at:
                began = clock.now()
                self._suspicious_at = machine_threads() + max(1, limit - await self._count())
                sure_at = clock.now() + max(SURE_S, SHARE * (clock.now() - began))

    async def _count(self) -> int:
        """Count the processes of all commands; kill the largest command when they are too many."""
        limit = self._children.limits.tool_processes_max
        sizes = [(await child.members(), child) for child in self._children.running if not child.kill_reason]
        total = sum(size for size, _ in sizes)
        if total > limit:
            size, child = max(sizes, key=lambda pair: pair[0])
            self._children.log.warning("too many processes of a tool", extra=fields(pid=child.pid, count=size))
            child.kill_tree(f"because it and what it started were {size} processes; {limit} may run in this workspace")
            return total - size
        return total


def machine_threads() -> int:
    """Count all threads of this machine with one small read; 0 where the kernel does not provide it."""
    try:
        return int(_LOAD.read_text().split()[3].split("/")[1])
    except (OSError, IndexError, ValueError):
        return 0
