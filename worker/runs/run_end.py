"""End runs: write the last message, the run's state and the terminal event in one transaction (P2).

Every end of a run is written here: that of its turn, a cancel on entry, a drop from the queue, recovery after a crash.
`EndWriter` writes into a transaction; `RunFinisher` hands it to the database, from the reserve when the disk is full,
and writes a shorter end when even that is not enough.
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
from worker.store import rows
from worker.store.database import Database, Transaction
from worker.store.rows import RequestState, StoredRun
from worker.store.tables import messages, permission_requests, runs, sessions

_BUSY_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended that did not complete. `cause` is a word for the run's row; title and details are for people."""

    kind: RunOutcome
    cause: str = ""
    title: str = ""
    details: str = ""

    @property
    def error(self) -> str:
        """The text of the terminal event; empty for a cancel, because a cancel is not an error."""
        if self.kind == "cancelled":
            return ""
        return f"{self.title}: {self.details}" if self.details else self.title

    @property
    def reason(self) -> FinishReason:
        """The finish reason of the run's last message."""
        return "canceled" if self.kind == "cancelled" else "error"

    @property
    def why_no_result(self) -> str:
        """The content of the result of each tool call that has none because of this."""
        match self.kind:
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
SESSION_DELETED = Outcome(
    "failed", cause="session_deleted", title="Session deleted", details="the session of this prompt does not exist"
)


@dataclass(frozen=True, slots=True)
class UnwrittenRows:
    """The state of a broken turn that is not stored: its open row, results without a row, usage not yet counted."""

    message: Message | None = None
    results: Sequence[ToolResultData] = ()
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class MessageAuthor:
    """The model to which a row is attributed that no model wrote."""

    model: str = ""
    provider: str = ""


@dataclass(frozen=True, slots=True)
class EndWriter:
    """Write ends into a transaction. A value: the same for running and for recovery."""

    clock: Clock
    random: RandomSource
    author: Callable[[], MessageAuthor] = field(default=MessageAuthor)

    def complete(self, transaction: Transaction, run: StoredRun, last: Message, merged: Sequence[str]) -> None:
        """Write the end of a turn that came to its own end. `last` is its finished row, not stored yet.

        The runs `merged` into it end with it.
        """
        if run.kind == rows.SUMMARY:
            self._summarized(transaction, run, last)
        elif sessions.exists(transaction.connection, run.session_id):
            self._change(transaction, run, last)
            failpoint_blocking("flush.mid")
            session = sessions.get(transaction.connection, run.session_id)
            title = session.title if session is not None else ""
            self._notify(transaction, run, AgentEvent(type="agent_finished", session_title=title))
        self._end(transaction, run, "completed", "", last.id, text_of(last), "", merged)

    def close(
        self,
        transaction: Transaction,
        run: StoredRun,
        outcome: Outcome,
        unwritten: UnwrittenRows = UnwrittenRows(),
        merged: Sequence[str] = (),
    ) -> None:
        """Write the end of a run that did not complete: close its open row and its open tool calls, or add a row that
        says what happened.

        A finished row is never written again (W-04). A run without a user row gets one, so that the history shows the
        prompt.
        """
        if run.kind == rows.SUMMARY:
            self._close_summary(transaction, run, outcome, unwritten)
            return
        connection = transaction.connection
        message_id = text = ""
        if sessions.exists(connection, run.session_id):
            written = messages.of_run(connection, run.session_id, run.id)
            if not any(row.role == "user" for row in written):
                self._create(transaction, run, self._user_row(run))
            last = self._close_rows(transaction, run, outcome, unwritten, written)
            message_id, text = last.id, text_of(last)
            failpoint_blocking("flush.mid")
            if unwritten.usage is not None:
                account(transaction, run.session_id, unwritten.usage, self._now())
        if outcome.error:
            self._notify(transaction, run, AgentEvent(type="error", error=outcome.error))
        self._end(transaction, run, outcome.kind, outcome.cause, message_id, text, outcome.error, merged)

    def _notify(self, transaction: Transaction, run: StoredRun, event: AgentEvent) -> None:
        """Emit an `agent_event` about the end of a run, unless the run works for another one, which reports itself."""
        if run.kind in rows.DELEGATED:
            return
        event = replace(event, session_id=run.session_id, run_id=run.id)
        transaction.emit(event, session_id=run.session_id, run_id=run.id, key=event.type)

    def _summarized(self, transaction: Transaction, run: StoredRun, last: Message) -> None:
        """Let the conversation begin with this row. No `agent_finished` event: the agent did not finish a prompt."""
        session_id = run.session_id
        if sessions.exists(transaction.connection, session_id):
            self._change(transaction, run, last)
            sessions.summarized(transaction.connection, session_id, last.id, self._now())
            self._emit_session(transaction, run)

    def _close_summary(
        self, transaction: Transaction, run: StoredRun, outcome: Outcome, unwritten: UnwrittenRows
    ) -> None:
        """Delete the row of an incomplete summary; when the model failed, keep the row and say there why."""
        connection = transaction.connection
        message_id = ""
        written = messages.of_run(connection, run.session_id, run.id)
        if outcome.kind == "failed" and written:
            message_id = self._close_rows(transaction, run, outcome, unwritten, written).id
        else:
            for row in written:
                forget(transaction, row, run_id=run.id, now=self._now())
        if unwritten.usage is not None and sessions.exists(connection, run.session_id):
            account(transaction, run.session_id, unwritten.usage, self._now())
        self._end(transaction, run, outcome.kind, outcome.cause, message_id, "", outcome.error, ())

    def _emit_session(self, transaction: Transaction, run: StoredRun) -> None:
        session = sessions.get(transaction.connection, run.session_id)
        if session is not None:
            transaction.emit(session, "updated", session_id=run.session_id, run_id=run.id)

    def drop(self, transaction: Transaction, run: StoredRun, outcome: Outcome = CANCELLED) -> None:
        """Write the end of a run that never had a turn: no messages."""
        self._end(transaction, run, outcome.kind, outcome.cause, "", "", outcome.error, ())

    def cut(
        self, transaction: Transaction, run: StoredRun, outcome: Outcome, message_id: str, merged: Sequence[str]
    ) -> None:
        """Write state and terminal event only."""
        self._end(transaction, run, outcome.kind, outcome.cause, message_id, "", outcome.error, merged)

    def _close_rows(
        self,
        transaction: Transaction,
        run: StoredRun,
        outcome: Outcome,
        unwritten: UnwrittenRows,
        written: Sequence[Message],
    ) -> Message:
        """Close what is open and return the run's last assistant row."""
        answered = {result.tool_call_id for row in written for result in results_of(row)}
        results = {result.tool_call_id: result for result in unwritten.results}
        newest: Message | None = None
        for row in written:
            if row.role != "assistant":
                continue
            if row.is_summary_message and run.kind != rows.SUMMARY:
                if finish_of(row) is None:  # an incomplete summary is of no use
                    forget(transaction, row, run_id=run.id, now=self._now())
                continue
            if unwritten.message is not None and unwritten.message.id == row.id:
                row = unwritten.message
                if finish_of(row) is not None:  # complete, and only its write is missing
                    self._change(transaction, run, row)
            newest = row
            if finish_of(row) is None:
                newest = close_message(row, outcome.reason, self._now(), title=outcome.title, details=outcome.details)
                self._change(transaction, run, newest)
            for call in calls_of(newest):
                if call.id not in answered:
                    result = results.get(call.id) or answers_for([call], outcome.why_no_result)[0]
                    answered.add(call.id)
                    self._create(transaction, run, self._tool_row(run, result))
        if newest is not None and (finish := finish_of(newest)) is not None and finish.reason == outcome.reason:
            return newest
        # No row is open: before the first step, or between two. The end gets a row of its own.
        author = self.author()
        row = message_rows.ended_row(
            row_id=new_uuid(self.random),
            session_id=run.session_id,
            model=author.model,
            provider=author.provider,
            reason=outcome.reason,
            title=outcome.title,
            details=outcome.details,
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
        merged: Sequence[str],
    ) -> None:
        """Write state and terminal event of the run and of those merged into it. An ended run stays as it is."""
        now_ms = int(self.clock.wall() * 1000)
        state = RequestState.VOID if outcome == "interrupted" else RequestState.CANCELLED
        permission_requests.end_of_run(transaction, run.id, state, f"its run ended: {cause or outcome}", now_ms)
        for run_id in (*merged, run.id):
            folded_into = run.id if run_id != run.id else ""
            ended = runs.end(
                transaction.connection,
                run_id,
                outcome=outcome,
                cause=cause,
                message_id=message_id,
                now_ms=now_ms,
                folded_into=folded_into,
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
    """Store the ends of runs. An end that cannot be written is fatal: the worker starts again from the file."""

    def __init__(
        self,
        *,
        database: Database,
        writer: EndWriter,
        log: logging.Logger,
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self._database = database
        self._writer = writer
        self._log = log
        self._on_fatal = on_fatal

    async def completed(
        self, run: StoredRun, last: Message, merged: Sequence[str], on_commit: Callable[[], None]
    ) -> None:
        """Store the end of a turn that came to its own end."""
        await self._write(
            run,
            lambda transaction: self._writer.complete(transaction, run, last, merged),
            lambda transaction: self._cut(transaction, run, merged),
            on_commit,
        )

    async def closed(
        self,
        run: StoredRun,
        outcome: Outcome,
        unwritten: UnwrittenRows,
        merged: Sequence[str],
        on_commit: Callable[[], None],
    ) -> None:
        """Store the end of a turn that failed, was cancelled, or never began."""
        await self._write(
            run,
            lambda transaction: self._writer.close(transaction, run, outcome, unwritten, merged),
            lambda transaction: self._cut(transaction, run, merged),
            on_commit,
        )

    async def dropped(self, run: StoredRun, outcome: Outcome, on_commit: Callable[[], None]) -> None:
        """Store the end of a run that was taken from the queue."""
        await self._write(
            run,
            lambda transaction: self._writer.drop(transaction, run, outcome),
            lambda transaction: self._writer.drop(transaction, run, outcome),
            on_commit,
        )

    def _cut(self, transaction: Transaction, run: StoredRun, merged: Sequence[str]) -> None:
        """Write the shortest end there is, for a full disk. The stored part of the turn stays as it is."""
        details = "the disk is full, so the last part of the answer could not be stored"
        outcome = Outcome("failed", cause="storage", title="Storage full", details=details)
        stored = runs.get(transaction.connection, run.id)
        message_id = stored.message_id if stored is not None else ""
        self._writer.cut(transaction, run, outcome, message_id, merged)

    async def _write(
        self,
        run: StoredRun,
        job: Callable[[Transaction], None],
        short: Callable[[Transaction], None],
        on_commit: Callable[[], None],
    ) -> None:
        jobs = [job, *([job] * (_BUSY_ATTEMPTS - 1)), short]
        while True:
            try:
                await self._database.write(jobs[0], on_commit=lambda _: on_commit(), is_ending=True)
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
                self._on_fatal(failure)
                raise failure
