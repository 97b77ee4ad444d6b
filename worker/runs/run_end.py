"""The one way out of a run: last message, run state and terminal event in one transaction (P2).

Whatever ends a run comes through here: its turn, a cancel on entry, a drop from the queue, recovery after a crash.
`EndWriter` writes into a transaction; `RunFinisher` hands it to the database, from the reserve when the disk is
full, shorter when even that is not enough.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from protocol.api.agent import AgentEvent, RunComplete, RunOutcome
from protocol.api.message import FinishReason, Message, ToolResultData
from protocol.base.clock import Clock
from protocol.base.failpoints import failpoint_blocking
from protocol.base.logs import fields
from protocol.errors import BulkheadError, LimitReached
from protocol.ids import RandomSource, new_uuid
from worker.agent.message_draft import (
    CANCELLED_CALL,
    FAILED_CALL,
    INTERRUPTED_CALL,
    answers_for,
    calls_of,
    close_message,
    finish_of,
    results_of,
    text_of,
)
from worker.agent.usage import Usage
from worker.runs import message_rows
from worker.runs.transcript import account, forget
from worker.store import messages, permission_requests, rows, runs, sessions
from worker.store.database import Database, Transaction
from worker.store.rows import RequestState, StoredRun

_BUSY_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended that did not complete. `cause` is one word for the run's row; title and details are for people.

    `error` is the text of the terminal event, empty for a cancel: a cancel is an outcome, not an error.
    """

    outcome: RunOutcome
    cause: str = ""
    title: str = ""
    details: str = ""

    @property
    def error(self) -> str:
        if self.outcome == "cancelled":
            return ""
        return f"{self.title}: {self.details}" if self.details else self.title

    @property
    def reason(self) -> FinishReason:
        """The finish reason of the message that tells of it."""
        return "canceled" if self.outcome == "cancelled" else "error"

    @property
    def why_no_result(self) -> str:
        """What answers a tool call that has no result because of this."""
        match self.outcome:
            case "cancelled":
                return CANCELLED_CALL
            case "interrupted":
                return INTERRUPTED_CALL
            case _:
                return FAILED_CALL


CANCELLED = Outcome("cancelled", cause="cancelled", title="The user cancelled this turn")
CLOSED = Outcome("cancelled", cause="closing", title="Cancelled because the workspace is closing")
INTERRUPTED = Outcome(
    "interrupted",
    cause="worker_died",
    title="Interrupted",
    details="the worker process ended while this turn was running; what was stored is kept, the turn is not repeated",
)
CRASHED_REPEATEDLY = Outcome(
    "failed",
    cause="crashed_repeatedly",
    title="Crashed repeatedly",
    details="the worker process died each time this prompt was started, so it is not tried again",
)
SESSION_GONE = Outcome(
    "failed", cause="session_deleted", title="Session deleted", details="the session of this prompt does not exist"
)


@dataclass(frozen=True, slots=True)
class UnwrittenRows:
    """What a broken turn knows that the file does not: its open row, results without a row, usage not yet counted."""

    message: Message | None = None
    results: Sequence[ToolResultData] = ()
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class MessageAuthor:
    """Which model a row is attributed to that no model wrote."""

    model: str = ""
    provider: str = ""


@dataclass(frozen=True, slots=True)
class EndWriter:
    """Writes ends into a transaction. A value: the same for runtime and recovery."""

    clock: Clock
    random: RandomSource
    author: Callable[[], MessageAuthor] = field(default=MessageAuthor)

    def complete(self, transaction: Transaction, run: StoredRun, last: Message, folded: Sequence[str]) -> None:
        """The turn is done; `last` is its finished row, not stored yet. Folded runs end with it."""
        if run.kind == rows.SUMMARY:
            self._summarized(transaction, run, last)
        elif sessions.exists(transaction.connection, run.session_id):
            self._change(transaction, run, last)
            failpoint_blocking("flush.mid")
            session = sessions.get(transaction.connection, run.session_id)
            title = session.title if session is not None else ""
            self._notify(transaction, run, AgentEvent(type="agent_finished", session_title=title))
        self._end(transaction, run, "completed", "", last.id, text_of(last), "", folded)

    def close(
        self,
        transaction: Transaction,
        run: StoredRun,
        verdict: Outcome,
        remains: UnwrittenRows = UnwrittenRows(),
        folded: Sequence[str] = (),
    ) -> None:
        """The run ends by `verdict`: its open row and its open tool calls are closed, or a row says what happened.

        Nothing that is finished is written again (W-04). A run without a user row gets one, so that the history shows
        what was asked.
        """
        if run.kind == rows.SUMMARY:
            self._close_summary(transaction, run, verdict, remains)
            return
        connection = transaction.connection
        message_id = text = ""
        if sessions.exists(connection, run.session_id):
            told = messages.of_run(connection, run.session_id, run.id)
            if not any(row.role == "user" for row in told):
                self._create(transaction, run, self._user_row(run))
            last = self._close_rows(transaction, run, verdict, remains, told)
            message_id, text = last.id, text_of(last)
            failpoint_blocking("flush.mid")
            if remains.usage is not None:
                account(transaction, run.session_id, remains.usage, self._now())
        if verdict.error:
            self._notify(transaction, run, AgentEvent(type="error", error=verdict.error))
        self._end(transaction, run, verdict.outcome, verdict.cause, message_id, text, verdict.error, folded)

    def _notify(self, transaction: Transaction, run: StoredRun, event: AgentEvent) -> None:
        """Tell people how a run ended; of one that works for another run only that run is told."""
        if run.kind in rows.DELEGATED:
            return
        event = replace(event, session_id=run.session_id, run_id=run.id)
        transaction.emit(event, session_id=run.session_id, run_id=run.id, key=event.type)

    def _summarized(self, transaction: Transaction, run: StoredRun, last: Message) -> None:
        """The conversation begins with this row from now on; nobody is told that the agent finished, for it did not."""
        session_id = run.session_id
        if sessions.exists(transaction.connection, session_id):
            self._change(transaction, run, last)
            sessions.summarized(transaction.connection, session_id, last.id, self._now())
            self._tell_session(transaction, run)

    def _close_summary(
        self, transaction: Transaction, run: StoredRun, verdict: Outcome, remains: UnwrittenRows
    ) -> None:
        """A half summary is worth nothing: its row goes, or says why there is none when the model failed."""
        connection = transaction.connection
        message_id = ""
        told = messages.of_run(connection, run.session_id, run.id)
        if verdict.outcome == "failed" and told:
            message_id = self._close_rows(transaction, run, verdict, remains, told).id
        else:
            for row in told:
                forget(transaction, row, run_id=run.id, now=self._now())
        if remains.usage is not None and sessions.exists(connection, run.session_id):
            account(transaction, run.session_id, remains.usage, self._now())
        self._end(transaction, run, verdict.outcome, verdict.cause, message_id, "", verdict.error, ())

    def _tell_session(self, transaction: Transaction, run: StoredRun) -> None:
        session = sessions.get(transaction.connection, run.session_id)
        if session is not None:
            transaction.emit(session, "updated", session_id=run.session_id, run_id=run.id)

    def drop(self, transaction: Transaction, run: StoredRun, verdict: Outcome = CANCELLED) -> None:
        """The run never had a turn and writes no messages."""
        self._end(transaction, run, verdict.outcome, verdict.cause, "", "", verdict.error, ())

    def cut(
        self, transaction: Transaction, run: StoredRun, verdict: Outcome, message_id: str, folded: Sequence[str]
    ) -> None:
        """State and terminal event only."""
        self._end(transaction, run, verdict.outcome, verdict.cause, message_id, "", verdict.error, folded)

    def _close_rows(
        self,
        transaction: Transaction,
        run: StoredRun,
        verdict: Outcome,
        remains: UnwrittenRows,
        told: Sequence[Message],
    ) -> Message:
        """End what is open and return the assistant row that tells the story."""
        answered = {result.tool_call_id for row in told for result in results_of(row)}
        results = {result.tool_call_id: result for result in remains.results}
        newest: Message | None = None
        for row in told:
            if row.role != "assistant":
                continue
            if row.is_summary_message and run.kind != rows.SUMMARY:
                if finish_of(row) is None:  # half a summary is worth nothing
                    forget(transaction, row, run_id=run.id, now=self._now())
                continue
            if remains.message is not None and remains.message.id == row.id:
                row = remains.message
                if finish_of(row) is not None:  # complete, and only its write is missing
                    self._change(transaction, run, row)
            newest = row
            if finish_of(row) is None:
                newest = close_message(row, verdict.reason, self._now(), title=verdict.title, details=verdict.details)
                self._change(transaction, run, newest)
            for call in calls_of(newest):
                if call.id not in answered:
                    result = results.get(call.id) or answers_for([call], verdict.why_no_result)[0]
                    answered.add(call.id)
                    self._create(transaction, run, self._tool_row(run, result))
        if newest is not None and (finish := finish_of(newest)) is not None and finish.reason == verdict.reason:
            return newest
        # No row is open: before the first step, or between two. The end gets a record of its own.
        author = self.author()
        row = message_rows.ended_row(
            row_id=new_uuid(self.random),
            session_id=run.session_id,
            model=author.model,
            provider=author.provider,
            reason=verdict.reason,
            title=verdict.title,
            details=verdict.details,
            now=self._now(),
        )
        self._create(transaction, run, row)
        return row

    def _end(
        self,
        transaction: Transaction,
        run: StoredRun,
        outcome: RunOutcome,
        cause: str,
        message_id: str,
        text: str,
        error: str,
        folded: Sequence[str],
    ) -> None:
        """State and terminal event of the run and of those folded into it; what has ended already stays as it is."""
        now_ms = int(self.clock.wall() * 1000)
        state = RequestState.VOID if outcome == "interrupted" else RequestState.CANCELLED
        permission_requests.end_of_run(transaction, run.id, state, f"its run ended: {cause or outcome}", now_ms)
        for run_id in (*folded, run.id):
            host = run.id if run_id != run.id else ""
            ended = runs.end(
                transaction.connection,
                run_id,
                outcome=outcome,
                cause=cause,
                message_id=message_id,
                now_ms=now_ms,
                folded_into=host,
            )
            if not ended:
                continue
            done = RunComplete(
                session_id=run.session_id,
                message_id=message_id,
                run_id=run_id,
                text=text,
                error=error,
                cancelled=outcome == "cancelled",
            )
            transaction.emit(done, session_id=run.session_id, run_id=run_id, key=run_id)

    def _change(self, transaction: Transaction, run: StoredRun, row: Message) -> None:
        row = replace(row, updated_at=self._now())
        messages.change(transaction.connection, row)
        transaction.emit(row, "updated", session_id=row.session_id, run_id=run.id, key=row.id)

    def _create(self, transaction: Transaction, run: StoredRun, row: Message) -> None:
        messages.create(transaction.connection, row, run_id=run.id)
        transaction.emit(row, "created", session_id=row.session_id, run_id=run.id, key=row.id)

    def _user_row(self, run: StoredRun) -> Message:
        return message_rows.user_row(
            row_id=new_uuid(self.random),
            session_id=run.session_id,
            prompt=run.prompt,
            attachments=run.attachments,
            now=self._now(),
        )

    def _tool_row(self, run: StoredRun, result: ToolResultData) -> Message:
        return message_rows.tool_row(
            row_id=new_uuid(self.random), session_id=run.session_id, result=result, now=self._now()
        )

    def _now(self) -> int:
        return int(self.clock.wall())


class RunFinisher:
    """Brings ends into the file. An end that cannot be written is fatal: the worker starts again from the file."""

    def __init__(
        self,
        *,
        database: Database,
        scribe: EndWriter,
        log: logging.Logger,
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self._database = database
        self._scribe = scribe
        self._log = log
        self._on_stuck = on_fatal

    async def completed(self, run: StoredRun, last: Message, folded: Sequence[str], then: Callable[[], None]) -> None:
        """The turn came to its own end."""
        await self._write(
            run,
            lambda transaction: self._scribe.complete(transaction, run, last, folded),
            lambda transaction: self._full(transaction, run, folded),
            then,
        )

    async def closed(
        self,
        run: StoredRun,
        verdict: Outcome,
        remains: UnwrittenRows,
        folded: Sequence[str],
        then: Callable[[], None],
    ) -> None:
        """The turn failed, was cancelled, or never began."""
        await self._write(
            run,
            lambda transaction: self._scribe.close(transaction, run, verdict, remains, folded),
            lambda transaction: self._full(transaction, run, folded),
            then,
        )

    async def dropped(self, run: StoredRun, verdict: Outcome, then: Callable[[], None]) -> None:
        """Taken from the queue."""
        await self._write(
            run,
            lambda transaction: self._scribe.drop(transaction, run, verdict),
            lambda transaction: self._scribe.drop(transaction, run, verdict),
            then,
        )

    def _full(self, transaction: Transaction, run: StoredRun, folded: Sequence[str]) -> None:
        """The shortest end there is, for a disk that takes no more: what is stored of the turn stays as it is."""
        details = "the disk is full, so the last part of the answer could not be stored"
        verdict = Outcome("failed", cause="storage", title="Storage full", details=details)
        stored = runs.get(transaction.connection, run.id)
        message_id = stored.message_id if stored is not None else ""
        self._scribe.cut(transaction, run, verdict, message_id, folded)

    async def _write(
        self,
        run: StoredRun,
        job: Callable[[Transaction], None],
        short: Callable[[Transaction], None],
        then: Callable[[], None],
    ) -> None:
        jobs = [job, *([job] * (_BUSY_ATTEMPTS - 1)), short]
        while True:
            try:
                await self._database.write(jobs[0], then=lambda _: then(), is_ending=True)
                return
            except LimitReached as error:
                self._log.error("disk is full at the end of a run", extra=fields(run=run.id, session=run.session_id))
                failure: BulkheadError = error
                jobs = jobs[-1:] if len(jobs) > 1 else []
            except BulkheadError as error:
                failure = error
                jobs = jobs[1:] if error.code == "storage_busy" else []
            if not jobs:
                self._log.error("end of a run not stored", extra=fields(run=run.id, error=failure.message))
                self._on_stuck(failure)
                raise failure
