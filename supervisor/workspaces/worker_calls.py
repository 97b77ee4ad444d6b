"""Call the worker of one workspace: wake it, wait for it, and repeat once what may be repeated."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from protocol.base.clock import Clock
from protocol.base.tasks import TaskOwner
from protocol.errors import BulkheadError, Conflict, Unavailable
from protocol.ids import WorkspaceId
from protocol.limits import Limits
from protocol.messages import Answer
from protocol.operations import OPERATIONS
from supervisor.routing.link import Link
from supervisor.workers.driver import WorkerDriver

SLEEPING = frozenset({"asleep", "failed"})
"""States in which the directory is checked first, because a new process would start in it."""


class WorkerCaller:
    """The only way for calls to one workspace's worker."""

    def __init__(
        self,
        *,
        workspace_id: WorkspaceId,
        driver: WorkerDriver,
        check_folder: Callable[[], Awaitable[None]],
        limits: Limits,
        clock: Clock,
        log: logging.Logger,
        on_call_ended: Callable[[], None],
    ) -> None:
        """`check_folder` raises Conflict unless a worker may start in the workspace's directory.

        `on_call_ended` is called after every call, successful or not.
        """
        self.in_flight = 0
        self._driver = driver
        self._check_folder = check_folder
        self._limits = limits
        self._clock = clock
        self._on_call_ended = on_call_ended
        self._tasks = TaskOwner(f"caller.{workspace_id}", log)
        self._waiting: set[asyncio.Task[Link]] = set()
        self.is_ending = False

    async def call(self, operation: str, *, args: dict[str, str] | None, body: bytes, wakes: bool) -> Answer:
        """Let the worker do an operation; wake it first if it sleeps.

        Raises as the operation does; Unavailable when no worker gets ready in time or the worker dies meanwhile;
        Conflict when the directory is missing. When the worker dies, an operation that is safe to repeat goes to the
        next worker once; any other raises `worker_lost`, and the client may repeat it with its idempotency key.
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
                    # The worker was going to sleep or being replaced, and refused before it stored anything.
                    if error.code != "workspace_closing" or not may_repeat:
                        raise
                may_repeat = False
        finally:
            self.in_flight -= 1
            self._on_call_ended()

    async def ready(self, *, wakes: bool = True) -> Link:
        """Return the link to a worker that answers, within the wake deadline. Raises Unavailable, Conflict.

        Without `wakes` a worker that is not ready now is not waited for. A caller that waits while the workspace is
        closed gets `server_exiting`, and the worker is not started again.
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
                await self.check_directory()  # a missing directory is the more useful reason
            raise _with_retry(error) from error

    async def check_directory(self) -> None:
        """Before a process is started: raise Conflict unless the directory is still the registered one."""
        if self._driver.status().state in SLEEPING:
            await self._check_folder()

    def check_open(self) -> None:
        """Raise Unavailable once `end` was called."""
        if self.is_ending:
            raise _exiting()

    def end(self) -> None:
        """Refuse all later calls that need a new worker, and end the waiting for one."""
        self.is_ending = True
        for task in self._waiting:
            task.cancel()

    async def close(self) -> None:
        """End the remaining tasks; to be called after `end`."""
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
            raise _exiting() from None  # the wait was cancelled by `end`, not by our caller
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
    """Return the error with a fitting `Retry-After`: the next worker is ready within about a second."""
    if error.retry_after_s is None and error.code in ("worker_lost", "worker_starting"):
        error.retry_after_s = 1.0
    return error
