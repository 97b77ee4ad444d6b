"""Own background tasks: name them, report what they raise, end them in order; and finish work despite a cancel."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from protocol.base.logs import fields

T = TypeVar("T")


class TaskOwner:
    """Owns the tasks of one object; every task has an owner. `close` cancels the running ones and waits for them."""

    def __init__(self, name: str, log: logging.Logger) -> None:
        self._name = name
        self._log = log
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, T], name: str, *, is_awaited: bool = False) -> asyncio.Task[T]:
        """Run `work` as a task that this owner ends. Log its exception, unless `is_awaited`: then the caller awaits the
        task and gets the exception."""
        if self._closed:
            work.close()
            raise RuntimeError(f"cannot start {name}: the owner {self._name} is closed")
        task = asyncio.get_running_loop().create_task(work, name=f"{self._name}.{name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard if is_awaited else self._done)
        return task

    def report(self, task: asyncio.Task[Any]) -> None:
        """Log an exception of `task` after all: its caller no longer awaits it."""
        task.add_done_callback(self._done)

    async def join(self, timeout_s: float) -> bool:
        """Wait until every task has ended by itself; False when some still run after `timeout_s` seconds."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout_s)
        return not self._tasks

    async def close(self, timeout_s: float = 5.0) -> None:
        """Cancel every task and wait until all have ended, at most `timeout_s` seconds; the rest is logged."""
        self._closed = True
        current = asyncio.current_task()
        waiting = {task for task in self._tasks if task is not current}
        for task in waiting:
            task.cancel()
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=timeout_s)
            for task in late:
                self._log.error("task does not end", extra=fields(task=task.get_name(), timeout_s=timeout_s))

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("task failed", exc_info=error, extra=fields(task=task.get_name()))


async def run_shielded(work: Coroutine[Any, Any, T], *, owner: TaskOwner, timeout_s: float, name: str) -> T:
    """Finish `work` although the caller is, or gets, cancelled; at most `timeout_s` seconds.

    The work runs as a task of `owner`, so a cancel of the caller does not reach it. A cancel that arrives meanwhile is
    raised after the work has ended. Raises TimeoutError when the work takes longer; it then continues in the
    background, and its outcome must be treated as unknown.
    """
    task = owner.start(work, name, is_awaited=True)
    deadline = asyncio.get_running_loop().time() + timeout_s
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        left = deadline - asyncio.get_running_loop().time()
        if left <= 0:
            break
        try:
            await asyncio.wait({task}, timeout=left)
        except asyncio.CancelledError as error:
            cancelled = error
    if task.done() and cancelled is None:
        return task.result()
    owner.report(task)
    raise cancelled or TimeoutError(f"{name} did not settle within {timeout_s} s")
