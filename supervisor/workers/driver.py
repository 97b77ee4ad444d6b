"""Feeds facts to the lifecycle of one workspace's worker and performs its effects.

Everything that happens to a worker arrives here: the launcher's exit reports, the link's messages, the timers, and
what requests want. Decisions are the lifecycle's.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, assert_never

from protocol.base.clock import Clock
from protocol.base.failpoints import FailpointRaised, failpoint
from protocol.base.logs import fields
from protocol.base.process_identity import boot_id
from protocol.base.tasks import TaskOwner
from protocol.base.timer import Timer
from protocol.errors import BulkheadError, Unavailable
from protocol.events import Event
from protocol.ids import Generation, RandomSource, WorkspaceId, new_token
from protocol.limits import Limits
from protocol.messages import Closing, Heartbeat, Hello, LastWord, Ready, Shutdown
from protocol.worker_spec import WorkerSpec
from supervisor.launch.launcher import ExitReport, Handle, Launcher, Record
from supervisor.launch.records import RecordStore
from supervisor.routing.link import Link
from supervisor.routing.router import Router
from supervisor.workers.crash_history import Crash, CrashHistory
from supervisor.workers.generation_fence import FencedSink
from supervisor.workers.heartbeat import HeartbeatState, HeartbeatWatch
from supervisor.workers.lifecycle import (
    Effect,
    FailCalls,
    Kill,
    Publish,
    SendShutdown,
    Spawn,
    WakeAt,
    WorkerLifecycle,
    WorkerState,
)

_OVER = (WorkerState.ASLEEP, WorkerState.BACKOFF, WorkerState.FAILED)


@dataclass(frozen=True, slots=True)
class DriverStatus:
    """A worker as clients see it. `state`: asleep starting ready degraded closing restarting failed.

    `answers`: calls reach it. That is so in `failed` as well, when all that it cannot do is store.
    """

    state: str
    reason: str
    pid: int | None
    generation: int
    started_wall: float | None
    restarts: int
    heartbeat: Heartbeat | None
    answers: bool = False


class DriverSink(Protocol):
    """The workspace, as its worker's driver knows it."""

    def state_changed(self, status: DriverStatus) -> None: ...

    def log_opened(self, log_id: str, last_number: int, link: Link) -> None: ...

    def events(self, batch: list[Event], link: Link) -> None: ...


class WorkerDriver:
    """One per workspace, for as long as the supervisor knows it."""

    def __init__(
        self,
        *,
        workspace_id: WorkspaceId,
        path: str,
        make_spec: Callable[[Generation, str], WorkerSpec],
        launcher: Launcher,
        records: RecordStore,
        router: Router,
        limits: Limits,
        clock: Clock,
        random: RandomSource,
        log: logging.Logger,
        sink: DriverSink,
    ) -> None:
        self.deaths = CrashHistory()
        self._workspace_id = workspace_id
        self._path = path
        self._make_spec = make_spec
        self._launcher = launcher
        self._records = records
        self._router = router
        self._limits = limits
        self._clock = clock
        self._random = random
        self._log = log
        self._sink = sink
        self._epoch = router.epoch
        self._lifecycle = WorkerLifecycle(limits)
        self._tasks = TaskOwner(f"worker.{workspace_id}", log)
        self._generation = Generation(0)
        self._watch = HeartbeatWatch(limits, clock.now())
        self._handle: Handle | None = None
        self._link: Link | None = None
        self._last_word: LastWord | None = None
        self._last_beat: Heartbeat | None = None
        self._cannot_store = ""  # why, as the worker said last
        self._started_wall: float | None = None
        self._started_at = 0.0
        self._alarm = Timer(clock, self._elapsed)
        self._changed: asyncio.Event = asyncio.Event()
        self._published = ("", "")
        self._is_over = False  # no other worker will be started
        self._is_let_go = False  # nothing is decided here any more

    # --- what the supervisor wants --------------------------------------------------------------------------------

    def want(self) -> None:
        """Start the worker if it sleeps. Does not wait."""
        if self._is_over:
            return
        self._perform(self._lifecycle.want(self._clock.now()))

    async def ready(self, timeout_s: float) -> Link:
        """The link to a worker that answers calls, waking one if need be.

        Raises Unavailable: `worker_failed` with the reason when no more are started, `worker_starting` when none got
        ready within `timeout_s` seconds, `server_exiting` once it was closed for good.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    if self._is_over:
                        raise self._leaving()
                    link = self._link
                    if self._lifecycle.state is WorkerState.READY and link is not None and link.is_open:
                        return link
                    if self._lifecycle.state is WorkerState.FAILED:
                        message = (
                            f"cannot use this workspace: its worker failed ({self._lifecycle.reason}); when the cause "
                            "is gone, POST /v1/workspaces/{id}/restart or `bulkhead restart` tries again"
                        )
                        raise Unavailable(message, code="worker_failed", retryable=False)
                    self.want()
                    await self._change()
        except TimeoutError as error:
            message = f"cannot use this workspace yet: its worker is not ready after {timeout_s:g} s"
            raise Unavailable(message, code="worker_starting", retry_after_s=1.0) from error

    async def close(self, reason: str, *, for_good: bool = False) -> LastWord | None:
        """End the worker by the shutdown protocol, by force after its budgets; returns its last word if it had one.

        With `for_good` no other is started: who waits for one, or asks later, is refused.
        """
        self._is_over = self._is_over or for_good
        self._wake_waiters()
        self._perform(self._lifecycle.unwant(reason, self._clock.now()))
        limits = self._limits
        budget_s = limits.drain_s + limits.flush_s + limits.exit_s + 2 * limits.kill_deadline_s
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(budget_s):
                while self._lifecycle.state not in _OVER:
                    await self._change()
        return self._last_word

    async def restart(self, reason: str) -> None:
        """Replace the worker, also a `failed` one; returns when the new one is ready. Raises as `ready` does."""
        if self._is_over:
            raise self._leaving()
        self._log.info("restart asked for", extra=self._fields(reason=reason))
        generation = self._generation
        self._perform(self._lifecycle.restart(self._clock.now()))
        limits = self._limits
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limits.drain_s + limits.flush_s + limits.exit_s + limits.kill_deadline_s):
                while self._generation == generation:
                    await self._change()
        await self.ready(limits.wake_deadline_s)

    def adopt(self, handle: Handle, record: Record) -> None:
        """Take over a worker that a former supervisor started."""
        self._generation = Generation(record.generation)
        self._started_wall = record.started_wall
        self._started_at = self._clock.now()
        self._expect(record.token)
        self._perform(self._lifecycle.adopt(self._clock.now()))
        self._attend(handle)

    async def stop(self, *, leave_worker: bool) -> None:
        """The supervisor exits: stop driving. The worker lives on with `leave_worker`, else it is killed."""
        self._is_over = self._is_let_go = True
        self._wake_waiters()
        self._alarm.cancel()
        await self._tasks.close()
        if self._handle is not None:
            if not leave_worker:
                self._handle.kill()
            self._handle.forget()
            self._handle = None
        if self._link is not None:
            self._router.forget(self._link)
            self._link = None

    def status(self) -> DriverStatus:
        """The worker as clients see it."""
        reason = self._lifecycle.reason
        match self._lifecycle.state:
            case WorkerState.ASLEEP:
                word = "asleep"
            case WorkerState.STARTING:
                word = "restarting" if reason else "starting"
            case WorkerState.READY:
                reason = self._cannot_store or (self._last_beat.degraded if self._last_beat else "")
                word = "failed" if self._cannot_store else "degraded" if reason else "ready"
            case WorkerState.CLOSING:
                word = "closing"
            case WorkerState.BACKOFF:
                word = "restarting"
            case WorkerState.KILLING:
                word = "failed" if self._lifecycle.wanted else "closing"
            case WorkerState.FAILED:
                word = "failed"
            case _ as never:
                assert_never(never)
        return DriverStatus(
            state=word,
            reason=reason,
            pid=self._handle.pid if self._handle else None,
            generation=self._generation,
            started_wall=self._started_wall if self._handle else None,
            restarts=self.deaths.total,
            heartbeat=self._last_beat,
            answers=self._lifecycle.state is WorkerState.READY,
        )

    # --- effects --------------------------------------------------------------------------------------------------

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Spawn():
                    self._tasks.start(self._spawn(), "spawn")
                case SendShutdown(reason):
                    self._send_shutdown(reason)
                case Kill(reason, dump):
                    self._kill(reason, dump)
                case WakeAt(at):
                    self._alarm.set(at)
                case FailCalls(cause):
                    self._fail_calls(cause)
                case Publish():
                    self._publish()
                case _:
                    assert_never(effect)

    async def _spawn(self) -> None:
        handle: Handle | None = None
        reason = "the start itself failed, the log tells why"
        try:
            await failpoint("wake.before_spawn")
            handle = await self._launch()
        except (BulkheadError, OSError, FailpointRaised) as error:
            reason = str(error)
        finally:
            # Also after what nobody expected, which the task's owner logs: the lifecycle must not wait for ever.
            if handle is None and not self._is_let_go:
                self._log.error("worker not started", extra=self._fields(reason=reason))
                self._perform(self._lifecycle.not_started(reason, self._clock.now()))
        if handle is None:
            return
        self._attend(handle)
        self._log.info("worker started", extra=self._fields(pid=handle.pid))
        self._perform(self._lifecycle.born(self._clock.now()))
        if self._lifecycle.state is WorkerState.KILLING:
            handle.kill()  # nobody wants it any more; it was not there when that was decided

    async def _launch(self) -> Handle:
        """The next generation's process. Raises BulkheadError, OSError."""
        self._generation = Generation(self._generation + 1)
        token = new_token(self._random)
        self._last_word = None
        self._last_beat = None
        self._cannot_store = ""
        self._started_wall = self._clock.wall()
        self._started_at = self._clock.now()
        self._expect(token)
        self._write_record(token, pid=0, start_ticks=0)
        handle = await self._launcher.start(self._make_spec(self._generation, token))
        try:
            self._write_record(token, pid=handle.pid, start_ticks=handle.start_ticks)
        except OSError as error:
            # It lives and works; a next supervisor will not know its pid, and end it by its marker.
            self._log.error("record not written", extra=self._fields(pid=handle.pid, reason=error))
        return handle

    def _write_record(self, token: str, *, pid: int, start_ticks: int) -> None:
        self._records.write(
            Record(
                workspace_id=self._workspace_id,
                generation=self._generation,
                pid=pid,
                start_ticks=start_ticks,
                boot_id=boot_id(),
                token=token,
                started_wall=self._started_wall or 0.0,
                path=self._path,
            )
        )

    def _expect(self, token: str) -> None:
        if self._link is not None:
            self._router.forget(self._link)
        generation = self._generation
        ears = FencedSink(self, lambda: self._generation == generation)
        self._link = self._router.expect(
            workspace_id=self._workspace_id, generation=self._generation, token=token, sink=ears
        )

    def _send_shutdown(self, reason: str) -> None:
        if self._link is not None:
            limits = self._limits
            self._link.tell(Shutdown(epoch=self._epoch, reason=reason, drain_s=limits.drain_s, flush_s=limits.flush_s))

    def _kill(self, reason: str, dump: bool) -> None:
        self._log.warning("worker killed", extra=self._fields(reason=reason))
        if self._handle is None:
            return
        if dump:
            self._handle.dump()
            self._tasks.start(self._kill_after_dump(self._handle), "kill")
        else:
            self._handle.kill()

    async def _kill_after_dump(self, handle: Handle) -> None:
        # The dump is written in the signal handler, within microseconds of being scheduled; a stopped process never
        # writes one. Nothing tells when it is done, so it gets a moment.
        await asyncio.sleep(0.05)
        handle.kill()

    def _elapsed(self) -> None:
        self._perform(self._lifecycle.elapsed(self._clock.now()))

    def _fail_calls(self, cause: str) -> None:
        if self._link is not None:
            message = f"cannot finish the request: the workspace's worker died ({cause}); try again"
            self._link.fail(Unavailable(message, code="worker_lost", retry_after_s=1.0))
            self._router.forget(self._link)
            self._link = None

    def _publish(self) -> None:
        status = self.status()
        self._published = (status.state, status.reason)
        self._wake_waiters()
        self._sink.state_changed(status)

    def _wake_waiters(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _change(self) -> None:
        await self._changed.wait()

    # --- the process ----------------------------------------------------------------------------------------------

    def _attend(self, handle: Handle) -> None:
        self._handle = handle
        self._watch = HeartbeatWatch(self._limits, self._clock.now())
        self._tasks.start(self._await_exit(handle), "exit")
        self._tasks.start(self._listen(handle, self._watch), "heartbeat")

    async def _await_exit(self, handle: Handle) -> None:
        report = await handle.exited()
        if self._handle is handle:
            self._handle = None
        self._note(handle, report)
        # The record goes second: it is not worth an end that nobody hears of. A successor writes its own later.
        self._perform(self._lifecycle.exited(report.cause, self._clock.now()))
        self._records.remove(self._workspace_id)

    async def _listen(self, handle: Handle, watch: HeartbeatWatch) -> None:
        """Watch the heartbeat for as long as the process lives."""
        while self._handle is handle:
            await asyncio.sleep(self._limits.heartbeat_interval_s)
            pulse = watch.look(self._clock.now())
            # Before it is ready a worker recovers, which has the start deadline instead.
            if self._handle is handle and pulse is HeartbeatState.LOST and self._lifecycle.state is WorkerState.READY:
                self._perform(self._lifecycle.beat_lost(self._clock.now()))

    def _note(self, handle: Handle, report: ExitReport) -> None:
        alive_s = round(self._clock.now() - self._started_at, 3)
        told = self._fields(pid=handle.pid, cause=report.cause, after_s=alive_s)
        if self._lifecycle.state in (WorkerState.CLOSING, WorkerState.KILLING) and not self._lifecycle.wanted:
            self._log.info("worker ended", extra=told)
            return
        if self._last_word is not None:
            self._log.info("worker left", extra=told)
            return
        cause = self._lifecycle.reason if self._lifecycle.state is WorkerState.KILLING else report.cause
        self.deaths.add(
            Crash(
                at_wall=report.at_wall,
                generation=self._generation,
                pid=handle.pid,
                cause=cause,
                after_s=alive_s,
                max_rss_bytes=report.max_rss_bytes,
                tail=report.tail,
            )
        )
        self._log.error("worker died", extra=told)

    # --- what the worker says (by way of _Ears) -------------------------------------------------------------------

    def on_hello(self, message: Hello) -> None:
        """A new connection of the worker; one that was adopted is ready already."""
        self._watch.beat(self._clock.now())  # before anybody may hold the silence against it
        self._cannot_store = message.failed
        if message.ready:
            self._heard_log(message.log_id, message.last_number)
            self._perform(self._lifecycle.became_ready(self._clock.now()))

    def on_ready(self, message: Ready) -> None:
        """Recovery is done."""
        self._watch.beat(self._clock.now())
        if message.interrupted or message.requeued:
            self._log.info(
                "worker recovered",
                extra=self._fields(interrupted=len(message.interrupted), requeued=len(message.requeued)),
            )
        self._cannot_store = message.failed
        self._heard_log(message.log_id, message.last_number)
        self._perform(self._lifecycle.became_ready(self._clock.now()))

    def on_heartbeat(self, message: Heartbeat) -> None:
        """The worker's loop beats."""
        self._last_beat = message
        self._cannot_store = message.failed
        self._watch.beat(self._clock.now())
        status = self.status()
        if (status.state, status.reason) != self._published:
            self._publish()  # degraded, unable to store, or well again

    def on_events(self, batch: list[Event]) -> None:
        """Events in their order."""
        if self._link is not None:
            self._sink.events(batch, self._link)

    def on_closing(self, message: Closing) -> None:
        """A stage of the shutdown."""
        self._log.debug("worker closes", extra=self._fields(stage=message.stage, open_runs=message.open_runs))

    def on_last_word(self, message: LastWord) -> None:
        """It leaves by itself, in order."""
        self._last_word = message
        self._perform(self._lifecycle.last_word())

    def _heard_log(self, log_id: str, last_number: int) -> None:
        if self._link is not None:
            self._sink.log_opened(log_id, last_number, self._link)

    def _leaving(self) -> Unavailable:
        message = "cannot start a worker: the server or this workspace is going away"
        return Unavailable(message, code="server_exiting")

    def _fields(self, **more: object) -> dict[str, object]:
        return fields(workspace=self._workspace_id, generation=self._generation, **more)
