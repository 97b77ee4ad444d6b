"""The threads of the tools that walk and read files, so that a slow disk never holds up the loop.

A thread cannot be ended from outside: a job gets a `Stop` and asks it often. A cancelled or overdue caller stops its
job and waits for it, bounded, so that no job goes on behind the back of a run that has ended.
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


class Stop:
    """Tells a job in a thread that it should come back with what it has."""

    def __init__(self, deadline: float, clock: Clock) -> None:
        self._deadline = deadline
        self._clock = clock
        self._asked = threading.Event()

    def ask(self) -> None:
        """From the loop: stop soon."""
        self._asked.set()

    @property
    def is_asked(self) -> bool:
        """Somebody wants the job to stop, or its time is over."""
        return self._asked.is_set() or self._clock.now() >= self._deadline


class ThreadPool:
    """A small pool, made when it is first needed. `writing` is held by jobs that check a file and then replace it."""

    def __init__(self, *, count: int, settle_s: float, clock: Clock, owner: TaskOwner) -> None:
        self._count = count
        self._settle_s = settle_s
        self._clock = clock
        self._owner = owner
        self._pool: ThreadPoolExecutor | None = None
        self._running = 0
        self.writing = threading.Lock()

    async def run(self, job: Callable[[Stop], T], *, timeout_s: float) -> T:
        """The result of `job(stop)`. Raises TimeoutError when it has not stopped `settle_s` after its `timeout_s`.

        A cancel leaves here only after the job has ended, or did not within `settle_s`.
        """
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._count, thread_name_prefix="tools")
        stop = Stop(self._clock.now() + timeout_s, self._clock)
        future = asyncio.get_running_loop().run_in_executor(self._pool, job, stop)
        self._running += 1
        future.add_done_callback(self._ended)
        try:
            await asyncio.wait({future}, timeout=timeout_s)
        finally:
            stop.ask()
            if not future.done():
                # A TimeoutError here must not take the place of a cancel that is on its way through.
                with contextlib.suppress(TimeoutError):
                    await run_shielded(_end_of(future), owner=self._owner, timeout_s=self._settle_s, name="thread")
        if not future.done():
            raise TimeoutError(f"a file operation did not end within {timeout_s} s")
        return future.result()

    def _ended(self, future: "asyncio.Future[T]") -> None:
        self._running -= 1
        if not future.cancelled():
            future.exception()  # taken here, so that nobody is told that it was never retrieved

    def close(self) -> None:
        """End the idle threads. One that hangs in the kernel is left to the end of the process."""
        if self._pool is not None:
            self._pool.shutdown(wait=self._running == 0, cancel_futures=True)
            self._pool = None


async def _end_of(future: "asyncio.Future[T]") -> None:
    await asyncio.wait({future})
