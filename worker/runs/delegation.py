"""Run a prompt on behalf of another run: a child session, an accepted run in it, and its last answer.

The run ends with its caller: a cancel of the caller cancels it, and the death of the worker interrupts both.
"""

from protocol.api.session import Session
from protocol.base.clock import Clock
from protocol.errors import BulkheadError
from worker.agent.message_draft import finish_of, text_of
from worker.runs import message_rows
from worker.runs.dispatcher import Dispatcher
from worker.runs.transcript import charge
from worker.store.database import Database, Transaction
from worker.store.tables import messages, sessions
from worker.toolkit.tool import ToolError
from worker.tools.session.agent import TaskKind

_END_TEXTS = {"failed": "failed", "cancelled": "was cancelled", "interrupted": "was interrupted"}


class Delegation:
    """Implements `Delegate` of the tools that start sub-agents.

    The tools are part of the turns that the dispatcher starts, so the dispatcher comes later, by `bind`.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._dispatcher: Dispatcher | None = None
        self._database = database
        self._clock = clock

    def bind(self, dispatcher: Dispatcher) -> None:
        """Use this dispatcher. Call once, before any turn runs."""
        self._dispatcher = dispatcher

    async def answer(self, *, parent_session_id: str, session_id: str, prompt: str, kind: TaskKind = "task") -> str:
        """Return the last answer of the sub-agent. Raises ToolError when its run failed or was cancelled."""
        assert self._dispatcher is not None, "bind() comes before the first turn"
        now = int(self._clock.wall())
        child = Session(
            id=session_id,
            parent_session_id=parent_session_id,
            title=message_rows.title_from(prompt),
            created_at=now,
            updated_at=now,
        )

        def create(transaction: Transaction) -> None:
            sessions.create(transaction.connection, child)
            transaction.emit(child, "created", session_id=session_id)

        try:
            await self._database.write(create)
            run = await self._dispatcher.delegate(session_id, prompt, kind, parent_session_id=parent_session_id)
        except BulkheadError as error:
            raise ToolError(f"cannot run the agent: {error.message}") from error
        finally:
            await self._charge(parent_session_id, session_id)
        row = await self._database.read(lambda connection: messages.get(connection, run.message_id))
        if run.outcome == "completed" and row is not None:
            return text_of(row)
        finish = finish_of(row) if row is not None else None
        why = f": {finish.message}. {finish.details}".rstrip(". ") if finish is not None and finish.message else ""
        raise ToolError(f"cannot use the agent's report: the agent {_END_TEXTS.get(run.outcome, 'was lost')}{why}")

    async def _charge(self, parent_session_id: str, session_id: str) -> None:
        """Add the cost of the sub-agent to the caller's session, also when its run failed (W-20, W-33)."""
        now = int(self._clock.wall())
        await self._database.write(lambda transaction: charge(transaction, parent_session_id, session_id, now))
