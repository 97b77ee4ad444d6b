"""Hold the queues of all sessions and perform their effects. Only the dispatcher starts runners.

A prompt is accepted in this order: its reservation in the session's queue, the commit of its row, the answer. A queue
decides without an await; writes happen afterwards, in tasks of this dispatcher.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any

from protocol.api.agent import Prompt, Run
from protocol.api.permission import PermissionPolicy
from protocol.base.failpoints import failpoint
from protocol.base.tasks import run_shielded
from protocol.errors import BadInput, Conflict, LimitReached, NotFound
from protocol.ids import RunId, SessionId, is_id, new_uuid
from protocol.limits import Limits
from worker.runs.drain import Drain
from worker.runs.run_end import CANCELLED, CLOSED, Outcome, RunFinisher, UnwrittenRows
from worker.runs.run_services import RunServices
from worker.runs.runner import NameSession, Runner, RunnerContext, TurnMaker
from worker.runs.session_queue import (
    AcceptCounter,
    CancelActive,
    CancelOnEntry,
    Drop,
    Effect,
    Merge,
    Reservation,
    SessionQueue,
    Start,
)
from worker.runs.transcript import StoredTranscript
from worker.store import rows
from worker.store.database import Transaction
from worker.store.rows import StoredRun
from worker.store.tables import messages, runs, sessions


class Dispatcher:
    """Accept, start and end all runs of one workspace."""

    def __init__(
        self,
        services: RunServices,
        *,
        finisher: RunFinisher,
        make_turn: TurnMaker,
        name_session: NameSession,
        drain: Drain,
        counter: AcceptCounter,
    ) -> None:
        self._services = services
        self._database = services.database
        self._limits = services.limits
        self._clock = services.clock
        self._random = services.random
        self._owner = services.owner
        self._finisher = finisher
        self._drain = drain
        self._counter = counter
        self._runner_context = RunnerContext(services, finisher, make_turn, name_session)
        self._queues: dict[SessionId, SessionQueue] = {}
        self._runs: dict[str, StoredRun] = {}  # stored and not ended
        self._counted: set[str] = set()  # run ids whose rows say already that they are about to start
        self._runners: dict[str, Runner] = {}
        self._accepting: dict[SessionId, set[asyncio.Task[object]]] = {}
        self._ends: dict[SessionId, set[asyncio.Task[None]]] = {}
        self._watchers: set[asyncio.Future[None]] = set()

    # --- state ------------------------------------------------------------------------------------------------------

    @property
    def open_runs(self) -> int:
        """The number of runs that are accepted, queued or active."""
        return len(self._runs) + sum(len(tasks) for tasks in self._accepting.values())

    @property
    def open_ids(self) -> list[RunId]:
        """The ids of the runs that are stored and have not ended."""
        return [RunId(run_id) for run_id in self._runs]

    @property
    def held_ids(self) -> list[RunId]:
        """The ids of the runs that stay accepted for the next worker, because this one closes."""
        return [run_id for queue in self._queues.values() for run_id in queue.held]

    @property
    def is_busy(self) -> bool:
        """Return whether any run is active."""
        return any(queue.is_busy for queue in self._queues.values())

    def is_session_busy(self, session_id: str) -> bool:
        """Return whether a run of this session is active."""
        queue = self._queues.get(SessionId(session_id))
        return queue is not None and queue.is_busy

    def queued(self, session_id: str) -> list[StoredRun]:
        """Return the prompts that wait in this session, in order."""
        queue = self._queues.get(SessionId(session_id))
        return [self._runs[run_id] for run_id in queue.queued] if queue else []

    def shape(self, run: StoredRun) -> Run:
        """Return a run as the API shows it; only the dispatcher knows whether it is queued."""
        queue = self._queues.get(SessionId(run.session_id))
        if run.state == "accepted" and queue is not None and run.id in queue.queued:
            run = replace(run, state="queued")
        return run.shape()

    # --- accepting --------------------------------------------------------------------------------------------------

    async def submit(self, request: Prompt, *, check: Callable[[], None] = lambda: None) -> RunId:
        """Accept a prompt and return its run id, once it is on disk. The same run id again gives the same answer.

        `check` is called in the thread of the database before anything is written; what it raises is raised here.

        Raises BadInput (`session_missing`, `empty_prompt`, …), NotFound `session_unknown`, Conflict
        (`workspace_closing`, `run_id_reused`), LimitReached (`queue_full`, `storage_full`), Unavailable.
        """
        _check(request, self._limits)
        if not self._drain.is_open:
            raise Conflict("cannot accept a prompt: the workspace is closing", code="workspace_closing")
        session_id = SessionId(request.session_id)
        queue = self._queue_of(session_id)
        if queue.waiting >= self._limits.queued_prompts_max:
            self._forget_if_empty(queue)
            raise LimitReached(
                f"cannot accept a prompt: {queue.waiting} wait in this session; let them run or clear the queue",
                code="queue_full",
            )
        run_id = RunId(request.run_id or new_uuid(self._random))
        # A prompt with a policy of its own must not become part of a run that has another.
        has_own_turn = bool(request.run_id or request.permission_policy)
        reservation = queue.accept(run_id, has_own_turn=has_own_turn)
        run = StoredRun(
            id=run_id,
            session_id=session_id,
            accept_seq=reservation.sequence,
            prompt=request.prompt,
            attachments=list(request.attachments or ()),
            has_own_turn=has_own_turn,
            permission_policy=request.permission_policy,
            permission_wait_s=request.permission_wait_s,
            # A run that will start at once is counted here, so that counting (W17) costs no write of its own.
            deaths=0 if queue.is_busy or queue.waiting > 1 else 1,
            accepted_at_ms=int(self._clock.wall() * 1000),
        )
        # A caller that leaves must not leave a stored run outside its queue, so the acceptance continues without it.
        work = self._accept(queue, reservation, run, check)
        return await run_shielded(
            work, owner=self._owner, timeout_s=2 * self._limits.storage_job_s, name=f"accept-{run_id}"
        )

    async def _accept(
        self, queue: SessionQueue, reservation: Reservation, run: StoredRun, check: Callable[[], None]
    ) -> RunId:
        task = asyncio.current_task()
        assert task is not None
        accepting = self._accepting.setdefault(queue.session_id, set())
        accepting.add(task)
        is_new = False
        try:
            await failpoint("prompt.before_commit")
            is_new = await self._database.write(lambda transaction: self._store(transaction, run, check))
            if is_new:
                self._runs[run.id] = run
                await failpoint("prompt.after_commit")
        finally:
            accepting.discard(task)
            if not accepting:
                self._accepting.pop(queue.session_id, None)
            if is_new:
                if run.deaths:
                    self._counted.add(run.id)
                self._perform(queue, queue.enter(reservation))
            else:
                queue.release(reservation)
                self._forget_if_empty(queue)
            self._notify_watchers()
        return RunId(run.id)

    def _store(self, transaction: Transaction, run: StoredRun, check: Callable[[], None]) -> bool:
        """Insert the run; return False when it exists already. Checked in the same transaction as the insert (W-02)."""
        check()
        existing = runs.get(transaction.connection, run.id)
        if existing is not None:
            if (existing.session_id, existing.prompt, existing.attachments) != (
                run.session_id,
                run.prompt,
                run.attachments,
            ):
                raise Conflict(
                    f"cannot use run id {run.id!r} again: it belongs to another prompt; send a new id",
                    code="run_id_reused",
                )
            return False
        if not sessions.exists(transaction.connection, run.session_id):
            raise NotFound(f"cannot find session {run.session_id!r}", code="session_unknown")
        runs.accept(transaction.connection, run)
        return True

    async def summarize(self, session_id: str) -> StoredRun | None:
        """Summarise a session in a run of its own and wait for its end; return None when the session has no messages.

        A caller that is cancelled cancels the run. Raises NotFound `session_unknown`, Conflict (`busy`,
        `workspace_closing`), LimitReached `storage_full`, Unavailable.
        """
        exists, has_any = await self._database.read(
            lambda connection: (sessions.exists(connection, session_id), messages.has_any(connection, session_id))
        )
        if not exists:
            raise NotFound(f"cannot find session {session_id!r}", code="session_unknown")
        if not has_any:
            return None
        if not self._drain.is_open:
            raise Conflict("cannot summarise: the workspace is closing", code="workspace_closing")
        # No await from here to the reservation, so no other prompt gets between.
        queue = self._queue_of(SessionId(session_id))
        if not queue.is_empty:
            raise Conflict("cannot summarise: the session is busy; wait for its run or cancel it", code="busy")
        return await self._run_to_end(queue, rows.SUMMARY, "")

    async def delegate(
        self, session_id: str, prompt: str, kind: str = rows.TASK, *, parent_session_id: str = ""
    ) -> StoredRun:
        """Run a prompt for the run of another session, in a session of its own, and wait for its end.

        A caller that is cancelled cancels the run. Raises Conflict `workspace_closing`, LimitReached, Unavailable.
        """
        if not self._drain.is_open:
            raise Conflict("cannot start an agent: the workspace is closing", code="workspace_closing")
        caller = self._active_run(parent_session_id)
        policy, wait_s = (caller.permission_policy, caller.permission_wait_s) if caller is not None else ("", 0.0)
        queue = self._queue_of(SessionId(session_id))
        return await self._run_to_end(queue, kind, prompt, policy=policy, wait_s=wait_s)

    def _active_run(self, session_id: str) -> StoredRun | None:
        queue = self._queues.get(SessionId(session_id))
        return self._runs.get(queue.active) if queue is not None and queue.active is not None else None

    async def _run_to_end(
        self, queue: SessionQueue, kind: str, prompt: str, *, policy: PermissionPolicy = "", wait_s: float = 0.0
    ) -> StoredRun:
        """Accept a run, wait for its end and return its row. The run is cancelled with its caller."""
        run_id = RunId(new_uuid(self._random))
        reservation = queue.accept(run_id)
        run = StoredRun(
            id=run_id,
            session_id=queue.session_id,
            accept_seq=reservation.sequence,
            prompt=prompt,
            has_own_turn=True,
            kind=kind,
            deaths=1,
            accepted_at_ms=int(self._clock.wall() * 1000),
            permission_policy=policy,
            permission_wait_s=wait_s,
        )
        try:
            work = self._accept(queue, reservation, run, lambda: None)
            timeout_s = 2 * self._limits.storage_job_s
            await run_shielded(work, owner=self._owner, timeout_s=timeout_s, name=f"accept-{run_id}")
            await self._ended(run_id)
        except asyncio.CancelledError:
            current = self._queues.get(queue.session_id)  # a new queue when this run was the last of the old one
            is_held = current is not None and run_id in current.held and kind not in rows.DELEGATED
            if current is not None and not is_held:  # what is held was accepted, and its caller leaves with the worker
                self._perform(current, current.cancel_run(run_id))
            if kind in rows.DELEGATED:  # its caller is a run, which must not end before it
                timeout_s = self._limits.drain_s
                with contextlib.suppress(TimeoutError):
                    await run_shielded(
                        self._ended(run_id), owner=self._owner, timeout_s=timeout_s, name=f"end-{run_id}"
                    )
            raise
        ended = await self._database.read(lambda connection: runs.get(connection, run_id))
        assert ended is not None
        return ended

    async def _ended(self, run_id: RunId) -> None:
        while run_id in self._runs:
            await self._next_change()

    def resume(self, waiting: list[StoredRun]) -> None:
        """Enqueue the runs that an earlier worker accepted and did not start, in their old order."""
        for run in waiting:
            queue = self._queue_of(SessionId(run.session_id))
            reservation = queue.accept(RunId(run.id), has_own_turn=run.has_own_turn, sequence=run.accept_seq)
            self._runs[run.id] = run
            self._perform(queue, queue.enter(reservation))
        self._notify_watchers()

    # --- ending -----------------------------------------------------------------------------------------------------

    async def cancel(self, session_id: str) -> None:
        """Cancel everything that this session has accepted so far.

        Returns when the runs that had not begun have their end on disk; the active run unwinds on its own.
        """
        queue = self._queues.get(SessionId(session_id))
        if queue is not None:
            self._perform(queue, queue.cancel())
            await self._wait_settled(queue.session_id)

    async def cancel_run(self, session_id: str, run_id: str) -> None:
        """Cancel one run; nothing happens when it has ended or does not exist."""
        queue = self._queues.get(SessionId(session_id))
        if queue is not None:
            self._perform(queue, queue.cancel_run(RunId(run_id)))
            await self._wait_settled(queue.session_id)

    async def clear(self, session_id: str) -> None:
        """Drop the prompts that wait; the active run continues."""
        queue = self._queues.get(SessionId(session_id))
        if queue is not None:
            self._perform(queue, queue.clear())
            await self._wait_settled(queue.session_id)

    def cancel_all(self) -> None:
        """Cancel every run of every session, because the workspace closes."""
        for queue in list(self._queues.values()):
            self._perform(queue, queue.cancel(), CLOSED)

    def hold_all(self) -> None:
        """Cancel the runs that have begun, because the workspace closes; the others stay accepted on disk."""
        for queue in list(self._queues.values()):
            self._perform(queue, queue.hold(), CLOSED)

    async def settled(self) -> None:
        """Return when no run is open except those that are held. The caller gives the deadline."""
        while self.open_runs > len(self.held_ids):
            await self._next_change()

    async def session_idle(self, session_id: str) -> None:
        """Return when this session has no open run. The caller gives the deadline."""
        while SessionId(session_id) in self._queues:
            await self._next_change()
        await self._wait_settled(SessionId(session_id))

    async def flush(self) -> None:
        """Store what every active run has shown so far."""
        for runner in list(self._runners.values()):
            await runner.transcript.flush()

    async def close(self, timeout_s: float) -> None:
        """Stop the tasks of the runs that still execute; recovery ends these runs at the next start."""
        await self._owner.close(timeout_s)

    async def _wait_settled(self, session_id: SessionId) -> None:
        """Wait for the acceptances and ends under way in this session: its runs that never started have then ended."""
        for tasks in (self._accepting, self._ends):
            under_way = set(tasks.get(session_id, ()))
            if under_way:
                await asyncio.wait(under_way, timeout=self._limits.settle_s)

    # --- effects ----------------------------------------------------------------------------------------------------

    def _perform(self, queue: SessionQueue, effects: list[Effect], outcome: Outcome = CANCELLED) -> None:
        for effect in effects:
            match effect:
                case Start(run_id):
                    self._start(queue, self._runs[run_id])
                case CancelActive(run_id):
                    self._runners[run_id].cancel(outcome)
                case CancelOnEntry(run_id):
                    run = self._runs[run_id]
                    why = CLOSED if self._drain.cancels_queued else outcome
                    on_commit = partial(self._forget_run, run)
                    self._end(queue, run, self._finisher.closed(run, why, UnwrittenRows(), (), on_commit))
                case Drop(run_id):
                    run = self._runs[run_id]
                    self._end(queue, run, self._finisher.dropped(run, outcome, partial(self._forget_run, run)))
                case Merge():
                    raise AssertionError("a merge is performed by the step that asks for it")
        self._forget_if_empty(queue)

    def _start(self, queue: SessionQueue, run: StoredRun) -> None:
        transcript = StoredTranscript(
            run,
            self._services,
            take_merged=lambda: self._merge(queue) if run.kind != rows.SUMMARY and not run.permission_policy else [],
        )
        runner = Runner(
            run,
            transcript,
            self._runner_context,
            is_counted=run.id in self._counted,
            merged=lambda: queue.merged,
            on_end=lambda: self._finished(queue, run),
        )
        self._counted.discard(run.id)
        self._runners[run.id] = runner
        self._owner.start(runner.run(), f"run-{run.id}")

    def _merge(self, queue: SessionQueue) -> list[StoredRun]:
        effects = queue.step()
        merges = [effect for effect in effects if isinstance(effect, Merge)]
        self._perform(queue, [effect for effect in effects if not isinstance(effect, Merge)])
        return [self._runs[merge.run_id] for merge in merges]

    def _end(self, queue: SessionQueue, run: StoredRun, work: Coroutine[Any, Any, None]) -> None:
        task = self._owner.start(work, f"end-{run.id}")
        ends = self._ends.setdefault(queue.session_id, set())
        ends.add(task)
        task.add_done_callback(lambda done: self._end_done(queue.session_id, done))

    def _end_done(self, session_id: SessionId, task: asyncio.Task[None]) -> None:
        ends = self._ends.get(session_id, set())
        ends.discard(task)
        if not ends:
            self._ends.pop(session_id, None)

    def _finished(self, queue: SessionQueue, run: StoredRun) -> None:
        """Start the next run: the end of the active one is on disk, and its events are not published yet (W-10)."""
        self._runners.pop(run.id, None)
        for run_id in queue.merged:
            self._forget_run(self._runs[run_id])
        self._forget_run(run)
        self._perform(queue, queue.finished(RunId(run.id)))

    def _forget_run(self, run: StoredRun) -> None:
        self._runs.pop(run.id, None)
        self._counted.discard(run.id)
        self._notify_watchers()

    async def _next_change(self) -> None:
        """Wait until a run or a queue may have ended."""
        watcher: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchers.add(watcher)
        try:
            await watcher
        finally:
            self._watchers.discard(watcher)

    def _notify_watchers(self) -> None:
        for watcher in self._watchers:
            if not watcher.done():
                watcher.set_result(None)

    def _queue_of(self, session_id: SessionId) -> SessionQueue:
        return self._queues.setdefault(session_id, SessionQueue(session_id, self._counter))

    def _forget_if_empty(self, queue: SessionQueue) -> None:
        if queue.is_empty:
            self._queues.pop(queue.session_id, None)
            self._notify_watchers()


def _check(request: Prompt, limits: Limits) -> None:
    """Check a prompt before anything is reserved for it. Raises BadInput."""
    has_text = any(attachment.mime_type.startswith("text/") for attachment in request.attachments or ())
    if not request.prompt.strip() and not has_text:
        raise BadInput("cannot accept an empty prompt; send text or a text attachment", code="empty_prompt")
    if not request.session_id:
        raise BadInput("cannot accept a prompt without session_id; create a session first", code="session_missing")
    if not is_id(request.session_id):
        raise BadInput(
            f"cannot accept session_id {request.session_id[:80]!r}: use an id that a session was created with"
        )
    if request.run_id and not is_id(request.run_id):
        raise BadInput("cannot accept this run_id; use up to 200 letters, digits, `_`, `-`, `.`, `:`")
    if "\x00" in request.prompt:
        raise BadInput("cannot accept a prompt with NUL characters; remove them")
    size = len(request.prompt.encode())
    if size > limits.prompt_max_bytes:
        raise BadInput(
            f"cannot accept a prompt of {size} bytes; the limit is {limits.prompt_max_bytes}", code="too_large"
        )
