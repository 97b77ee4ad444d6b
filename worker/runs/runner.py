"""One run from its start to its end: builds the turn, catches its outcome, always arrives at `ending.py`.

The turn runs in a task of its own, and only that task is ever cancelled. So a cancel at any moment, before the first
line of the turn or in the middle of a tool, is one fact here, and what must be written afterwards cannot be hit by it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from protocol.api.message import Message
from protocol.base.clock import Clock
from protocol.base.failpoints import failpoint
from protocol.base.logs import fields
from protocol.base.tasks import TaskOwner, run_shielded
from protocol.errors import BulkheadError
from protocol.ids import RandomSource, new_uuid
from protocol.limits import Limits
from worker.agent.summary import as_told, summary_request
from worker.agent.turn_result import TurnResult, UnwrittenState
from worker.models.client import ModelFailure
from worker.runs import message_rows
from worker.runs.run_end import CANCELLED, SESSION_GONE, Outcome, RunFinisher, UnwrittenRows
from worker.runs.transcript import StoredTranscript
from worker.store import messages, rows, runs, sessions
from worker.store.database import Database, Transaction
from worker.store.rows import StoredRun


class TurnLike(Protocol):
    """What a runner needs of `agent.turn.Turn`."""

    async def run(self, history: list[Message]) -> TurnResult: ...
    def leftover(self, why: str) -> UnwrittenState: ...


TurnMaker = Callable[[StoredRun, StoredTranscript], Awaitable[TurnLike]]
"""Builds a turn from the configuration of this moment; the turn keeps it to its end (W-27). May raise BulkheadError."""


NameSession = Callable[[str, str, str], Coroutine[Any, Any, None]]
"""Finds a better title for a session: its id, its first prompt, the title that it has so far."""


@dataclass(frozen=True, slots=True)
class ToolSource:
    """What every runner of a worker shares."""

    database: Database
    ending: RunFinisher
    make_turn: TurnMaker
    name_session: NameSession
    owner: TaskOwner
    limits: Limits
    clock: Clock
    random: RandomSource
    log: logging.Logger


_NO_ROW = Outcome("failed", cause="internal", title="Internal error", details="the turn ended without an answer")
_BROKEN = Outcome(
    "failed", cause="internal", title="Internal error", details="the turn was broken off, by nobody's wish"
)


class Runner:
    """Executes one run. Used once."""

    def __init__(
        self,
        run: StoredRun,
        transcript: StoredTranscript,
        tools: ToolSource,
        *,
        is_counted: bool,
        folded: Callable[[], Sequence[str]],
        on_end: Callable[[], None],
    ) -> None:
        """`is_counted`: its row already says that it is about to start. `folded` tells who ends with it. `on_end` is
        called right after the end is on disk, before its events are published: the lane is free then."""
        self.run_id = run.id
        self.transcript = transcript
        self._run = run
        self._tools = tools
        self._is_counted = is_counted
        self._folded = folded
        self._on_end = on_end
        self._turn: asyncio.Task[TurnResult | Exception] | None = None
        self._turn_like: TurnLike | None = None
        self._verdict: Outcome | None = None  # of the cancel, once there was one

    def cancel(self, verdict: Outcome = CANCELLED) -> None:
        """End this run as cancelled, wherever it is. A second call changes nothing."""
        if self._verdict is not None:
            return
        self._verdict = verdict
        if self._turn is not None:
            self._turn.cancel()

    async def run(self) -> None:
        """Work to the end. Raises only when the end could not be stored; the worker is then on its way out."""
        tools = self._tools
        result: TurnResult | None = None
        verdict: Outcome | None = None
        try:
            history = await self._begin()
            if history is None:
                verdict = SESSION_GONE
            elif self._verdict is None:
                self._turn = tools.owner.start(self._execute(history), f"turn-{self.run_id}")
                await asyncio.wait({self._turn})  # bounded by run_max_s inside
                outcome = None if self._turn.cancelled() else self._turn.result()
                if isinstance(outcome, Exception):
                    verdict = self._blame(outcome)
                else:
                    result = outcome
        except Exception as error:  # a bug before the turn, too, ends this run and not its session
            verdict = self._blame(error)
        self.transcript.close()
        held = self.transcript.held
        if result is not None and held is not None and held.id == result.message_id:
            work = tools.ending.completed(self._run, held, self._folded(), self._on_end)
        else:
            # A cancel wins over what it led to (W-05).
            verdict = self._verdict or verdict or (_BROKEN if result is None else _NO_ROW)
            work = tools.ending.closed(self._run, verdict, self._remains(verdict), self._folded(), self._on_end)
        await run_shielded(work, owner=tools.owner, timeout_s=4 * tools.limits.storage_job_s, name=f"end-{self.run_id}")

    async def _begin(self) -> list[Message] | None:
        """Mark the run as started and store its prompt; the conversation up to it, or None without a session."""
        tools, run = self._tools, self._run
        if not self._is_counted:
            await tools.database.write(lambda transaction: runs.count_death(transaction.connection, run.id))
        await failpoint("run.before_start")
        if self._verdict is not None:
            return []  # cancelled already: the end writes what is to be written
        now = int(tools.clock.wall())
        row = message_rows.user_row(
            row_id=new_uuid(tools.random),
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
            if not runs.start(connection, run.id, int(tools.clock.wall() * 1000)):
                raise RuntimeError(f"run {run.id} has ended before it began")
            session = sessions.get(connection, run.session_id)
            if session is None:
                return None
            told = as_told(messages.history(connection, run.session_id, session.summary_message_id))
            told = told[-tools.limits.history_max_messages :]
            if run.kind == rows.SUMMARY:
                return [*told, summary_request(run.session_id, session.todos)]
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
            return [*told, row]

        history = await tools.database.write(job)
        if is_named:
            tools.owner.start(tools.name_session(run.session_id, run.prompt, title), f"title-{run.session_id}")
        return history

    async def _execute(self, history: list[Message]) -> TurnResult | Exception:
        """The turn itself. Its failure is a result, because for the run it is one; a cancel passes."""
        try:
            async with asyncio.timeout(self._tools.limits.run_max_s):
                self._turn_like = await self._tools.make_turn(self._run, self.transcript)
                return await self._turn_like.run(history)
        except Exception as error:
            return error

    def _blame(self, error: Exception) -> Outcome:
        if isinstance(error, ModelFailure):
            return Outcome("failed", cause=error.category, title=error.title, details=error.message)
        if isinstance(error, BulkheadError):
            return _failed(error)
        if isinstance(error, TimeoutError):
            limit = f"the run took longer than {self._tools.limits.run_max_s:g} s"
            return Outcome("failed", cause="deadline", title="Run too long", details=limit)
        number = f"{self._tools.random.getrandbits(32):08x}"
        self._tools.log.error("turn failed", exc_info=error, extra=fields(run=self.run_id, id=number))
        return Outcome("failed", cause="internal", title="Internal error", details=f"see the log under {number}")

    def _remains(self, verdict: Outcome) -> UnwrittenRows:
        if self._turn_like is None:
            return UnwrittenRows()
        leftover = self._turn_like.leftover(verdict.why_no_result)
        message = leftover.message or self.transcript.held
        return UnwrittenRows(message=message, results=leftover.results, usage=leftover.usage)


def _failed(error: BulkheadError) -> Outcome:
    is_storage = error.code.startswith("storage_")
    title = "Storage failed" if is_storage else "Turn failed"
    return Outcome("failed", cause="storage" if is_storage else error.code, title=title, details=error.message)
