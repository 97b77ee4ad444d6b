"""Execute one run from its start to its end: build the turn, catch its outcome, and hand it to `run_end.py`.

The turn runs in a task of its own, and only that task is ever cancelled. So a cancel at any moment, before the first
line of the turn or in the middle of a tool, is one fact here, and it cannot interrupt the writes that follow.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from protocol.api.message import Message
from protocol.base.failpoints import failpoint
from protocol.base.logs import fields
from protocol.base.tasks import run_shielded
from protocol.errors import BulkheadError
from protocol.ids import new_uuid
from worker.agent.summary import for_model, summary_request
from worker.agent.turn_result import TurnResult, UnwrittenState
from worker.models.client import ModelFailure
from worker.runs import message_rows
from worker.runs.run_end import CANCELLED, SESSION_DELETED, Outcome, RunFinisher, UnwrittenRows
from worker.runs.run_services import RunServices
from worker.runs.transcript import StoredTranscript
from worker.store import rows
from worker.store.database import Transaction
from worker.store.rows import StoredRun
from worker.store.tables import messages, runs, sessions


class TurnLike(Protocol):
    """The part of `agent.turn.Turn` that a runner uses."""

    async def run(self, history: list[Message]) -> TurnResult: ...
    def leftover(self, why: str) -> UnwrittenState: ...


TurnMaker = Callable[[StoredRun, StoredTranscript], Awaitable[TurnLike]]
"""Builds a turn from the current configuration; the turn keeps it to its end (W-27). May raise BulkheadError."""

NameSession = Callable[[str, str, str], Coroutine[Any, Any, None]]
"""Finds a better title for a session, given its id, its first prompt and its present title."""


@dataclass(frozen=True, slots=True)
class RunnerContext:
    """The services of all runs, and the steps around a turn that all runners share."""

    services: RunServices
    finisher: RunFinisher
    make_turn: TurnMaker
    name_session: NameSession


_NO_ROW = Outcome("failed", cause="internal", title="Internal error", details="the turn ended without an answer")
_BROKEN = Outcome(
    "failed", cause="internal", title="Internal error", details="the turn was stopped, and no client cancelled it"
)


class Runner:
    """Execute one run. Used once."""

    def __init__(
        self,
        run: StoredRun,
        transcript: StoredTranscript,
        context: RunnerContext,
        *,
        is_counted: bool,
        merged: Callable[[], Sequence[str]],
        on_end: Callable[[], None],
    ) -> None:
        """`is_counted`: the run's row says already that it is about to start. `merged` returns the ids of the runs that
        end with it. `on_end` is called right after the end is on disk, before its events are published."""
        self.run_id = run.id
        self.transcript = transcript
        self._run = run
        self._context = context
        self._services = context.services
        self._is_counted = is_counted
        self._merged = merged
        self._on_end = on_end
        self._turn: asyncio.Task[TurnResult | Exception] | None = None
        self._turn_like: TurnLike | None = None
        self._cancelled: Outcome | None = None  # the outcome that a cancel gave

    def cancel(self, outcome: Outcome = CANCELLED) -> None:
        """End this run as cancelled, wherever it is. A second call changes nothing."""
        if self._cancelled is not None:
            return
        self._cancelled = outcome
        if self._turn is not None:
            self._turn.cancel()

    async def run(self) -> None:
        """Execute the run to its end. Raises only when the end could not be stored; the worker then restarts."""
        finisher, owner = self._context.finisher, self._services.owner
        result: TurnResult | None = None
        failure: Outcome | None = None
        try:
            history = await self._begin()
            if history is None:
                failure = SESSION_DELETED
            elif self._cancelled is None:
                self._turn = owner.start(self._execute(history), f"turn-{self.run_id}")
                await asyncio.wait({self._turn})  # bounded by run_max_s inside
                returned = None if self._turn.cancelled() else self._turn.result()
                if isinstance(returned, Exception):
                    failure = self._failure_of(returned)
                else:
                    result = returned
        except Exception as error:  # a bug before the turn, too, ends this run and not its session
            failure = self._failure_of(error)
        self.transcript.close()
        last = self.transcript.unstored_last
        if result is not None and last is not None and last.id == result.message_id:
            work = finisher.completed(self._run, last, self._merged(), self._on_end)
        else:
            # A cancel wins over the failure that it caused (W-05).
            outcome = self._cancelled or failure or (_BROKEN if result is None else _NO_ROW)
            work = finisher.closed(self._run, outcome, self._unwritten(outcome), self._merged(), self._on_end)
        timeout_s = 4 * self._services.limits.storage_job_s
        await run_shielded(work, owner=owner, timeout_s=timeout_s, name=f"end-{self.run_id}")

    async def _begin(self) -> list[Message] | None:
        """Mark the run as started and store its prompt. Return the conversation up to it, or None without a session."""
        services, run = self._services, self._run
        if not self._is_counted:
            await services.database.write(lambda transaction: runs.count_death(transaction.connection, run.id))
        await failpoint("run.before_start")
        if self._cancelled is not None:
            return []  # cancelled already: the end writes all rows
        now = int(services.clock.wall())
        row = message_rows.user_row(
            row_id=new_uuid(services.random),
            session_id=run.session_id,
            prompt=run.prompt,
            attachments=run.attachments,
            now=now,
        )

        title = message_rows.title_from(run.prompt)
        is_named = False

        def job(transaction: Transaction) -> list[Message] | None:
            nonlocal is_named
            connection = transaction.connection
            if not runs.start(connection, run.id, int(services.clock.wall() * 1000)):
                raise RuntimeError(f"run {run.id} has ended before it began")
            session = sessions.get(connection, run.session_id)
            if session is None:
                return None
            history = for_model(messages.history(connection, run.session_id, session.summary_message_id))
            history = history[-services.limits.history_max_messages :]
            if run.kind == rows.SUMMARY:
                return [*history, summary_request(run.session_id, session.todos)]
            messages.create(connection, row, run_id=run.id)
            transaction.emit(row, "created", session_id=run.session_id, run_id=run.id, key=row.id)
            if (
                title
                and not session.parent_session_id
                and sessions.title_if_untitled(connection, run.session_id, title)
            ):
                named = sessions.get(connection, run.session_id)
                assert named is not None
                transaction.emit(named, "updated", session_id=run.session_id)
                is_named = True
            return [*history, row]

        history = await services.database.write(job)
        if is_named:
            services.owner.start(
                self._context.name_session(run.session_id, run.prompt, title), f"title-{run.session_id}"
            )
        return history

    async def _execute(self, history: list[Message]) -> TurnResult | Exception:
        """Run the turn. Its failure is returned, because for the run it is a result; a cancel is raised."""
        try:
            async with asyncio.timeout(self._services.limits.run_max_s):
                self._turn_like = await self._context.make_turn(self._run, self.transcript)
                return await self._turn_like.run(history)
        except Exception as error:
            return error

    def _failure_of(self, error: Exception) -> Outcome:
        if isinstance(error, ModelFailure):
            return Outcome("failed", cause=error.category, title=error.title, details=error.message)
        if isinstance(error, BulkheadError):
            return _turn_failed(error)
        if isinstance(error, TimeoutError):
            limit = f"the run took longer than {self._services.limits.run_max_s:g} s"
            return Outcome("failed", cause="deadline", title="Run too long", details=limit)
        number = f"{self._services.random.getrandbits(32):08x}"
        self._services.log.error("turn failed", exc_info=error, extra=fields(run=self.run_id, id=number))
        return Outcome("failed", cause="internal", title="Internal error", details=f"see the log under {number}")

    def _unwritten(self, outcome: Outcome) -> UnwrittenRows:
        if self._turn_like is None:
            return UnwrittenRows()
        leftover = self._turn_like.leftover(outcome.why_no_result)
        message = leftover.message or self.transcript.unstored_last
        return UnwrittenRows(message=message, results=leftover.results, usage=leftover.usage)


def _turn_failed(error: BulkheadError) -> Outcome:
    is_storage = error.code.startswith("storage_")
    title = "Storage failed" if is_storage else "Turn failed"
    return Outcome("failed", cause="storage" if is_storage else error.code, title=title, details=error.message)
