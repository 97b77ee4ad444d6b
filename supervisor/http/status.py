"""Answer the operators' routes: workers with their state, resource use and crashes, and the server's metrics."""

import logging
import os
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from protocol.api.workspace import WorkerStatus
from protocol.base.log_handler import lines_lost
from protocol.version import BULKHEAD_VERSION
from supervisor.http.messages import Request, Response, json_response
from supervisor.http.metrics import METRICS_TYPE, metrics_text
from supervisor.routing.router import Counters
from supervisor.workspaces.registry import Registry
from supervisor.workspaces.workspace_table import Registration, WorkspaceTable


class ResourceUsage(Protocol):
    """The resources that one process uses."""

    @property
    def rss_bytes(self) -> int: ...

    @property
    def uss_bytes(self) -> int | None: ...

    @property
    def cpu_s(self) -> float: ...


Measure = Callable[[int, bool], ResourceUsage | None]
"""Measures a process by pid; with True also its private memory, which takes longer. None: it has exited. May block."""


class StatusHandlers:
    """The handlers of the operators' routes."""

    def __init__(self, *, registry: Registry, table: WorkspaceTable, counters: Counters, measure: Measure) -> None:
        """`counters` are the router's own, read at each request."""
        self._registry = registry
        self._table = table
        self._counters = counters
        self._measure = measure

    async def workers(self, request: Request) -> Response:
        """Return one row for each registered workspace, with its newest crash."""
        await self._registry.wait_open()
        rows, _ = await self._measured(self._rows(), is_full=_wants_full_memory(request))
        return json_response(rows)

    async def worker(self, request: Request) -> Response:
        """Return the row of one workspace, with all crashes that are kept. Raises NotFound."""
        await self._registry.wait_open()
        registration = self._registry.registration(request.params["id"])
        [row], _ = await self._measured([self._row(registration)], is_full=_wants_full_memory(request))
        return json_response(row)

    async def metrics(self, request: Request) -> Response:
        """Return the same in numbers, for a program that collects them."""
        await self._registry.wait_open()
        rows, own = await self._measured(self._rows(), is_full=False, own_pid=os.getpid())
        streams = sum(workspace.hub.streams for workspace in self._registry.touched())
        text = metrics_text(
            rows,
            version=BULKHEAD_VERSION,
            streams=streams,
            router=self._counters,
            own=(own.rss_bytes, own.cpu_s) if own is not None else (0, 0.0),
            lost=lines_lost(logging.getLogger("bulkhead")),
        )
        return Response(200, text.encode(), {"Content-Type": METRICS_TYPE})

    def _rows(self) -> list[WorkerStatus]:
        return [self._row(registration, crashes_max=1) for registration in self._registry.registrations()]

    def _row(self, registration: Registration, *, crashes_max: int | None = None) -> WorkerStatus:
        workspace = self._registry.touched_one(registration.id)
        if workspace is None:
            return WorkerStatus(id=registration.id, path=registration.identity.path, state="asleep")
        return workspace.status(crashes_max=crashes_max)

    async def _measured(
        self, rows: list[WorkerStatus], *, is_full: bool, own_pid: int = 0
    ) -> tuple[list[WorkerStatus], ResourceUsage | None]:
        """Return the rows with what their processes use, and the usage of this process, if its pid is given."""
        pids = [pid for pid in (own_pid, *(row.pid for row in rows)) if pid]
        usages = await self._table.in_thread(lambda: self._measure_all(pids, is_full))
        return [_with_usage(row, usages.get(row.pid or 0)) for row in rows], usages.get(own_pid)

    def _measure_all(self, pids: Iterable[int], is_full: bool) -> dict[int, ResourceUsage]:
        usages = {pid: self._measure(pid, is_full) for pid in pids}
        return {pid: usage for pid, usage in usages.items() if usage is not None}


def _wants_full_memory(request: Request) -> bool:
    return request.query.get("memory") == "full"


def _with_usage(row: WorkerStatus, usage: ResourceUsage | None) -> WorkerStatus:
    if usage is None:
        return row
    return msgspec.structs.replace(row, rss_bytes=usage.rss_bytes, uss_bytes=usage.uss_bytes, cpu_s=usage.cpu_s)
