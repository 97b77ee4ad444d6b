"""What operators see: workers, their state and reason, what they use, what they do."""

import os
from collections.abc import Callable
from typing import Protocol

import msgspec

from protocol.api.workspace import WorkerStatus
from protocol.version import BULKHEAD_VERSION
from supervisor.http.messages import Request, Response, json_response
from supervisor.http.metrics import METRICS_TYPE, metrics_text
from supervisor.workspaces.registry import Registry
from supervisor.workspaces.workspace_table import Registration, Roster


class Usage(Protocol):
    """What one process uses."""

    @property
    def rss_bytes(self) -> int: ...

    @property
    def uss_bytes(self) -> int | None: ...

    @property
    def cpu_s(self) -> float: ...


Measure = Callable[[int, bool], Usage | None]
"""Measures a process by pid; with True also its private memory, which takes longer. None: it is gone. May block."""


class StatusHandlers:
    """The handlers of the operators' rows."""

    def __init__(self, *, registry: Registry, roster: Roster, measure: Measure) -> None:
        self._registry = registry
        self._roster = roster
        self._measure = measure

    async def workers(self, request: Request) -> Response:
        """One row for each registered workspace."""
        await self._registry.wait_open()
        rows, _ = await self._rows(is_full=request.query.get("memory") == "full")
        return json_response(rows)

    async def metrics(self, request: Request) -> Response:
        """The same in numbers, for a program that collects them."""
        await self._registry.wait_open()
        rows, own = await self._rows(is_full=False, own_pid=os.getpid())
        streams = sum(workspace.hub.streams for workspace in self._registry.touched())
        used = (own.rss_bytes, own.cpu_s) if own is not None else (0, 0.0)
        text = metrics_text(rows, version=BULKHEAD_VERSION, streams=streams, own=used)
        return Response(200, text.encode(), {"Content-Type": METRICS_TYPE})

    async def _rows(self, *, is_full: bool, own_pid: int = 0) -> tuple[list[WorkerStatus], Usage | None]:
        """A row for each registered workspace, and what this process uses, if its pid is given."""
        rows = [self._row(registration) for registration in self._registry.registrations()]
        pids = [pid for pid in (own_pid, *(row.pid for row in rows)) if pid]
        measured = await self._roster.in_thread(lambda: self._measure_all(pids, is_full))
        return [_with_usage(row, measured.get(row.pid or 0)) for row in rows], measured.get(own_pid)

    def _row(self, registration: Registration) -> WorkerStatus:
        workspace = self._registry.touched_one(registration.id)
        if workspace is None:
            return WorkerStatus(id=registration.id, path=registration.identity.path, state="asleep")
        return workspace.status()

    def _measure_all(self, pids: list[int], is_full: bool) -> dict[int, Usage]:
        found = {pid: self._measure(pid, is_full) for pid in pids}
        return {pid: usage for pid, usage in found.items() if usage is not None}


def _with_usage(row: WorkerStatus, usage: Usage | None) -> WorkerStatus:
    if usage is None:
        return row
    return msgspec.structs.replace(row, rss_bytes=usage.rss_bytes, uss_bytes=usage.uss_bytes, cpu_s=usage.cpu_s)
