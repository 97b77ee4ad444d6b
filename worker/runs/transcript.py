"""Store the rows of one run while it works: forced writes with a numbered event, growing text in between.

A growing message is shown through the publisher, at its pace, and stored at most every `snapshot_store_s`, without an
event of its own: a killed worker loses at most that much of the text. What must not be lost (a new tool call, the end
of reasoning, a finish) is written before `update` returns, with a numbered event. The finish that ends the whole turn
is kept back: the run's end writes it, in the same transaction as the terminal event.

Order: the database takes jobs in the order of their submission, so a write of growing text can never overtake a later
forced one; and a growing message is not shown while a forced write of it is under way.
"""

import asyncio
from collections.abc import Callable

from msgspec.structs import replace

from protocol.api.agent import AgentEvent
from protocol.api.message import Message, ToolResultData
from protocol.api.session import Session
from protocol.errors import BulkheadError
from protocol.ids import new_uuid
from worker.agent.message_draft import MessageDraft, finish_of
from worker.agent.usage import Usage
from worker.runs import message_rows
from worker.runs.growing_message import GrowingMessage
from worker.runs.run_services import RunServices
from worker.store import rows
from worker.store.database import Transaction
from worker.store.rows import StoredRun
from worker.store.tables import messages, runs, sessions


class StoredTranscript:
    """Implement the agent's `Transcript` for one run."""

    def __init__(
        self,
        run: StoredRun,
        services: RunServices,
        *,
        take_merged: Callable[[], list[StoredRun]],
    ) -> None:
        """`take_merged` takes the prompts out of the queue that join this turn now."""
        self._run = run
        self._database = services.database
        self._publisher = services.publisher
        self._owner = services.owner
        self._limits = services.limits
        self._clock = services.clock
        self._random = services.random
        self._take_merged = take_merged
        self._growing: GrowingMessage | None = None  # the draft that was added to last
        self._is_unstored = False  # it has grown since it was submitted to the database
        self._stored_at = -1e9
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self.unstored_last: Message | None = None
        """The row that ends the turn, finished but not stored yet."""

    async def session(self) -> Session | None:
        """Return the session as it is stored now."""
        return await self._database.read(lambda connection: sessions.get(connection, self._run.session_id))

    async def create_assistant(self, *, model: str, provider: str, is_summary: bool = False) -> Message:
        """Store an empty assistant row and return it.

        From now on it is the run's last message, unless it is a summary after which the run continues.
        """
        await self._store_last()
        row = message_rows.assistant_row(
            row_id=new_uuid(self._random),
            session_id=self._run.session_id,
            model=model,
            provider=provider,
            now=self._now(),
        )
        if is_summary:
            row = replace(row, is_summary_message=True)

        def job(transaction: Transaction) -> None:
            self._create(transaction, row, self._run.id)
            if not is_summary or self._run.kind == rows.SUMMARY:
                runs.set_message(transaction.connection, self._run.id, row.id)

        await self._database.write(job)
        self._stored_at = self._clock.now()
        return row

    def grown(self, draft: MessageDraft) -> None:
        """Show and store the draft at the paces above. Raises storage errors of earlier writes."""
        self._raise_failure()
        growing = self._growing
        if growing is None or growing.draft is not draft:
            growing = self._growing = GrowingMessage(draft, run_id=self._run.id, clock=self._clock)
        self._publisher.grow(growing)
        self._is_unstored = True
        if self._timer is None:
            self._arm()

    async def update(self, message: Message) -> None:
        """Store this state of the row, unless it ends the turn. Raises storage errors, also of earlier writes."""
        self._raise_failure()
        finish = finish_of(message)
        message = replace(message, updated_at=self._now())
        self._drop_pending()
        if finish is not None and finish.reason != "tool_use":
            self.unstored_last = message
        else:
            await self._database.write(lambda transaction: self._change(transaction, message))
            self._stored_at = self._clock.now()

    async def discard(self, message: Message) -> None:
        """Delete a row that stayed without content, and notify clients."""
        self._drop_pending()

        def job(transaction: Transaction) -> None:
            forget(transaction, message, run_id=self._run.id, now=self._now())

        await self._database.write(job)

    async def summarized(self, message: Message) -> None:
        """Store a finished summary and let the conversation begin with it."""
        self._drop_pending()
        message = replace(message, updated_at=self._now())

        def job(transaction: Transaction) -> None:
            self._change(transaction, message)
            sessions.summarized(transaction.connection, message.session_id, message.id, self._now())
            session = sessions.get(transaction.connection, message.session_id)
            if session is not None:
                transaction.emit(session, "updated", session_id=session.id, run_id=self._run.id)

        await self._database.write(job)

    async def create_tool(self, result: ToolResultData) -> Message:
        """Store one tool row. A cancelled caller does not stop the write."""
        await self._store_last()
        row = message_rows.tool_row(
            row_id=new_uuid(self._random), session_id=self._run.session_id, result=result, now=self._now()
        )
        await self._database.write(lambda transaction: self._create(transaction, row, self._run.id))
        return row

    async def merge_queued(self) -> list[Message]:
        """Store user rows for the prompts that join this turn now, and return them."""
        merged = self._take_merged()
        if not merged:
            return []
        now = self._now()
        written = [
            message_rows.user_row(
                row_id=new_uuid(self._random),
                session_id=run.session_id,
                prompt=run.prompt,
                attachments=run.attachments,
                now=now,
            )
            for run in merged
        ]

        def job(transaction: Transaction) -> None:
            for run, row in zip(merged, written, strict=True):
                runs.start(transaction.connection, run.id, self._now_ms(), self._run.id)
                self._create(transaction, row, run.id)

        await self._database.write(job)
        return written

    async def account(self, usage: Usage) -> None:
        """Add the usage of one attempt to the session, and notify clients."""
        session_id = self._run.session_id

        def job(transaction: Transaction) -> None:
            account(transaction, session_id, usage, self._now())

        await self._database.write(job)

    async def agent_event(self, event: AgentEvent) -> None:
        """Send clients an event that is not a message."""
        event = replace(event, run_id=event.run_id or self._run.id, session_id=event.session_id or self._run.session_id)

        def job(transaction: Transaction) -> None:
            transaction.emit(event, session_id=event.session_id, run_id=event.run_id, key=event.type)

        await self._database.write(job)

    async def flush(self) -> None:
        """Show and store the growing message as it is now: before the conversation is read, and at the end."""
        self._publisher.hurry()
        if self._is_unstored:
            self._cancel_timer()
            self._store()
        if self._writing is not None:
            await asyncio.wait({self._writing})

    def close(self) -> None:
        """Stop showing and storing, because the run is about to end."""
        self._drop_pending()
        self._failure = None

    # --- growing text -----------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        """Schedule the next write: after the interval, or after the write under way (W-24)."""
        if self._timer is None and self._writing is None and self._is_unstored:
            wait_s = self._stored_at + self._store_interval_s() - self._clock.now()
            self._timer = asyncio.get_running_loop().call_later(max(0.0, wait_s), self._due)

    def _store_interval_s(self) -> float:
        """Return the time between two writes. Each write is a whole message, so long ones are written less often."""
        size = self._growing.draft.size if self._growing is not None else 0
        return max(self._limits.snapshot_store_s, size / self._limits.snapshot_bytes_per_s)

    def _due(self) -> None:
        self._timer = None
        self._store()

    def _store(self) -> None:
        assert self._growing is not None
        self._is_unstored = False
        self._stored_at = self._clock.now()
        message = replace(self._growing.draft.snapshot(), updated_at=self._now())
        # Submitted here and not in the task, so that it cannot overtake a forced write that follows.
        try:
            posted = self._database.post(lambda transaction: messages.change(transaction.connection, message))
        except BulkheadError as error:
            self._failure = error
            return
        self._writing = self._owner.start(self._finish_store(posted), f"snapshot-{message.id}")

    async def _finish_store(self, posted: "asyncio.Future[None]") -> None:
        try:
            await self._database.finish(posted)
        except Exception as error:  # raised at the turn's next update, so that it ends visibly (W-28)
            self._failure = error
        finally:
            if self._writing is asyncio.current_task():  # a later flush may have replaced it
                self._writing = None
        self._arm()

    def _drop_pending(self) -> None:
        self._cancel_timer()
        self._is_unstored = False
        if self._growing is not None:
            self._publisher.withdraw(self._growing.key)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- helpers ----------------------------------------------------------------------------------------------------

    async def _store_last(self) -> None:
        """Store the row that seemed to end the turn as an ordinary one, because the turn continues."""
        self._raise_failure()
        message, self.unstored_last = self.unstored_last, None
        if message is not None:
            await self._database.write(lambda transaction: self._change(transaction, message))

    def _raise_failure(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _create(self, transaction: Transaction, row: Message, run_id: str) -> None:
        messages.create(transaction.connection, row, run_id=run_id)
        transaction.emit(row, "created", session_id=row.session_id, run_id=run_id, key=row.id)

    def _change(self, transaction: Transaction, message: Message) -> None:
        messages.change(transaction.connection, message)
        transaction.emit(message, "updated", session_id=message.session_id, run_id=self._run.id, key=message.id)

    def _now(self) -> int:
        return int(self._clock.wall())

    def _now_ms(self) -> int:
        return int(self._clock.wall() * 1000)


def forget(transaction: Transaction, message: Message, *, run_id: str, now: int) -> None:
    """Delete a message row and notify clients."""
    messages.remove(transaction.connection, message, now)
    without_parts = replace(message, parts=[])
    transaction.emit(without_parts, "deleted", session_id=message.session_id, run_id=run_id, key=message.id)


def account(transaction: Transaction, session_id: str, usage: Usage, now: int) -> None:
    """Add a usage to the session and send clients the new figures."""
    sessions.account(
        transaction.connection,
        session_id,
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        cost=usage.cost,
        now=now,
    )
    session = sessions.get(transaction.connection, session_id)
    if session is not None:
        transaction.emit(session, "updated", session_id=session_id)


def charge(transaction: Transaction, parent_session_id: str, session_id: str, now: int) -> None:
    """Add the cost of a sub-agent's session to that of its caller, and notify clients."""
    connection = transaction.connection
    child = sessions.get(connection, session_id)
    if child is None or not child.cost:
        return
    sessions.account(connection, parent_session_id, input_tokens=0, output_tokens=0, cost=child.cost, now=now)
    parent = sessions.get(connection, parent_session_id)
    if parent is not None:
        transaction.emit(parent, "updated", session_id=parent_session_id)
