"""End a worker: the reason to end, the orderly shutdown, and the quick end after a storage failure.

The orderly shutdown performs the effects of `Drain`: refuse, cancel, wait, flush, last word, each stage with a
deadline. Runs that had not begun stay accepted on disk, unless the request cancels them too. It is the same after a
`Shutdown` message, after SIGTERM, and when no supervisor was heard for too long.
"""

import asyncio
import logging
import os
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, assert_never

from protocol.base.clock import Clock
from protocol.base.failpoints import failpoint
from protocol.base.logs import fields
from protocol.errors import BulkheadError
from protocol.exit_codes import EXIT_CLEAN, EXIT_CORRUPT, EXIT_LEFT, EXIT_STORAGE
from protocol.ids import Epoch, RunId
from protocol.messages import LastWord, Shutdown
from protocol.worker_spec import WorkerSpec
from worker.events.publisher import Publisher
from worker.link.worker_link import WorkerLink
from worker.permissions.broker import PermissionBroker
from worker.processes.child import ChildProcesses
from worker.runs.credentials import Credentials
from worker.runs.dispatcher import Dispatcher
from worker.runs.drain import AwaitRuns, CancelAll, CancelStarted, Drain, Effect, Flush, Leave, Refuse
from worker.runs.live_models import LiveModels
from worker.runs.turn_factory import TurnFactory
from worker.store.database import Database
from worker.store.error_classes import is_corrupt
from worker.toolkit.extension import Extensions


@dataclass(frozen=True)
class WorkerParts:
    """The parts of an open worker that have to be ended."""

    link: WorkerLink
    publisher: Publisher
    dispatcher: Dispatcher
    drain: Drain
    children: ChildProcesses
    credentials: Credentials
    extensions: Extensions
    broker: PermissionBroker
    models: LiveModels
    turns: TurnFactory
    database: Database


class EndSignal:
    """Tells when and why a worker is to end: the first request for a shutdown, or a storage failure."""

    def __init__(self, spec: WorkerSpec, log: logging.Logger) -> None:
        """Create it in the loop of the worker."""
        self._spec = spec
        self._log = log
        self._loop = asyncio.get_running_loop()
        self.requested: asyncio.Future[Shutdown] = self._loop.create_future()
        self.storage_failure: asyncio.Future[BaseException] = self._loop.create_future()

    @property
    def storage_exit_code(self) -> int:
        """The exit code after a storage failure, and after a database that could not be opened."""
        is_lost = self.storage_failure.done() and is_corrupt(self.storage_failure.result())
        return EXIT_CORRUPT if is_lost else EXIT_STORAGE

    def request(self, message: Shutdown) -> None:
        """Ask for an orderly shutdown. Only the first request counts."""
        if not self.requested.done():
            self.requested.set_result(message)

    def leave(self, reason: str) -> None:
        """Ask for an orderly shutdown by the worker's own decision, with the budgets of its limits."""
        limits = self._spec.limits
        self.request(Shutdown(epoch=Epoch(0), reason=reason, drain_s=limits.drain_s, flush_s=limits.flush_s))

    def storage_failed(self, error: BaseException) -> None:
        """End at once, because the state in memory can no longer be trusted. The next worker starts from the file."""
        if self.storage_failure.done():
            return
        self._log.error(
            "storage failed, this worker ends",
            extra=fields(workspace=self._spec.workspace_id, generation=self._spec.generation, error=error),
        )
        self.storage_failure.set_result(error)
        # The way out may hang too, perhaps on the same disk: the process ends in any case.
        self._loop.call_later(self._spec.limits.exit_s, os._exit, self.storage_exit_code)


class WorkerShutdown:
    """Ends the parts of one worker, in one of two ways."""

    def __init__(self, parts: WorkerParts, spec: WorkerSpec, *, clock: Clock, log: logging.Logger) -> None:
        self._parts = parts
        self._spec = spec
        self._limits = spec.limits
        self._clock = clock
        self._log = log
        self._cancelled = 0
        self._left: list[RunId] = []
        self._held: list[RunId] = []
        self._is_flushed = False

    async def close(self, request: Shutdown) -> int:
        """Shut down in order, within the budgets of the request; return the exit code."""
        parts = self._parts
        self._log.info("closing", extra=self._fields(reason=request.reason, open_runs=parts.dispatcher.open_runs))
        effects = parts.drain.shutdown(
            request.reason,
            drain_s=request.drain_s,
            flush_s=request.flush_s,
            now=self._clock.now(),
            cancel_queued=request.cancel_queued,
        )
        while effects:
            effect, *effects = effects
            effects += await self._perform(effect)
        parts.link.closing("closed", len(self._left))
        await parts.link.last_word(
            LastWord(
                reason=request.reason,
                last_number=parts.database.last_number,
                cancelled_runs=max(0, self._cancelled - len(self._left) - len(self._held)),
                left_runs=self._left,
                held_runs=self._held,
                flushed=self._is_flushed,
            )
        )
        await failpoint("close.e")
        await parts.publisher.close()
        await parts.link.close()
        return EXIT_LEFT if self._left or not self._is_flushed else EXIT_CLEAN

    async def break_off(self) -> None:
        """End without storing anything, after a storage failure."""
        parts = self._parts
        parts.link.closing("closed", parts.dispatcher.open_runs)
        await parts.children.close()
        await parts.dispatcher.close(self._limits.exit_s / 4)
        await parts.publisher.close()
        await parts.link.close()

    async def _perform(self, effect: Effect) -> list[Effect]:
        """Perform an effect of the drain and report the result to it; return the next effects."""
        drain, dispatcher, link = self._parts.drain, self._parts.dispatcher, self._parts.link
        match effect:
            case Refuse():  # the dispatcher asks the drain
                link.closing("closing", dispatcher.open_runs)
                await failpoint("close.a")
                return []
            case CancelAll() | CancelStarted():
                self._cancelled = dispatcher.open_runs
                if isinstance(effect, CancelAll):
                    dispatcher.cancel_all()
                else:
                    dispatcher.hold_all()
                await failpoint("close.b")
                return drain.cancelled(self._clock.now())
            case AwaitRuns(deadline):
                link.closing("draining", dispatcher.open_runs)
                await failpoint("close.c")
                in_time = await self._finished(deadline, dispatcher.settled())
                now = self._clock.now()
                self._held = dispatcher.held_ids
                self._left = [run_id for run_id in dispatcher.open_ids if run_id not in self._held]
                return drain.drained(now) if in_time else drain.overdue(now)
            case Flush(deadline):
                link.closing("flushing", len(self._left))
                await failpoint("close.d")
                self._is_flushed = await self._finished(deadline, self._flush())
                now = self._clock.now()
                return drain.flushed(now) if self._is_flushed else drain.overdue(now)
            case Leave(in_time):
                if not in_time:
                    self._log.error("shutdown overran its budget", extra=self._fields(left=" ".join(self._left)))
                return []
            case _:
                assert_never(effect)

    async def _flush(self) -> None:
        """End every child process, store what is only in memory, and send what is not sent."""
        parts, limits = self._parts, self._limits
        await parts.children.close()
        await parts.dispatcher.flush()
        await parts.dispatcher.close(limits.exit_s)
        await parts.publisher.drain(limits.exit_s)
        await parts.credentials.close()
        await parts.extensions.close()
        await parts.broker.close()
        await parts.models.close()
        await parts.turns.close()
        await parts.database.close(limits.settle_s)

    async def _finished(self, deadline: float, work: Coroutine[Any, Any, object]) -> bool:
        """Await `work`; return False when the deadline passed first, or when it failed or returned False."""
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock.now())):
                return await work is not False
        except (TimeoutError, BulkheadError):
            return False

    def _fields(self, **values: object) -> dict[str, object]:
        return fields(workspace=self._spec.workspace_id, generation=self._spec.generation, **values)
