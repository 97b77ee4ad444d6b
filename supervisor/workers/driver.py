"""Drive one workspace's worker: pass facts to its lifecycle and perform the effects that this returns.

The facts are the launcher's exit reports, the link's messages about the worker itself, timers, and requests that need
a worker. The lifecycle decides. Events do not pass through here: the link delivers them to the workspace.
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
from protocol.ids import Generation, WorkspaceId
from protocol.limits import Limits
from protocol.messages import Closing, Heartbeat, Hello, LastWord, Ready, Shutdown
from protocol.worker_spec import WorkerSpec
from supervisor.launch.launcher import ExitReport, Handle, Launcher, Record
from supervisor.launch.records import RecordStore
from supervisor.routing.link import EventListener, ExpectedWorker, Link, LinkListeners
from supervisor.routing.router import Router
from supervisor.workers.crash_history import Crash, CrashHistory
from supervisor.workers.heartbeat import HeartbeatWatch
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

_ENDED = (WorkerState.ASLEEP, WorkerState.BACKOFF, WorkerState.FAILED)
"""States without a process."""
_DUMP_S = 0.05
"""How long a stuck worker gets to write its stacks before it is killed."""


@dataclass(frozen=True, slots=True)
class DriverStatus:
    """A worker as clients see it. `state`: asleep starting ready degraded closing restarting failed.

    `answers`: calls reach it. That is so in `failed` as well, when the worker lives and only cannot store.
    """

    state: str
    reason: str
    pid: int | None
    generation: int
    started_wall: float | None
    restarts: int
    heartbeat: Heartbeat | None
    answers: bool = False
    loop_lag_max_s: float = 0.0  # of this process
    late_answers: int = 0  # since the supervisor started


class DriverListener(EventListener, Protocol):
    """The workspace of a worker: receives its events, and each change of its status."""

    def on_state_changed(self, status: DriverStatus) -> None: ...


@dataclass(frozen=True, slots=True)
class WorkerBackend:
    """The parts that start, find and reach the workers of a supervisor; shared by all drivers."""

    launcher: Launcher
    records: RecordStore
    router: Router


class WorkerDriver:
    """One per workspace, for as long as the supervisor knows the workspace."""

    def __init__(
        self,
        *,
        workspace_id: WorkspaceId,
        make_spec: Callable[[Generation], WorkerSpec],
        backend: WorkerBackend,
        limits: Limits,
        clock: Clock,
        log: logging.Logger,
        listener: DriverListener,
    ) -> None:
        """`make_spec` returns what the process of a generation is started with, each time with a new token."""
        self.crashes = CrashHistory()
        self._workspace_id = workspace_id
        self._make_spec = make_spec
        self._launcher = backend.launcher
        self._records = backend.records
        self._router = backend.router
        self._limits = limits
        self._clock = clock
        self._log = log
        self._listener = listener
        self._lifecycle = WorkerLifecycle(limits)
        self._tasks = TaskOwner(f"worker.{workspace_id}", log)
        self._generation = Generation(0)
        self._watch = HeartbeatWatch(limits, clock.now())
        self._handle: Handle | None = None
        self._link: Link | None = None
        self._late_answers = 0  # of the links before this one
        self.last_word: LastWord | None = None  # of the newest worker, if it left in order
        self._last_beat: Heartbeat | None = None
        self._loop_lag_max_s = 0.0
        self._cannot_store = ""  # the reason, from the worker's last message
        self._started_wall: float | None = None
        self._started_at = 0.0
        self._timer = Timer(clock, self._elapsed)
        self._watch_timer = Timer(clock, self._look_at_heartbeat)
        self._changed: asyncio.Event = asyncio.Event()
        self._published = ("", "")
        self._cancels_queued = False  # of the shutdown that was requested last
        self._is_closed = False  # no other worker will be started
        self._is_stopped = False  # the supervisor exits: nothing is decided here

    # --- requests of the supervisor -------------------------------------------------------------------------------

    def want(self) -> None:
        """Start the worker if it is asleep, without waiting."""
        if self._is_closed:
            return
        self._perform(self._lifecycle.want(self._clock.now()))

    async def ready(self, timeout_s: float) -> Link:
        """Return the link to a worker that answers calls; start the worker if it is asleep.

        Raises Unavailable: `worker_failed` with the reason when no more workers are started, `worker_starting` when
        none got ready within `timeout_s` seconds, `server_exiting` once the driver was closed for good.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    if self._is_closed:
                        raise self._exiting()
                    link = self._link
                    if self._lifecycle.state is WorkerState.READY and link is not None and link.is_open:
                        self._expect_heartbeat()
                        return link
                    if self._lifecycle.state is WorkerState.FAILED:
                        message = (
                            f"cannot use this workspace: its worker failed ({self._lifecycle.reason}); when the cause "
                            "is removed, POST /v1/workspaces/{id}/restart or `bulkhead restart` tries again"
                        )
                        raise Unavailable(message, code="worker_failed", retryable=False)
                    self.want()
                    await self._change()
        except TimeoutError as error:
            message = f"cannot use this workspace yet: its worker is not ready after {timeout_s:g} s"
            raise Unavailable(message, code="worker_starting", retry_after_s=1.0) from error

    async def close(self, reason: str, *, for_good: bool = False, cancel_queued: bool = False) -> LastWord | None:
        """End the worker by the shutdown protocol, and by force after its budgets; return its last word if it sent one.

        Runs that have not begun are left for the next worker, with `cancel_queued` cancelled.
        With `for_good` no other worker is started: callers that wait for one, and later ones, get `server_exiting`.
        """
        self._is_closed = self._is_closed or for_good
        self._cancels_queued = cancel_queued
        self._wake_waiters()
        self._perform(self._lifecycle.unwant(reason, self._clock.now()))
        limits = self._limits
        budget_s = limits.drain_s + limits.flush_s + limits.exit_s + 2 * limits.kill_deadline_s
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(budget_s):
                while self._lifecycle.state not in _ENDED:
                    await self._change()
        return self.last_word

    async def restart(self, reason: str) -> None:
        """Replace the worker, also a `failed` one; return when the new one is ready. Raises as `ready` does."""
        if self._is_closed:
            raise self._exiting()
        self._log.info("restart asked for", extra=self._fields(reason=reason))
        generation = self._generation
        self._cancels_queued = False
        self._perform(self._lifecycle.restart(self._clock.now()))
        limits = self._limits
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limits.drain_s + limits.flush_s + limits.exit_s + limits.kill_deadline_s):
                while self._generation == generation:
                    await self._change()
        await self.ready(limits.wake_deadline_s)

    def adopt(self, handle: Handle, record: Record) -> None:
        """Take over a worker that a previous supervisor started."""
        self._generation = Generation(record.generation)
        self._started_wall = record.started_wall
        self._started_at = self._clock.now()
        self._expect(record.token)
        self._perform(self._lifecycle.adopt(self._clock.now()))
        self._attend(handle)

    async def stop(self, *, leave_worker: bool) -> None:
        """Stop driving because the supervisor exits. The worker runs on with `leave_worker`, else it is killed."""
        self._is_closed = self._is_stopped = True
        self._wake_waiters()
        self._timer.cancel()
        self._watch_timer.cancel()
        await self._tasks.close()
        if self._handle is not None:
            if not leave_worker:
                self._handle.kill()
            self._handle.forget()
            self._handle = None
        self._drop_link()

    @property
    def may_owe(self) -> bool:
        """Return whether the worker reported an open run last. Cheap: it is asked for every worker each second."""
        beat, word = self._last_beat, self.last_word
        return bool(beat is not None and beat.open_runs) or (
            word is not None and bool(word.held_runs or word.left_runs)
        )

    def status(self) -> DriverStatus:
        """Return the worker's status as clients see it."""
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
            restarts=self.crashes.total,
            heartbeat=self._last_beat,
            answers=self._lifecycle.state is WorkerState.READY,
            loop_lag_max_s=self._loop_lag_max_s,
            late_answers=self._late_answers + (self._link.late_answers if self._link else 0),
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
                    self._timer.set(at)
                case FailCalls(cause):
                    self._fail_calls(cause)
                case Publish():
                    self._publish()
                case _:
                    assert_never(effect)

    async def _spawn(self) -> None:
        handle: Handle | None = None
        reason = "the start itself failed; see the log of the server"
        try:
            await failpoint("wake.before_spawn")
            handle = await self._launch()
        except (BulkheadError, OSError, FailpointRaised) as error:
            reason = str(error)
        finally:
            # Also after an unexpected error, which the task's owner logs: the lifecycle must not wait for ever.
            if handle is None and not self._is_stopped:
                self._log.error("worker not started", extra=self._fields(reason=reason))
                self._perform(self._lifecycle.not_started(reason, self._clock.now()))
        if handle is None:
            return
        self._attend(handle)
        self._log.info("worker started", extra=self._fields(pid=handle.pid))
        self._perform(self._lifecycle.born(self._clock.now()))
        if self._lifecycle.state is WorkerState.KILLING:
            handle.kill()  # the kill was decided before the process existed

    async def _launch(self) -> Handle:
        """Start the process of the next generation. Raises BulkheadError, OSError."""
        self._generation = Generation(self._generation + 1)
        self.last_word = None
        self._last_beat = None
        self._loop_lag_max_s = 0.0
        self._cannot_store = ""
        self._started_wall = self._clock.wall()
        self._started_at = self._clock.now()
        spec = self._make_spec(self._generation)
        self._expect(spec.token)
        self._write_record(spec, pid=0, start_ticks=0)
        handle = await self._launcher.start(spec)
        try:
            self._write_record(spec, pid=handle.pid, start_ticks=handle.start_ticks)
        except OSError as error:
            # The worker runs and works; the next supervisor will not know its pid, and will end it by its marker.
            self._log.error("record not written", extra=self._fields(pid=handle.pid, reason=error))
        return handle

    def _write_record(self, spec: WorkerSpec, *, pid: int, start_ticks: int) -> None:
        self._records.write(
            Record(
                workspace_id=self._workspace_id,
                generation=spec.generation,
                pid=pid,
                start_ticks=start_ticks,
                boot_id=boot_id(),
                token=spec.token,
                started_wall=self._started_wall or 0.0,
                path=spec.path,
                endpoint=spec.endpoint,
            )
        )

    def _expect(self, token: str) -> None:
        """Open a link for this generation. The one before is failed first, so nothing of the older process arrives."""
        self._drop_link()
        self._link = self._router.expect(
            ExpectedWorker(self._workspace_id, self._generation, token),
            LinkListeners(lifecycle=self, events=self._listener),
        )

    def _drop_link(self) -> None:
        if self._link is not None:
            self._late_answers += self._link.late_answers
            self._router.forget(self._link)
            self._link = None

    def _send_shutdown(self, reason: str) -> None:
        if self._link is not None:
            limits = self._limits
            epoch = self._router.epoch
            budgets = {"drain_s": limits.drain_s, "flush_s": limits.flush_s}
            self._link.send(Shutdown(epoch=epoch, reason=reason, cancel_queued=self._cancels_queued, **budgets))

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
        # writes one. Nothing reports its end, hence the fixed pause.
        await asyncio.sleep(_DUMP_S)
        handle.kill()

    def _elapsed(self) -> None:
        self._perform(self._lifecycle.elapsed(self._clock.now()))

    def _fail_calls(self, cause: str) -> None:
        if self._link is not None:
            message = f"cannot finish the request: the workspace's worker died ({cause}); try again"
            self._link.fail(Unavailable(message, code="worker_lost", retry_after_s=1.0))
            self._drop_link()

    def _publish(self) -> None:
        status = self.status()
        self._published = (status.state, status.reason)
        self._wake_waiters()
        self._listener.on_state_changed(status)

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
        self._watch_timer.set(self._watch.look_at)

    async def _await_exit(self, handle: Handle) -> None:
        report = await handle.exited()
        if self._handle is handle:
            self._handle = None
        self._record_exit(handle, report)
        # The record is removed second: an error there must not hide the exit. A next process writes its own later.
        self._perform(self._lifecycle.exited(report.cause, self._clock.now()))
        self._records.remove(self._workspace_id)

    def _expect_heartbeat(self) -> None:
        """The worker is about to get a message, which ends the long intervals of an idle one."""
        if self._watch.expect(self._clock.now()) and self._handle is not None:
            self._watch_timer.set(self._watch.look_at)

    def _look_at_heartbeat(self) -> None:
        if self._handle is None:
            return
        is_lost = self._watch.is_lost(self._clock.now())
        self._watch_timer.set(self._watch.look_at)
        # Before `ready` a worker recovers; that has the start deadline instead.
        if is_lost and self._lifecycle.state is WorkerState.READY:
            self._perform(self._lifecycle.beat_lost(self._clock.now()))

    def _record_exit(self, handle: Handle, report: ExitReport) -> None:
        lifetime_s = round(self._clock.now() - self._started_at, 3)
        extra = self._fields(pid=handle.pid, cause=report.cause, after_s=lifetime_s)
        if self._lifecycle.state in (WorkerState.CLOSING, WorkerState.KILLING) and not self._lifecycle.wanted:
            self._log.info("worker ended", extra=extra)
            return
        if self.last_word is not None:
            self._log.info("worker left", extra=extra)
            return
        self.crashes.add(
            Crash(
                at_wall=report.at_wall,
                generation=self._generation,
                pid=handle.pid,
                cause=self._lifecycle.reason if self._lifecycle.state is WorkerState.KILLING else report.cause,
                lifetime_s=lifetime_s,
                peak_rss_bytes=report.max_rss_bytes,
                log_tail=report.tail,
            )
        )
        self._log.error("worker died", extra=extra)

    # --- messages of the worker (LifecycleListener) ---------------------------------------------------------------

    def on_hello(self, message: Hello) -> None:
        """Take a new connection of the worker; an adopted worker is ready already."""
        self._watch.beat(self._clock.now())  # the silence before it connected does not count
        self._cannot_store = message.failed
        if message.ready:
            self._perform(self._lifecycle.became_ready(self._clock.now()))

    def on_ready(self, message: Ready) -> None:
        """Take the end of the worker's recovery."""
        self._watch.beat(self._clock.now())
        if message.interrupted or message.requeued:
            self._log.info(
                "worker recovered",
                extra=self._fields(interrupted=len(message.interrupted), requeued=len(message.requeued)),
            )
        self._cannot_store = message.failed
        self._perform(self._lifecycle.became_ready(self._clock.now()))

    def on_heartbeat(self, message: Heartbeat) -> None:
        """Take a beat of the worker's loop."""
        self._last_beat = message
        self._loop_lag_max_s = max(self._loop_lag_max_s, message.loop_lag_s)
        self._cannot_store = message.failed
        self._watch.beat(self._clock.now(), message.interval_s)
        status = self.status()
        if (status.state, status.reason) != self._published:
            self._publish()  # degraded, unable to store, or recovered from that

    def on_closing(self, message: Closing) -> None:
        """Take a stage of the worker's shutdown."""
        self._log.debug("worker closes", extra=self._fields(stage=message.stage, open_runs=message.open_runs))

    def on_last_word(self, message: LastWord) -> None:
        """Take the worker's announcement that it exits by itself, in order."""
        self.last_word = message
        self._perform(self._lifecycle.last_word())

    def _exiting(self) -> Unavailable:
        message = "cannot start a worker: the server or this workspace is shutting down"
        return Unavailable(message, code="server_exiting")

    def _fields(self, **more: object) -> dict[str, object]:
        return fields(workspace=self._workspace_id, generation=self._generation, **more)
