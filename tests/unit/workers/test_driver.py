"""The worker driver with a launcher of the test: starts, closes, heartbeats, records, outdated messages."""

import asyncio
import logging
from pathlib import Path
from typing import cast

import pytest

from protocol.base.clock import SystemClock
from protocol.errors import Unavailable
from protocol.events import Event
from protocol.ids import Epoch, Generation, WorkspaceId
from protocol.limits import Limits
from protocol.messages import Answer, EventBatch, Heartbeat, Hello, LastWord, Ready, ToWorker
from protocol.version import BULKHEAD_VERSION, WIRE_VERSION
from protocol.worker_spec import WorkerSpec
from supervisor.launch.launcher import ExitReport, Record
from supervisor.launch.records import RecordStore
from supervisor.routing.link import ExpectedWorker, Link, LinkListeners
from supervisor.routing.router import Router
from supervisor.workers.driver import DriverStatus, WorkerBackend, WorkerDriver
from tests.support.eventually import eventually

LOG = logging.getLogger("bulkhead.test")
ID = WorkspaceId("driver-test")
LIMITS = Limits(heartbeat_interval_s=0.01, heartbeat_lost_s=0.1, restart_delay_s_max=0.01)


class FakeHandle:
    """A process that exists only in the test."""

    pid = 4711
    start_ticks = 1

    def __init__(self) -> None:
        self.kills = 0
        self.dumps = 0
        self._exit: asyncio.Future[ExitReport] = asyncio.get_running_loop().create_future()

    async def exited(self) -> ExitReport:
        return await self._exit

    def kill(self) -> None:
        self.kills += 1
        self.end(ExitReport(signal=9))

    def end(self, report: ExitReport) -> None:
        if not self._exit.done():
            self._exit.set_result(report)

    def dump(self) -> None:
        self.dumps += 1

    def forget(self) -> None:
        pass


class FakeLauncher:
    """Starts handles, at once or when the test allows it, or raises the test's error."""

    def __init__(self) -> None:
        self.handles: list[FakeHandle] = []
        self.error: Exception | None = None
        self.may_start = asyncio.Event()
        self.may_start.set()

    async def start(self, spec: WorkerSpec) -> FakeHandle:
        await self.may_start.wait()
        if self.error is not None:
            raise self.error
        self.handles.append(FakeHandle())
        return self.handles[-1]

    async def adopt(self, record: Record) -> FakeHandle | None:
        raise NotImplementedError

    async def sweep(self, workspace_id: WorkspaceId, keep_pid: int) -> int:
        return 0

    async def close(self, *, end_zygote: bool) -> None:
        pass


class FakeRouter:
    """Makes links that send nothing; the test passes in the worker's messages."""

    epoch = Epoch(1)

    def __init__(self) -> None:
        self.links: list[Link] = []
        self.sent: list[ToWorker] = []

    def expect(self, worker: ExpectedWorker, listeners: LinkListeners) -> Link:
        def send(link: Link, message: ToWorker) -> bool:
            self.sent.append(message)
            return True

        link = Link(
            worker=worker,
            listeners=listeners,
            epoch=self.epoch,
            limits=LIMITS,
            clock=SystemClock(),
            log=LOG,
            send=send,
        )
        self.links.append(link)
        return link

    def forget(self, link: Link) -> None:
        link.fail(Unavailable("forgotten", code="worker_lost"))


class RecordingListener:
    """Records the reports of the driver."""

    def __init__(self) -> None:
        self.states: list[str] = []
        self.logs: list[tuple[str, int]] = []
        self.numbers: list[int] = []

    def on_state_changed(self, status: DriverStatus) -> None:
        self.states.append(status.state)

    def on_log_opened(self, log_id: str, last_number: int, link: Link) -> None:
        self.logs.append((log_id, last_number))

    def on_events(self, batch: list[Event], link: Link) -> None:
        self.numbers += [event.number for event in batch]


class DriverHarness:
    """A driver with a launcher and a router of the test."""

    def __init__(self, path: Path) -> None:
        self.launcher = FakeLauncher()
        self.router = FakeRouter()
        self.listener = RecordingListener()
        self.records = RecordStore(path)
        self.driver = WorkerDriver(
            workspace_id=ID,
            make_spec=self._spec,
            backend=WorkerBackend(self.launcher, self.records, cast(Router, self.router)),
            limits=LIMITS,
            clock=SystemClock(),
            log=LOG,
            listener=self.listener,
        )

    def _spec(self, generation: Generation) -> WorkerSpec:
        return WorkerSpec(
            workspace_id=ID,
            generation=generation,
            path="/somewhere",
            data_dir="/somewhere/.bulkhead",
            endpoint="ipc:///nowhere",
            token=f"token-{generation}",
            log_path="/dev/null",
        )

    async def until(self, state: str) -> None:
        await eventually(
            lambda: self.driver.status().state == state,
            what=state,
            state=lambda: (self.driver.status(), self.listener.states),
        )


def hello(**changes: object) -> Hello:
    values: dict[str, object] = {
        "wire_version": WIRE_VERSION,
        "code_version": BULKHEAD_VERSION,
        "workspace_id": ID,
        "generation": Generation(1),
        "token": "t",
        "pid": FakeHandle.pid,
        "start_ticks": FakeHandle.start_ticks,
        "boot_id": "",
        "epoch": Epoch(0),
        "ready": False,
    }
    return Hello(**(values | changes))  # type: ignore[arg-type]


async def test_an_unexpected_error_during_a_start_makes_the_workspace_failed(tmp_path: Path) -> None:
    harness = DriverHarness(tmp_path)
    harness.launcher.error = ValueError("an unexpected error")
    harness.driver.want()
    await harness.until("failed")
    assert "see the log of the server" in harness.driver.status().reason
    with pytest.raises(Unavailable) as refused:
        await harness.driver.ready(1.0)
    assert refused.value.code == "worker_failed"
    await harness.driver.stop(leave_worker=False)


async def test_no_worker_is_restarted_while_the_server_exits(tmp_path: Path) -> None:
    harness = DriverHarness(tmp_path)
    await harness.driver.close("server shuts down", for_good=True)
    with pytest.raises(Unavailable) as refused:
        await harness.driver.restart("by hand")
    assert refused.value.code == "server_exiting"
    assert harness.launcher.handles == []
    await harness.driver.stop(leave_worker=False)


async def test_S07_a_close_during_a_slow_start_kills_the_process_once_it_exists(tmp_path: Path) -> None:
    harness = DriverHarness(tmp_path)
    harness.launcher.may_start.clear()
    harness.driver.want()
    closing = asyncio.ensure_future(harness.driver.close("server shuts down", for_good=True))
    await asyncio.sleep(0)
    assert harness.driver.status().state == "closing"
    harness.launcher.may_start.set()
    await closing
    assert [handle.kills for handle in harness.launcher.handles] == [1]
    assert harness.driver.status().state == "asleep"
    assert harness.driver.crashes.newest() == []
    await harness.driver.stop(leave_worker=False)


async def test_S07_a_close_during_a_start_that_fails_ends_with_the_failure(tmp_path: Path) -> None:
    harness = DriverHarness(tmp_path)
    harness.launcher.may_start.clear()
    harness.launcher.error = Unavailable("no memory", code="worker_failed")
    harness.driver.want()
    closing = asyncio.ensure_future(harness.driver.close("server shuts down", for_good=True))
    await asyncio.sleep(0)
    harness.launcher.may_start.set()
    await closing
    assert harness.driver.status().state == "asleep"
    await harness.driver.stop(leave_worker=False)


async def test_W11_missing_heartbeats_before_the_hello_do_not_count(tmp_path: Path) -> None:
    """An adopted worker may take long to reconnect; its hello counts as the first heartbeat."""
    harness = DriverHarness(tmp_path)
    handle = FakeHandle()
    record = Record(ID, 1, handle.pid, handle.start_ticks, "boot", "t", 1.0, "/somewhere")
    harness.driver.adopt(handle, record)
    await asyncio.sleep(3 * LIMITS.heartbeat_lost_s)
    harness.router.links[-1].accepted(hello(ready=True, log_id="log", last_number=5), "peer")
    assert harness.driver.status().state == "ready"
    await asyncio.sleep(3 * LIMITS.heartbeat_interval_s)
    assert (harness.driver.status().state, handle.dumps) == ("ready", 0)
    await asyncio.sleep(2 * LIMITS.heartbeat_lost_s)  # from here on it has to send heartbeats
    await eventually(lambda: handle.kills, what="the silent worker killed")
    assert (handle.dumps, [crash.cause for crash in harness.driver.crashes.newest()]) == (1, ["hung"])
    await harness.driver.stop(leave_worker=False)


async def test_W11_a_worker_may_connect_before_its_pid_is_known(tmp_path: Path) -> None:
    harness = DriverHarness(tmp_path)
    harness.launcher.may_start.clear()
    harness.driver.want()
    await eventually(lambda: harness.router.links, what="the link")
    harness.router.links[-1].accepted(hello(), "peer")
    harness.router.links[-1].receive(Ready(log_id="log", last_number=0, open_runs=0))
    assert harness.driver.status().state == "ready"
    harness.launcher.may_start.set()
    await eventually(lambda: harness.driver.status().pid, what="a pid")
    assert harness.driver.status().state == "ready"
    await harness.driver.stop(leave_worker=False)


async def test_messages_of_an_older_process_reach_neither_driver_nor_workspace(tmp_path: Path) -> None:
    harness = DriverHarness(tmp_path)
    harness.driver.want()
    await eventually(lambda: harness.launcher.handles, what="a process")
    [older] = harness.router.links
    older.accepted(hello(), "peer")
    older.receive(Ready(log_id="log", last_number=3, open_runs=0))
    older.receive(EventBatch(events=[Event(kind="message", data=b"{}", number=4)]))
    older.receive(Heartbeat(sequence=1, loop_lag_s=0.5, open_runs=1))
    older.receive(Answer(call_id="unknown"))
    harness.launcher.handles[0].end(ExitReport(signal=9))
    await eventually(lambda: len(harness.launcher.handles) == 2, what="a replacement")
    harness.router.links[-1].accepted(hello(generation=Generation(2)), "peer")
    states = list(harness.listener.states)
    older.accepted(hello(ready=True, log_id="old", last_number=9, failed="read-only"), "peer")
    older.receive(Ready(log_id="old", last_number=9, open_runs=0))
    older.receive(EventBatch(events=[Event(kind="message", data=b"{}", number=5)]))
    older.receive(Heartbeat(sequence=9, loop_lag_s=9.0, open_runs=9))
    older.receive(LastWord(reason="bye", last_number=9, cancelled_runs=0, left_runs=[], flushed=True))
    status = harness.driver.status()
    assert (status.state, status.generation, status.heartbeat, status.loop_lag_max_s) == ("restarting", 2, None, 0)
    assert status.late_answers == 1, "counted over all processes"
    assert (harness.listener.logs, harness.listener.numbers) == ([("log", 3)], [4])
    assert harness.listener.states == states
    await harness.driver.stop(leave_worker=False)


async def test_S03_the_record_is_written_before_the_process_starts(tmp_path: Path) -> None:
    harness = DriverHarness(tmp_path)
    harness.launcher.may_start.clear()
    harness.driver.want()
    await eventually(lambda: harness.records.read_all(), what="a record")
    assert [(r.pid, r.generation) for r in harness.records.read_all()] == [(0, 1)]
    harness.launcher.may_start.set()
    await eventually(lambda: harness.records.read_all()[0].pid == FakeHandle.pid, what="the pid in the record")
    harness.launcher.handles[0].end(ExitReport(code=0))
    await eventually(lambda: len(harness.launcher.handles) == 2, what="a replacement")
    assert [r.generation for r in harness.records.read_all()] == [2]
    await harness.driver.stop(leave_worker=True)
    assert [r.generation for r in harness.records.read_all()] == [2]  # kept for the next supervisor
