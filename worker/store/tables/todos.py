"""Store the task lists of the tool `todos`."""

from collections.abc import Sequence

from protocol.api.session import Todo
from protocol.base.clock import Clock
from protocol.errors import NotFound
from worker.store.database import Database, Transaction
from worker.store.tables import sessions


class StoredTodos:
    """Keep each list in the row of its session."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def replace(self, session_id: str, todos: Sequence[Todo]) -> list[Todo]:
        """Store the new list, notify clients, and return the old one. Raises NotFound."""
        now = int(self._clock.wall())

        def job(transaction: Transaction) -> list[Todo]:
            connection = transaction.connection
            before = sessions.get(connection, session_id)
            if before is None:
                raise NotFound(f"cannot find session {session_id!r}", code="session_unknown")
            sessions.put(connection, session_id, title=None, cost=None, todos=list(todos), now=now)
            session = sessions.get(connection, session_id)
            assert session is not None
            transaction.emit(session, "updated", session_id=session_id)
            return before.todos

        return await self._database.write(job)
