"""The driver with a launcher of our own: no start may vanish, no silence be held against one who was not asked."""

import asyncio
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from protocol.base.clock import SystemClock
from protocol.errors import Unavailable
from protocol.events import Event
from protocol.ids import Epoch, Generation, WorkspaceId
from protocol.limits import Limits
from protocol.messages import Hello, Ready, ToWorker
from protocol.version import BULKHEAD_VERSION, WIRE_VERSION
from protocol.worker_spec import WorkerSpec
from supervisor.launch.launcher import ExitReport, Record
from supervisor.launch.records import RecordStore
from supervisor.routing.link import Link, LinkSink
from supervisor.routing.router import Router
from supervisor.workers.driver import DriverStatus, WorkerDriver
from tests.support.eventually import eventually
from tests.support.run_coroutine import run

LOG = logging.getLogger("bulkhead.test")
ID = WorkspaceId("driver-test")
LIMITS = Limits(heartbeat_interval_s=0.01, heartbeat_lost_s=0.1, restart_delay_s_max=0.01)


class Handle:
    """A process that exists in the test's head only."""

    pid = 4711
    start_ticks = 1

    def __init__(self) -> None:
        self.kills = 0
        self.dumps = 0
        self._over: asyncio.Future[ExitReport] = asyncio.get_running_loop().create_future()

    async def exited(self) -> ExitReport:
        return await self._over

    def kill(self) -> None:
        self.kills += 1
        self.end(ExitReport(signal=9))

    def end(self, report: ExitReport) -> None:
        if not self._over.done():
            self._over.set_result(report)

    def dump(self) -> None:
        self.dumps += 1

    def forget(self) -> None:
        pass


class Launcher:
    """Starts what the test wants it to."""

    def __init__(self) -> None:
        self.handles: list[Handle] = []
        self.error: Exception | None = None
        self.may_start = asyncio.Event()
        self.may_start.set()

    async def start(self, spec: WorkerSpec) -> Handle:
        await self.may_start.wait()
        if self.error is not None:
            raise self.error
        self.handles.append(Handle())
        return self.handles[-1]

    async def adopt(self, record: Record) -> Handle | None:
        raise NotImplementedError

    async def sweep(self, workspace_id: WorkspaceId, keep_pid: int) -> int:
        return 0

    async def close(self, *, end_zygote: bool) -> None:
        pass


class Wire:
    """Stands where the router stands: makes links, sends nothing, and speaks as the worker."""

    epoch = Epoch(1)

    def __init__(self) -> None:
        self.sink: LinkSink | None = None
        self.sent: list[ToWorker] = []

    def expect(self, *, workspace_id: WorkspaceId, generation: Generation, token: str, sink: LinkSink) -> Link:
        self.sink = sink

        def send(link: Link, message: ToWorker) -> bool:
            self.sent.append(message)
            return True

        return Link(
            workspace_id=workspace_id,
            generation=generation,
            token=token,
            sink=sink,
            epoch=self.epoch,
            limits=LIMITS,
            clock=SystemClock(),
            log=LOG,
            send=send,
        )

    def forget(self, link: Link) -> None:
        pass

    def say(self, word: Callable[[LinkSink], None]) -> None:
        assert self.sink is not None
        word(self.sink)


class Sink:
    def __init__(self) -> None:
        self.states: list[str] = []

    def state_changed(self, status: DriverStatus) -> None:
        self.states.append(status.state)

    def log_opened(self, log_id: str, last_number: int, link: Link) -> None:
        pass

    def events(self, batch: list[Event], link: Link) -> None:
        pass


class Stage:
    def __init__(self, path: Path) -> None:
        self.launcher = Launcher()
        self.wire = Wire()
        self.sink = Sink()
        self.records = RecordStore(path)
        self.driver = WorkerDriver(
            workspace_id=ID,
            path="/somewhere",
            make_spec=self._spec,
            launcher=self.launcher,
            records=self.records,
            router=cast(Router, self.wire),
            limits=LIMITS,
            clock=SystemClock(),
            random=random.Random(1),
            log=LOG,
            sink=self.sink,
        )

    def _spec(self, generation: Generation, token: str) -> WorkerSpec:
        return WorkerSpec(
            workspace_id=ID,
            generation=generation,
            path="/somewhere",
            data_dir="/somewhere/.bulkhead",
            endpoint="ipc:///nowhere",
            token=token,
            log_path="/dev/null",
        )

    async def until(self, state: str) -> None:
        await eventually(
            lambda: self.driver.status().state == state,
            what=state,
            state=lambda: (self.driver.status(), self.sink.states),
        )


def hello(**changes: Any) -> Hello:
    values: dict[str, Any] = {
        "wire_version": WIRE_VERSION,
        "code_version": BULKHEAD_VERSION,
        "workspace_id": ID,
        "generation": Generation(1),
        "token": "t",
        "pid": Handle.pid,
        "start_ticks": Handle.start_ticks,
        "boot_id": "",
        "epoch": Epoch(0),
        "ready": False,
    }
    return Hello(**(values | changes))


def test_a_start_that_breaks_unexpectedly_is_a_start_that_failed(tmp_path: Path) -> None:
    async def main() -> None:
        stage = Stage(tmp_path)
        stage.launcher.error = ValueError("nobody thought of this")
        stage.driver.want()
        await stage.until("failed")
        assert "the log tells why" in stage.driver.status().reason
        with pytest.raises(Unavailable) as refused:
            await stage.driver.ready(1.0)
        assert refused.value.code == "worker_failed"
        await stage.driver.stop(leave_worker=False)

    run(main())


def test_nothing_is_restarted_once_the_server_leaves(tmp_path: Path) -> None:
    async def main() -> None:
        stage = Stage(tmp_path)
        await stage.driver.close("server shuts down", for_good=True)
        with pytest.raises(Unavailable) as refused:
            await stage.driver.restart("by hand")
        assert refused.value.code == "server_exiting"
        assert stage.launcher.handles == []
        await stage.driver.stop(leave_worker=False)

    run(main())


def test_S07_a_close_during_a_slow_start_ends_the_process_that_then_appears(tmp_path: Path) -> None:
    async def main() -> None:
        stage = Stage(tmp_path)
        stage.launcher.may_start.clear()
        stage.driver.want()
        closing = asyncio.ensure_future(stage.driver.close("server shuts down", for_good=True))
        await asyncio.sleep(0)
        assert stage.driver.status().state == "closing"
        stage.launcher.may_start.set()
        await closing
        assert [handle.kills for handle in stage.launcher.handles] == [1]
        assert stage.driver.status().state == "asleep"
        assert list(stage.driver.deaths) == []
        await stage.driver.stop(leave_worker=False)

    run(main())


def test_S07_a_close_during_a_start_that_fails_is_over_with_it(tmp_path: Path) -> None:
    async def main() -> None:
        stage = Stage(tmp_path)
        stage.launcher.may_start.clear()
        stage.launcher.error = Unavailable("no memory", code="worker_failed")
        stage.driver.want()
        closing = asyncio.ensure_future(stage.driver.close("server shuts down", for_good=True))
        await asyncio.sleep(0)
        stage.launcher.may_start.set()
        await closing
        assert stage.driver.status().state == "asleep"
        await stage.driver.stop(leave_worker=False)

    run(main())


def test_W11_silence_before_the_worker_was_heard_does_not_count(tmp_path: Path) -> None:
    """An adopted worker may take long to connect again; its hello is the first beat."""

    async def main() -> None:
        stage = Stage(tmp_path)
        handle = Handle()
        record = Record(ID, 1, handle.pid, handle.start_ticks, "boot", "t", 1.0, "/somewhere")
        stage.driver.adopt(handle, record)
        await asyncio.sleep(3 * LIMITS.heartbeat_lost_s)
        stage.wire.say(lambda sink: sink.hello(hello(ready=True, log_id="log", last_number=5)))
        assert stage.driver.status().state == "ready"
        await asyncio.sleep(3 * LIMITS.heartbeat_interval_s)
        assert (stage.driver.status().state, handle.dumps) == ("ready", 0)
        await asyncio.sleep(2 * LIMITS.heartbeat_lost_s)  # but from here on it has to beat
        await eventually(lambda: handle.kills, what="the silent worker killed")
        assert (handle.dumps, stage.driver.deaths.last and stage.driver.deaths.last.cause) == (1, "hung")
        await stage.driver.stop(leave_worker=False)

    run(main())


def test_W11_a_worker_may_speak_before_we_know_its_pid(tmp_path: Path) -> None:
    async def main() -> None:
        stage = Stage(tmp_path)
        stage.launcher.may_start.clear()
        stage.driver.want()
        await eventually(lambda: stage.wire.sink, what="the link")
        stage.wire.say(lambda sink: sink.hello(hello()))
        stage.wire.say(lambda sink: sink.ready(Ready(log_id="log", last_number=0, open_runs=0)))
        assert stage.driver.status().state == "ready"
        stage.launcher.may_start.set()
        await eventually(lambda: stage.driver.status().pid, what="a pid")
        assert stage.driver.status().state == "ready"
        await stage.driver.stop(leave_worker=False)

    run(main())


def test_S03_the_record_is_there_before_the_process(tmp_path: Path) -> None:
    async def main() -> None:
        stage = Stage(tmp_path)
        stage.launcher.may_start.clear()
        stage.driver.want()
        await eventually(lambda: stage.records.read_all(), what="a record")
        assert [(r.pid, r.generation) for r in stage.records.read_all()] == [(0, 1)]
        stage.launcher.may_start.set()
        await eventually(lambda: stage.records.read_all()[0].pid == Handle.pid, what="the pid in the record")
        stage.launcher.handles[0].end(ExitReport(code=0))
        await eventually(lambda: len(stage.launcher.handles) == 2, what="a replacement")
        assert [r.generation for r in stage.records.read_all()] == [2]
        await stage.driver.stop(leave_worker=True)
        assert [r.generation for r in stage.records.read_all()] == [2]  # for the next supervisor

    run(main())
