"""Serve from `Ready` until the worker is to end, then end it.

Meanwhile the worker watches its lease, and reports how it is at every heartbeat.
"""

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from protocol.base.clock import Clock
from protocol.base.failpoints import failpoint
from protocol.base.logs import fields
from protocol.base.tasks import TaskOwner
from protocol.ids import RunId
from protocol.messages import Ready
from protocol.worker_spec import WorkerSpec
from worker.config.live import LiveConfig
from worker.link.interfaces import WorkerStats
from worker.permissions.broker import PermissionBroker
from worker.processes.child import ChildProcesses
from worker.runs.dispatcher import Dispatcher
from worker.runs.recovery import Recovered
from worker.shutdown import EndSignal, WorkerParts, WorkerShutdown
from worker.store.database import Database
from worker.supervisor_lease import SupervisorLease
from worker.toolkit.extension import Extensions


@dataclass(frozen=True)
class StatsSource:
    """The parts of a worker that its stats are read from."""

    database: Database
    dispatcher: Dispatcher
    broker: PermissionBroker
    children: ChildProcesses
    extensions: Extensions
    live: LiveConfig

    def read(self) -> WorkerStats:
        """Return the stats of this moment."""
        database = self.database
        return WorkerStats(
            log_id=database.log_id,
            last_number=database.last_number,
            open_runs=self.dispatcher.open_runs,
            open_questions=self.broker.open_count,
            children=self.children.count + self.extensions.busy,
            holds_choices=self.live.holds_choices or bool(self.extensions.connected),
            degraded=database.degraded or ("configuration" if self.live.problem is not None else ""),
            failed=database.failed,
        )


class WorkerService:
    """Serves an open worker. `run` is the rest of its life."""

    def __init__(
        self,
        parts: WorkerParts,
        spec: WorkerSpec,
        *,
        lease: SupervisorLease,
        end: EndSignal,
        clock: Clock,
        log: logging.Logger,
    ) -> None:
        self._parts = parts
        self._spec = spec
        self._lease = lease
        self._end = end
        self._shutdown = WorkerShutdown(parts, spec, clock=clock, log=log)
        self._clock = clock
        self._log = log

    async def run(self, recovered: Recovered) -> int:
        """Announce the worker, serve until it is to end, end it; return the exit code."""
        owner = TaskOwner("worker", self._log)
        await self._announce(recovered)
        owner.start(self._watch_lease(), "lease")
        requested, storage_failure = self._end.requested, self._end.storage_failure
        try:
            await _first(requested, storage_failure)
            if not storage_failure.done():
                closing = owner.start(self._shutdown.close(requested.result()), "close")
                await _first(closing, storage_failure)
                if not storage_failure.done():
                    return closing.result()
            await self._shutdown.break_off()
            return self._end.storage_exit_code
        finally:
            await owner.close(self._spec.limits.exit_s)

    async def _announce(self, recovered: Recovered) -> None:
        """Connect to the supervisor, report what recovery did, and start the runs that wait."""
        link, database, waiting = self._parts.link, self._parts.database, recovered.waiting
        counts = {"interrupted": len(recovered.interrupted), "failed": len(recovered.failed), "waiting": len(waiting)}
        self._log.info(
            "recovered", extra=fields(workspace=self._spec.workspace_id, generation=self._spec.generation, **counts)
        )
        await failpoint("worker.before_ready")
        await link.start()
        await link.ready(
            Ready(
                log_id=database.log_id,
                last_number=database.last_number,
                open_runs=len(waiting),
                interrupted=recovered.interrupted,
                requeued=[RunId(run.id) for run in waiting],
            )
        )
        self._parts.dispatcher.resume(waiting)

    async def _watch_lease(self) -> None:
        """Leave when no supervisor was heard for too long and no run is open (S14)."""
        while not self._end.requested.done():
            await asyncio.sleep(self._spec.limits.supervisor_lease_s / 4)
            if self._parts.link.is_welcome:
                self._lease.heard(self._clock.now())
            if self._lease.is_over(open_runs=self._parts.dispatcher.open_runs, now=self._clock.now()):
                self._end.leave("no supervisor")


async def _first(*futures: "asyncio.Future[Any]") -> None:
    """Wait until one of these is done."""
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
