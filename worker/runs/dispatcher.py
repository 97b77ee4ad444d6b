"""Holds the lanes and performs their effects; the only one who starts runners.

A prompt is accepted in this order: a place in its lane, the row committed, the answer. Everything that a lane decides
is decided without an await; what is to be written happens afterwards, in tasks of this dispatcher.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any

from protocol.api.agent import Prompt, Run
from protocol.api.permission import PermissionPolicy
from protocol.base.clock import Clock
from protocol.base.failpoints import failpoint
from protocol.base.tasks import TaskOwner, run_shielded
from protocol.errors import BadInput, Conflict, LimitReached, NotFound
from protocol.events import Event
from protocol.ids import RandomSource, RunId, SessionId, is_id, new_uuid
from protocol.limits import Limits
from worker.runs.drain import Drain
from worker.runs.run_end import CANCELLED, CLOSED, Outcome, RunFinisher, UnwrittenRows
from worker.runs.runner import NameSession, Runner, ToolSource, TurnMaker
from worker.runs.session_queue import AcceptCounter, CancelActive, Drop, Effect, End, Merge, SessionQueue, Start, Ticket
from worker.runs.transcript import StoredTranscript
from worker.store import messages, rows, runs, sessions
from worker.store.database import Database, Transaction
from worker.store.rows import StoredRun


class Dispatcher:
    """All runs of one workspace."""

    def __init__(
        self,
        *,
        database: Database,
        ending: RunFinisher,
        make_turn: TurnMaker,
        name_session: NameSession,
        publish_snapshot: Callable[[Event], None],
        drain: Drain,
        counter: AcceptCounter,
        limits: Limits,
        clock: Clock,
        random: RandomSource,
        log: logging.Logger,
    ) -> None:
        self._database = database
        self._ending = ending
        self._publish_snapshot = publish_snapshot
        self._drain = drain
        self._counter = counter
        self._limits = limits
        self._clock = clock
        self._random = random
        self._log = log
        self._owner = TaskOwner("runs", log)
        self._tools = ToolSource(database, ending, make_turn, name_session, self._owner, limits, clock, random, log)
        self._lanes: dict[SessionId, SessionQueue] = {}
        self._runs: dict[str, StoredRun] = {}  # stored and not ended
        self._counted: set[str] = set()  # their rows say already that they are about to start
        self._runners: dict[str, Runner] = {}
        self._accepting: dict[SessionId, set[asyncio.Task[object]]] = {}
        self._ends: dict[SessionId, set[asyncio.Task[None]]] = {}
        self._watchers: set[asyncio.Future[None]] = set()

    # --- questions --------------------------------------------------------------------------------------------------

    @property
    def open_runs(self) -> int:
        """Accepted, queued or active."""
        return len(self._runs) + sum(len(tasks) for tasks in self._accepting.values())

    @property
    def open_ids(self) -> list[RunId]:
        """The runs that are stored and have not ended."""
        return [RunId(run_id) for run_id in self._runs]

    @property
    def is_busy(self) -> bool:
        """Is any run active?"""
        return any(lane.is_busy for lane in self._lanes.values())

    def is_session_busy(self, session_id: str) -> bool:
        """Is a run of this session active?"""
        lane = self._lanes.get(SessionId(session_id))
        return lane is not None and lane.is_busy

    def queued(self, session_id: str) -> list[StoredRun]:
        """The prompts that wait in this session, in order."""
        lane = self._lanes.get(SessionId(session_id))
        return [self._runs[run_id] for run_id in lane.queued] if lane else []

    def shape(self, run: StoredRun) -> Run:
        """A run as the API shows it; that it is queued is known only here."""
        lane = self._lanes.get(SessionId(run.session_id))
        if run.state == "accepted" and lane is not None and run.id in lane.queued:
            run = replace(run, state="queued")
        return run.shape()

    # --- accepting --------------------------------------------------------------------------------------------------

    async def submit(self, wish: Prompt) -> RunId:
        """Accept a prompt; its run id, once it is on disk. The same run id again gives the same answer.

        Raises BadInput (`session_missing`, `empty_prompt`, …), NotFound `session_unknown`, Conflict
        (`workspace_closing`, `run_id_reused`), LimitReached (`queue_full`, `storage_full`), Unavailable.
        """
        _check(wish, self._limits)
        if not self._drain.is_open:
            raise Conflict("cannot accept a prompt: the workspace is closing", code="workspace_closing")
        session_id = SessionId(wish.session_id)
        lane = self._lane(session_id)
        if lane.waiting >= self._limits.queued_prompts_max:
            self._forget(lane)
            raise LimitReached(
                f"cannot accept a prompt: {lane.waiting} wait in this session; let them run or clear the queue",
                code="queue_full",
            )
        run_id = RunId(wish.run_id or new_uuid(self._random))
        # A prompt with a policy of its own must not become part of a run that has another.
        keyed = bool(wish.run_id or wish.permission_policy)
        ticket = lane.accept(run_id, keyed=keyed)
        run = StoredRun(
            id=run_id,
            session_id=session_id,
            accept_seq=ticket.sequence,
            prompt=wish.prompt,
            attachments=list(wish.attachments or ()),
            keyed=keyed,
            permission_policy=wish.permission_policy,
            permission_wait_s=wish.permission_wait_s,
            # It will start at once if nobody is before it: so the count of W17 costs no write of its own.
            deaths=0 if lane.is_busy or lane.waiting > 1 else 1,
            accepted_at_ms=int(self._clock.wall() * 1000),
        )
        # A caller that goes away must not leave a stored run outside its lane, so the acceptance goes on without it.
        work = self._accept(lane, ticket, run)
        return await run_shielded(
            work, owner=self._owner, timeout_s=2 * self._limits.storage_job_s, name=f"accept-{run_id}"
        )

    async def _accept(self, lane: SessionQueue, ticket: Ticket, run: StoredRun) -> RunId:
        task = asyncio.current_task()
        assert task is not None
        accepting = self._accepting.setdefault(lane.session_id, set())
        accepting.add(task)
        is_new = False
        try:
            await failpoint("prompt.before_commit")
            is_new = await self._database.write(lambda transaction: self._store(transaction, run))
            if is_new:
                self._runs[run.id] = run
                await failpoint("prompt.after_commit")
        finally:
            accepting.discard(task)
            if not accepting:
                self._accepting.pop(lane.session_id, None)
            if is_new:
                if run.deaths:
                    self._counted.add(run.id)
                self._perform(lane, lane.enter(ticket))
            else:
                lane.release(ticket)
                self._forget(lane)
            self._tell()
        return RunId(run.id)

    def _store(self, transaction: Transaction, run: StoredRun) -> bool:
        """Insert the run; False when it is there already. In the transaction, so that nothing comes between (W-02)."""
        known = runs.get(transaction.connection, run.id)
        if known is not None:
            if (known.session_id, known.prompt, known.attachments) != (run.session_id, run.prompt, run.attachments):
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
        """Summarise a session in a run of its own and wait for its end; None when nothing was said in it.

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
        # From here to the place in the lane nothing waits, so nobody comes between.
        lane = self._lane(SessionId(session_id))
        if not lane.is_empty:
            raise Conflict("cannot summarise: the session is busy; wait for its run or cancel it", code="busy")
        return await self._through(lane, rows.SUMMARY, "")

    async def delegate(
        self, session_id: str, prompt: str, kind: str = rows.TASK, *, parent_session_id: str = ""
    ) -> StoredRun:
        """Run a prompt for the run of another session, in a session of its own, and wait for its end.

        A caller that is cancelled cancels the run. Raises Conflict `workspace_closing`, LimitReached, Unavailable.
        """
        if not self._drain.is_open:
            raise Conflict("cannot start an agent: the workspace is closing", code="workspace_closing")
        caller = self._active(parent_session_id)
        policy, wait_s = (caller.permission_policy, caller.permission_wait_s) if caller is not None else ("", 0.0)
        lane = self._lane(SessionId(session_id))
        return await self._through(lane, kind, prompt, policy=policy, wait_s=wait_s)

    def _active(self, session_id: str) -> StoredRun | None:
        lane = self._lanes.get(SessionId(session_id))
        return self._runs.get(lane.active) if lane is not None and lane.active is not None else None

    async def _through(
        self, lane: SessionQueue, kind: str, prompt: str, *, policy: PermissionPolicy = "", wait_s: float = 0.0
    ) -> StoredRun:
        """Accept a run that its caller waits for; it ends with its caller. Its row, once it has ended."""
        run_id = RunId(new_uuid(self._random))
        ticket = lane.accept(run_id, keyed=True)
        run = StoredRun(
            id=run_id,
            session_id=lane.session_id,
            accept_seq=ticket.sequence,
            prompt=prompt,
            keyed=True,
            kind=kind,
            deaths=1,
            accepted_at_ms=int(self._clock.wall() * 1000),
            permission_policy=policy,
            permission_wait_s=wait_s,
        )
        try:
            work = self._accept(lane, ticket, run)
            timeout_s = 2 * self._limits.storage_job_s
            await run_shielded(work, owner=self._owner, timeout_s=timeout_s, name=f"accept-{run_id}")
            await self._ended(run_id)
        except asyncio.CancelledError:
            current = self._lanes.get(lane.session_id)  # another one when this run was the last of the old
            if current is not None:
                self._perform(current, current.cancel_run(run_id))
            if kind in rows.DELEGATED:  # its caller is a run, which must not end before what it began
                timeout_s = self._limits.drain_s
                with contextlib.suppress(TimeoutError):
                    await run_shielded(
                        self._ended(run_id), owner=self._owner, timeout_s=timeout_s, name=f"end-{run_id}"
                    )
            raise
        found = await self._database.read(lambda connection: runs.get(connection, run_id))
        assert found is not None
        return found

    async def _ended(self, run_id: RunId) -> None:
        while run_id in self._runs:
            await self._change()

    def resume(self, waiting: list[StoredRun]) -> None:
        """Line up the runs that an earlier worker accepted and did not start, in their old order."""
        for run in waiting:
            lane = self._lane(SessionId(run.session_id))
            ticket = lane.accept(RunId(run.id), keyed=run.keyed, sequence=run.accept_seq)
            self._runs[run.id] = run
            self._perform(lane, lane.enter(ticket))
        self._tell()

    # --- ending -----------------------------------------------------------------------------------------------------

    async def cancel(self, session_id: str) -> None:
        """Cancel everything of this session accepted so far. Returns when what had not begun has its end on disk;
        the active run unwinds on its own."""
        lane = self._lanes.get(SessionId(session_id))
        if lane is not None:
            self._perform(lane, lane.cancel())
            await self._settled(lane.session_id)

    async def cancel_run(self, session_id: str, run_id: str) -> None:
        """Cancel one run; nothing happens when it has ended or does not exist."""
        lane = self._lanes.get(SessionId(session_id))
        if lane is not None:
            self._perform(lane, lane.cancel_run(RunId(run_id)))
            await self._settled(lane.session_id)

    async def clear(self, session_id: str) -> None:
        """Drop the prompts that wait; the active run goes on."""
        lane = self._lanes.get(SessionId(session_id))
        if lane is not None:
            self._perform(lane, lane.clear())
            await self._settled(lane.session_id)

    def cancel_all(self) -> None:
        """The workspace closes: cancel every run of every session."""
        for lane in list(self._lanes.values()):
            self._perform(lane, lane.cancel(), CLOSED)

    async def idle(self) -> None:
        """Return when no run is open. The caller gives the deadline."""
        while self.open_runs:
            await self._change()

    async def session_idle(self, session_id: str) -> None:
        """Return when this session has no open run. The caller gives the deadline."""
        while SessionId(session_id) in self._lanes:
            await self._change()
        await self._settled(SessionId(session_id))

    async def flush(self) -> None:
        """Store what every active run has shown so far."""
        for runner in list(self._runners.values()):
            await runner.transcript.flush()

    async def close(self, timeout_s: float) -> None:
        """Let go of what still runs; it is recovery's work now."""
        await self._owner.close(timeout_s)

    async def _settled(self, session_id: SessionId) -> None:
        """Wait for the acceptances and ends under way in this session; a run that was never started is then over."""
        deadline = self._limits.settle_s
        for tasks in (self._accepting, self._ends):
            under_way = set(tasks.get(session_id, ()))
            if under_way:
                await asyncio.wait(under_way, timeout=deadline)

    # --- effects ----------------------------------------------------------------------------------------------------

    def _perform(self, lane: SessionQueue, effects: list[Effect], verdict: Outcome = CANCELLED) -> None:
        for effect in effects:
            match effect:
                case Start(run_id):
                    self._start(lane, self._runs[run_id])
                case CancelActive(run_id):
                    self._runners[run_id].cancel(verdict)
                case End(run_id):
                    run = self._runs[run_id]
                    why = verdict if self._drain.is_open else CLOSED
                    self._end(lane, run, self._ending.closed(run, why, UnwrittenRows(), (), partial(self._over, run)))
                case Drop(run_id):
                    run = self._runs[run_id]
                    self._end(lane, run, self._ending.dropped(run, verdict, partial(self._over, run)))
                case Merge():
                    raise AssertionError("folding is done by the step that asks for it")
        self._forget(lane)

    def _start(self, lane: SessionQueue, run: StoredRun) -> None:
        transcript = StoredTranscript(
            run,
            database=self._database,
            publish_snapshot=self._publish_snapshot,
            fold=lambda: self._fold(lane) if run.kind != rows.SUMMARY and not run.permission_policy else [],
            owner=self._owner,
            limits=self._limits,
            clock=self._clock,
            random=self._random,
            log=self._log,
        )
        runner = Runner(
            run,
            transcript,
            self._tools,
            is_counted=run.id in self._counted,
            folded=lambda: lane.folded,
            on_end=lambda: self._finished(lane, run),
        )
        self._counted.discard(run.id)
        self._runners[run.id] = runner
        self._owner.start(runner.run(), f"run-{run.id}")

    def _fold(self, lane: SessionQueue) -> list[StoredRun]:
        effects = lane.step()
        folds = [effect for effect in effects if isinstance(effect, Merge)]
        self._perform(lane, [effect for effect in effects if not isinstance(effect, Merge)])
        return [self._runs[fold.run_id] for fold in folds]

    def _end(self, lane: SessionQueue, run: StoredRun, work: Coroutine[Any, Any, None]) -> None:
        task = self._owner.start(work, f"end-{run.id}")
        ends = self._ends.setdefault(lane.session_id, set())
        ends.add(task)
        task.add_done_callback(lambda done: self._end_done(lane.session_id, done))

    def _end_done(self, session_id: SessionId, task: asyncio.Task[None]) -> None:
        ends = self._ends.get(session_id, set())
        ends.discard(task)
        if not ends:
            self._ends.pop(session_id, None)

    def _finished(self, lane: SessionQueue, run: StoredRun) -> None:
        """The end of the active run is on disk and not yet told: free the lane, then hand it on (W-10)."""
        self._runners.pop(run.id, None)
        for run_id in lane.folded:
            self._over(self._runs[run_id])
        self._over(run)
        self._perform(lane, lane.finished(RunId(run.id)))

    def _over(self, run: StoredRun) -> None:
        self._runs.pop(run.id, None)
        self._counted.discard(run.id)
        self._tell()

    async def _change(self) -> None:
        """The next moment at which a run or a lane may have gone."""
        watcher: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchers.add(watcher)
        try:
            await watcher
        finally:
            self._watchers.discard(watcher)

    def _tell(self) -> None:
        for watcher in self._watchers:
            if not watcher.done():
                watcher.set_result(None)

    def _lane(self, session_id: SessionId) -> SessionQueue:
        return self._lanes.setdefault(session_id, SessionQueue(session_id, self._counter))

    def _forget(self, lane: SessionQueue) -> None:
        if lane.is_empty:
            self._lanes.pop(lane.session_id, None)
            self._tell()


def _check(wish: Prompt, limits: Limits) -> None:
    """Is this a prompt at all? Raises BadInput."""
    has_text = any(attachment.mime_type.startswith("text/") for attachment in wish.attachments or ())
    if not wish.prompt.strip() and not has_text:
        raise BadInput("cannot accept an empty prompt; send text or a text attachment", code="empty_prompt")
    if not wish.session_id:
        raise BadInput("cannot accept a prompt without session_id; create a session first", code="session_missing")
    if not is_id(wish.session_id):
        raise BadInput(f"cannot accept session_id {wish.session_id[:80]!r}: it is no id of ours")
    if wish.run_id and not is_id(wish.run_id):
        raise BadInput("cannot accept this run_id; use up to 200 letters, digits, `_`, `-`, `.`, `:`")
    if "\x00" in wish.prompt:
        raise BadInput("cannot accept a prompt with NUL characters; remove them")
    size = len(wish.prompt.encode())
    if size > limits.prompt_max_bytes:
        raise BadInput(
            f"cannot accept a prompt of {size} bytes; the limit is {limits.prompt_max_bytes}", code="too_large"
        )
