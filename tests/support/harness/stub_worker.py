"""Make a workspace whose worker is a stub: it returns the answers that the test has queued."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import msgspec

from protocol.base.clock import SystemClock
from protocol.errors import BulkheadError, Conflict
from protocol.ids import WorkspaceId
from protocol.limits import Limits
from protocol.messages import Answer, Heartbeat
from supervisor.routing.link import Link
from supervisor.workers.crash_history import CrashHistory
from supervisor.workers.driver import DriverStatus, WorkerDriver
from supervisor.workspaces.identity import resolve
from supervisor.workspaces.workspace import ManagedWorkspace
from supervisor.workspaces.workspace_table import Registration


class StubDriver:
    """Replace a driver and its link: return the queued `answers` and record the `operations` called."""

    def __init__(self) -> None:
        self.crashes = CrashHistory()
        self.state = "ready"
        self.is_slow = False
        self.beat = 10
        self.open_runs = 0
        self.answers: list[Answer | BulkheadError] = []
        self.operations: list[str] = []
        self.closed: list[str] = []
        self.before_answer: Callable[[], Awaitable[None]] | None = None

    def status(self) -> DriverStatus:
        beat = Heartbeat(sequence=self.beat, loop_lag_s=0, open_runs=self.open_runs)
        is_ready = self.state == "ready"
        return DriverStatus(self.state, "", 1, 1, 0.0, 0, beat if is_ready else None, answers=is_ready)

    def want(self) -> None:
        self.state = "ready"

    async def ready(self, timeout_s: float) -> Link:
        if self.is_slow:
            await asyncio.sleep(timeout_s)
        self.want()
        return cast(Link, self)

    async def call(self, operation: str, *, args: Any, body: bytes, timeout_s: float) -> Answer:
        if operation == "asks.open":  # called for each new stream
            return Answer(call_id="", body=msgspec.msgpack.encode([]))
        self.operations.append(operation)
        if self.before_answer is not None:
            await self.before_answer()
        answer = self.answers.pop(0)
        if isinstance(answer, BulkheadError):
            raise answer
        return answer

    async def close(self, reason: str, *, for_good: bool = False, cancel_queued: bool = False) -> None:
        self.closed.append(reason)
        self.state = "asleep"

    async def stop(self, *, leave_worker: bool) -> None:
        self.closed.append("left")


def workspace_at(
    path: Path, *, cancel_on_last_detach: bool = False, **limits: Any
) -> tuple[ManagedWorkspace, StubDriver]:
    driver = StubDriver()

    async def check_folder() -> None:
        if not path.is_dir():
            raise Conflict("cannot use this workspace: its directory is missing", code="workspace_moved")

    workspace = ManagedWorkspace(
        registration=Registration(
            id=WorkspaceId("w"), identity=resolve(str(path), ()), asked_path=str(path), data_dir=str(path / "d")
        ),
        make_driver=lambda _: cast(WorkerDriver, driver),
        check_folder=check_folder,
        limits=Limits(**limits),
        clock=SystemClock(),
        log=logging.getLogger("bulkhead.test"),
        cancel_on_last_detach=cancel_on_last_detach,
    )
    return workspace, driver
