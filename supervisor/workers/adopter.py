"""Adopt the workers of the previous supervisor at the start, and end the remains of those that have exited."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from protocol.base.logs import fields
from protocol.errors import BulkheadError
from protocol.ids import WorkspaceId
from supervisor.launch.launcher import Launcher, Record
from supervisor.launch.records import RecordStore
from supervisor.workers.driver import WorkerDriver

AT_ONCE_MAX = 16
"""Workers that are looked at in parallel."""


class AdoptingWorkspace(Protocol):
    """A workspace that a worker can be handed to."""

    @property
    def driver(self) -> WorkerDriver: ...


class Adopter:
    """Runs once, before requests that need a workspace are served."""

    def __init__(
        self,
        *,
        launcher: Launcher,
        records: RecordStore,
        find_workspace: Callable[[WorkspaceId, str], Awaitable[AdoptingWorkspace]],
        log: logging.Logger,
    ) -> None:
        """`find_workspace` gets the workspace's id and its path; it may raise BulkheadError."""
        self._launcher = launcher
        self._records = records
        self._find_workspace = find_workspace
        self._log = log

    async def adopt_all(self, records: Sequence[Record]) -> list[Record]:
        """Take over every worker that still runs, and return their records; sweep the processes of the others and
        remove their records."""
        gate = asyncio.Semaphore(AT_ONCE_MAX)

        async def adopt(record: Record) -> bool:
            async with gate:
                return await self._adopt(record)

        results = await asyncio.gather(*(adopt(record) for record in records))
        return [record for record, is_adopted in zip(records, results, strict=True) if is_adopted]

    async def _adopt(self, record: Record) -> bool:
        handle = await self._launcher.adopt(record)
        if handle is not None:
            try:
                workspace = await self._find_workspace(record.workspace_id, record.path)
                workspace.driver.adopt(handle, record)
                self._records.adopted(record)
                self._log.info("worker adopted", extra=fields(workspace=record.workspace_id, pid=handle.pid))
                return True
            except BulkheadError as error:
                self._log.error("worker not adopted", extra=fields(workspace=record.workspace_id, error=error))
                handle.kill()
                await handle.exited()
        await self._launcher.sweep(record.workspace_id, keep_pid=0)
        self._records.remove(record.workspace_id)
        return False
