"""Asks the worker of one workspace: wakes it, waits for it, repeats what may be repeated, and stops when all ends."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from protocol.base.clock import Clock
from protocol.base.tasks import TaskOwner
from protocol.errors import BulkheadError, Conflict, Unavailable
from protocol.limits import Limits
from protocol.messages import Answer
from protocol.operations import OPERATIONS
from supervisor.routing.link import Link
from supervisor.workers.driver import WorkerDriver
from supervisor.workspaces.identity import Identity, check

SLEEPING = frozenset({"asleep", "failed"})
"""States in which a request has to look at the directory first, because a new process would start in it."""


class InThread(Protocol):
    """Does something that may block on a thread."""

    def __call__(self, work: Callable[[], None]) -> Awaitable[None]: ...


class WorkerCaller:
    """All calls to one workspace's worker go through here."""

    def __init__(
        self,
        *,
        identity: Identity,
        driver: WorkerDriver,
        in_thread: InThread,
        limits: Limits,
        clock: Clock,
        log: logging.Logger,
        ended: Callable[[], None],
    ) -> None:
        """`ended` hears of every call that came to an end, well or not."""
        self.in_flight = 0
        self._identity = identity
        self._driver = driver
        self._in_thread = in_thread
        self._limits = limits
        self._clock = clock
        self._ended = ended
        self._tasks = TaskOwner(f"caller.{identity.path}", log)
        self._waiting: set[asyncio.Task[Link]] = set()
        self.is_ending = False

    async def call(self, operation: str, *, args: dict[str, str] | None, body: bytes, wakes: bool) -> Answer:
        """Let the worker do an operation, waking it first if it sleeps.

        Raises what the operation raises; Unavailable when no worker gets ready in time or it dies meanwhile; Conflict
        when the directory is gone. An operation that is safe to repeat goes to the next worker once when the first one
        died under it; anything else is answered with `worker_lost`, and the client may repeat it with its key.
        """
        row = OPERATIONS[operation]
        timeout_s = row.timeout_s or self._limits.call_deadline_s
        may_repeat = True
        self.in_flight += 1
        try:
            while True:
                link = await self.ready(wakes=wakes)
                try:
                    return await link.call(operation, args=args, body=body, timeout_s=timeout_s)
                except Unavailable as error:
                    if error.code != "worker_lost" or not row.is_safe or not may_repeat:
                        raise _with_retry(error) from error
                except Conflict as error:
                    # The worker was on its way to sleep or being replaced, and refused before storing anything.
                    if error.code != "workspace_closing" or not may_repeat:
                        raise
                may_repeat = False
        finally:
            self.in_flight -= 1
            self._ended()

    async def ready(self, *, wakes: bool = True) -> Link:
        """The link to a worker that answers, within the wake deadline. Raises Unavailable, Conflict.

        Without `wakes` a worker that is not ready now is not waited for. Whoever waits when the workspace ends is told
        so, and does not bring the worker back to life.
        """
        if not self._driver.status().answers:
            if self.is_ending or not wakes:
                raise _exiting()
            await self.check_directory()
        try:
            if self._driver.status().answers:
                return await self._driver.ready(self._limits.wake_deadline_s)
            return await self._wait_ready()
        except Unavailable as error:
            if error.code == "worker_failed":
                await self.check_directory()  # a directory that is gone is the reason that helps
            raise _with_retry(error) from error

    async def check_directory(self) -> None:
        """Before a process is started there: is the directory still the one it was? Raises Conflict."""
        if self._driver.status().state in SLEEPING:
            await self._in_thread(lambda: check(self._identity))

    def check_open(self) -> None:
        """Raises Unavailable once the end has begun."""
        if self.is_ending:
            raise _exiting()

    def end(self) -> None:
        """From here on nobody may want the worker any more."""
        self.is_ending = True
        for task in self._waiting:
            task.cancel()

    async def close(self) -> None:
        """After `end`: nothing is left."""
        await self._tasks.close()

    async def _wait_ready(self) -> Link:
        self.check_open()
        task = self._tasks.start(self._driver.ready(self._limits.wake_deadline_s), "ready", is_awaited=True)
        self._waiting.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            raise _exiting() from None  # `end` cancelled the waiting, not our caller us
        finally:
            task.cancel()
            self._waiting.discard(task)


def _exiting() -> Unavailable:
    return Unavailable(
        "cannot wake this workspace: it is being closed; try again when the server is back",
        code="server_exiting",
        retry_after_s=1.0,
    )


def _with_retry(error: BulkheadError) -> BulkheadError:
    """The same error with a `Retry-After` that fits: a replacement is there within about a second."""
    if error.retry_after_s is None and error.code in ("worker_lost", "worker_starting"):
        error.retry_after_s = 1.0
    return error
