"""Run the tools' file jobs in threads, so that a slow disk never holds up the loop.

A thread cannot be ended from outside: a job gets a `Stop` and checks it often. A cancelled or overdue caller stops its
job and waits for it, bounded, so that no job continues after its run has ended.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from protocol.base.clock import Clock
from protocol.base.tasks import TaskOwner, run_shielded

T = TypeVar("T")


class StopFlag:
    """Asks a job in a thread to return with what it has."""

    def __init__(self, deadline: float, clock: Clock) -> None:
        self._deadline = deadline
        self._clock = clock
        self._asked = threading.Event()

    def ask(self) -> None:
        """Ask the job to stop. Called on the loop."""
        self._asked.set()

    @property
    def is_asked(self) -> bool:
        """Return whether the job should stop, because it was asked to or its time is over."""
        return self._asked.is_set() or self._clock.now() >= self._deadline


class ThreadPool:
    """A small pool, created on first use. Jobs that check a file and then replace it hold the lock `writing`."""

    def __init__(self, *, count: int, settle_s: float, clock: Clock, owner: TaskOwner) -> None:
        self._count = count
        self._settle_s = settle_s
        self._clock = clock
        self._owner = owner
        self._pool: ThreadPoolExecutor | None = None
        self._running = 0
        self.writing = threading.Lock()

    async def run(self, job: Callable[[StopFlag], T], *, timeout_s: float) -> T:
        """Return `job(stop)`. Raises TimeoutError when it has not stopped `settle_s` seconds after its `timeout_s`.

        A cancel is raised only after the job has ended, or did not within `settle_s`.
        """
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._count, thread_name_prefix="tools")
        stop = StopFlag(self._clock.now() + timeout_s, self._clock)
        future = asyncio.get_running_loop().run_in_executor(self._pool, job, stop)
        self._running += 1
        future.add_done_callback(self._ended)
        try:
            await asyncio.wait({future}, timeout=timeout_s)
        finally:
            stop.ask()
            if not future.done():
                # A TimeoutError here must not replace a cancel that is being raised.
                with contextlib.suppress(TimeoutError):
                    await run_shielded(_end_of(future), owner=self._owner, timeout_s=self._settle_s, name="thread")
        if not future.done():
            raise TimeoutError(f"a file operation did not end within {timeout_s} s")
        return future.result()

    def _ended(self, future: "asyncio.Future[T]") -> None:
        self._running -= 1
        if not future.cancelled():
            future.exception()  # retrieved, so that asyncio does not report it

    def close(self) -> None:
        """End the idle threads. One that hangs in the kernel ends with the process."""
        if self._pool is not None:
            self._pool.shutdown(wait=self._running == 0, cancel_futures=True)
            self._pool = None


async def _end_of(future: "asyncio.Future[T]") -> None:
    await asyncio.wait({future})
